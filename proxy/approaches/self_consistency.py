"""Self-consistency: sample chains of thought, vote on their answers.

Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou: Self-Consistency Improves Chain of Thought
Reasoning in Language Models, arXiv:2203.11171.

1. Sample m chains at once.
2. Parse the final answer from each; chains without one, or cut short, are void. Where the model
   calls tools, the calls are the answer. Chains that failed are drawn once more.
3. Return a chain of the largest class of equal answers, the shortest. In an ensemble a chain
   counts by the weight of the member that wrote it (not in the paper).

The vote is curtailed: as soon as it can no longer change, the samples in flight are cancelled
(``stop=off`` waits for them). The other rules draw in waves, for fewer samples on easy questions
and a little less accuracy on hard ones:

- ``beta``, ``dirichlet``: end once the leader is likely enough to be the majority (Aggarwal,
  Madaan, Yang, Mausam: Adaptive-Consistency, arXiv:2305.11860), against the runner-up alone or
  against all other answers. The paper draws one by one.
- ``esc``: end after a window of w samples that all agree (Li et al.: Early-Stopping
  Self-Consistency, arXiv:2401.10480).

With ``weights=confidence`` a chain counts by how probable the model found its own words, as in
CISC's baseline (Taubenfeld et al., arXiv:2502.06233; what they ask of the model itself costs
another call a chain). Where the upstream sends no log-probabilities it counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.llm import LLM, Range, Shape, UpstreamError, approach
from proxy.voting import beta_stop, confidence_weight, decided, dirichlet_stop, esc_stop


@approach(
    "self_consistency",
    paper="arXiv:2203.11171",
    shape=lambda o: Shape(
        calls=(_waves(o.samples, o.stop, o.window)[0], o.samples),
        rounds=(1, len(_waves(o.samples, o.stop, o.window))),
    ),
    handles={"tools", "parts", "formats"},
    use="Questions with one checkable answer: arithmetic, multiple choice, extraction.",
    roles=lambda _: ("proposer",),
)
async def self_consistency(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 64), "chains to draw"] = 5,
    stop: Annotated[
        Literal["curtail", "beta", "dirichlet", "esc", "off"],
        "end when the vote is decided, likely enough, unanimous for a window, or complete",
    ] = "curtail",
    confidence: Annotated[
        float, Range(0.5, 0.9999), "what stop=beta and stop=dirichlet call likely enough"
    ] = 0.95,
    window: Annotated[int, Range(2, 16), "samples in a window of stop=esc"] = 5,
    weights: Annotated[
        Literal["count", "confidence"], "a vote each, or by the probability of its tokens"
    ] = "count",
) -> Reply:
    """Sample chains of thought and return one from the largest class of equal answers."""
    asked = {"logprobs": True} if weights == "confidence" else {}
    classes = Classes(llm)
    drawn = failed = 0

    async def over(size: int, *, again: bool = False) -> bool:
        """Draw so many chains, ``again`` for others that failed; whether the vote is over."""
        nonlocal drawn, failed
        ballots: list[str | None] = []
        async with llm.sample(chat.messages, size, start=drawn, **asked) as landed:
            drawn += size
            async for reply in landed:
                weight = llm.weight(reply)
                if asked:
                    weight *= confidence_weight(_logprobs(reply))
                    if not chat.params.get("logprobs"):
                        reply = replace(reply, logprobs=None)
                ballots.append(await classes.add(reply, weight))
                llm.keep(classes.best)
                leading, second = classes.top_two
                if leading > 1:
                    llm.note(f"{leading} of {samples} samples agree")
                to_come = samples - classes.ballots - (len(landed.failed) if again else 0)
                if stop != "off" and decided(classes.votes, to_come * llm.heaviest):
                    return True
                if stop == "beta" and beta_stop(leading, second, confidence):
                    return True
                if stop == "dirichlet" and dirichlet_stop(classes.counts, confidence):
                    return True
            failed += len(landed.failed)
        return stop == "esc" and len(ballots) == size and esc_stop(ballots)

    try:
        for size in _waves(samples, stop, window):
            if await over(size):
                return classes.elect()
        if failed:
            await over(failed, again=True)
    except UpstreamError:
        # Nobody answers any more: those who have decide.
        if not classes.ballots:
            raise
    return classes.elect()


def _waves(samples: int, stop: str, window: int) -> list[int]:
    """How many samples are drawn at once.

    All; or windows; or 4, as 4 equal ones can do, and then half of what there is and at least 3,
    which a dissenter among 4 calls for, fewer than 3 being no round of their own. With 40 samples
    of which 4 in 5 are right that costs 9.4 on average in 2.4 rounds; one by one costs 8.7.
    """
    if stop in ("curtail", "off"):
        return [samples]
    waves = [min(window if stop == "esc" else 4, samples)]
    while left := samples - sum(waves):
        wanted = window if stop == "esc" else max(3, sum(waves) // 2)
        last = left <= wanted or (stop != "esc" and left < wanted + 3)
        waves.append(left if last else wanted)
    return waves


def _logprobs(reply: Reply) -> list[float]:
    """The log-probabilities of the reply's tokens, where they came."""
    content = reply.logprobs.get("content") if isinstance(reply.logprobs, Mapping) else None
    found = [entry.get("logprob") for entry in content or () if isinstance(entry, Mapping)]
    return [value for value in found if isinstance(value, int | float)]
