"""DeepConf: votes weighed by confidence, and traces cancelled where their confidence sinks.

Fu, Wang, Tian, Zhao: Deep Think with Confidence, arXiv:2508.15260; the online variant, over any
upstream that streams log-probabilities.

1. Sample warm-up traces. A trace is as confident as its least confident group of tokens.
2. If nearly all of the weight is on one answer, return it.
3. The threshold is the confidence that the best tenth of the warm-up (variant low) or the best
   nine tenths (variant high) reach.
4. Stream the other traces side by side; the moment a group of one falls below the threshold, its
   connection is closed: the upstream stops generating it.
5. Every finished trace votes with its confidence; return the shortest of the heaviest answer.

Deviations: groups are of a quarter of the usual warm-up trace at most, since the paper's 2048
tokens are more than many a trace has; all traces of the warm-up vote, which is small here. Where
the upstream gives no log-probabilities, all votes are equal and nothing is cancelled.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Annotated, Any, Literal

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.confidence import GroupConfidence, lowest_group, percentile, token_confidences
from proxy.drawing import draw
from proxy.llm import LLM, Range, Shape, UpstreamError, approach


@approach(
    "deepconf",
    paper="arXiv:2508.15260",
    shape=lambda o: Shape(
        calls=(min(o.warmup, o.samples), o.samples),
        rounds=(1, 1 + (o.samples > o.warmup)),
    ),
    aliases={
        "warmup_samples": "warmup",
        "max_traces": "samples",
        "window_size": "window",
        "consensus_threshold": "consensus",
    },
    use="Long chains of thought, where an upstream tells log-probabilities: fewer tokens.",
    roles=lambda _: ("proposer",),
)
async def deepconf(
    chat: Chat,
    llm: LLM,
    *,
    variant: Annotated[
        Literal["low", "high"], "go on with traces like the best tenth, or the best nine tenths"
    ] = "low",
    warmup: Annotated[int, Range(2, 64), "traces that set the threshold"] = 8,
    samples: Annotated[int, Range(1, 128), "traces, those of the warm-up included"] = 16,
    window: Annotated[int, Range(1, 32768), "most tokens of a group"] = 2048,
    consensus: Annotated[float, Range(0.5, 1.0), "share of the weight that ends it"] = 0.95,
) -> Reply:
    """Vote by confidence, cancelling traces in mid-stream that are not confident enough."""
    first = min(warmup, samples)
    traces = await draw(
        llm,
        llm.sample(chat.messages, first, **_ASKED),
        lambda lost: llm.sample(chat.messages, lost, start=samples, **_ASKED),
    )
    confidences = [list(token_confidences(trace.logprobs)) for trace in traces]
    told = all(confidences)
    if not told:
        llm.note("no log-probabilities: all votes are equal")
    window = max(1, min(window, int(median(map(len, confidences)) / 4)))
    lowest = [lowest_group(each, window) or 0.0 for each in confidences]
    classes = Classes(llm)
    for trace, confidence in zip(traces, lowest, strict=True):
        await classes.add(_shown(chat, trace), confidence if told else None)
    llm.keep(classes.best)
    threshold = percentile(lowest, _SHARES[variant]) if told else None

    async def traced(nth: int) -> tuple[Reply, float | None] | None:
        """The trace and its confidence; None where it was cancelled, or said nothing."""
        group = GroupConfidence(window)
        async with llm.stream(chat.messages, nth=nth, **_ASKED) as reading:
            async for delta in reading:
                for confidence in token_confidences(delta.logprobs):
                    mean = group.add(confidence)
                    if threshold is not None and mean is not None and mean < threshold:
                        return None
            reply = reading.reply
        return None if reply.empty else (reply, group.lowest)

    cancelled = 0
    if _share(classes) < consensus and llm.time_for(1):
        try:
            async with llm.fan(traced(nth) for nth in range(first, samples)) as landed:
                async for found in landed:
                    if found is None:
                        cancelled += 1
                        llm.note(f"{cancelled} traces cancelled")
                        continue
                    await classes.add(_shown(chat, found[0]), found[1] if told else None)
                    llm.keep(classes.best)
                    if _share(classes) >= consensus:
                        break
        except UpstreamError:
            pass
    return classes.elect()


def _share(classes: Classes) -> float:
    """Of all weight, that of the heaviest answer."""
    total = sum(classes.votes.counts.values())
    return classes.votes.top_two[0] / total if total else 0.0


def _shown(chat: Chat, reply: Reply) -> Reply:
    """Without log-probabilities, unless the client has asked for them."""
    return reply if chat.params.get("logprobs") else replace(reply, logprobs=None)


#: What OpenAI and vLLM tell at most.
_ASKED: dict[str, Any] = {"logprobs": True, "top_logprobs": 20}
_SHARES = {"low": 0.9, "high": 0.1}
