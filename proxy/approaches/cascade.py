"""Cascade: a few cheap samples; where they do not agree, somebody who knows better.

Chen, Zaharia, Zou: FrugalGPT, arXiv:2305.05176, with the agreement of samples in place of a
trained scorer (Yue et al.: Large Language Model Cascades with Mixture of Thoughts Representations,
arXiv:2310.03094).

1. The ensemble's proposer answers m times at once.
2. If all m come to one answer, that is the answer.
3. Else the aggregator, the strong member of an ensemble, writes it: with the samples in view
   (``escalate=moa``, mixture of agents without its critic) or by itself, as in the papers
   (``escalate=none``). It streams. A sample that failed or states no answer agrees with nobody; it
   is not drawn again, the aggregator being the better use of a call.
"""

from __future__ import annotations

from typing import Annotated, Literal

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.llm import LLM, Range, Shape, UpstreamError, approach


@approach(
    "cascade",
    paper="arXiv:2305.05176",
    shape=lambda o: Shape(calls=(o.samples, o.samples + 1), rounds=(1, 2)),
    handles={"tools", "parts", "formats"},
    use="Traffic of mixed difficulty: cheap samples where they agree, a strong model behind them.",
    roles=lambda _: ("proposer", "aggregator"),
)
async def cascade(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(2, 8), "cheap samples that have to agree"] = 3,
    escalate: Annotated[
        Literal["moa", "none"], "who takes over sees the samples, or only the question"
    ] = "moa",
) -> Reply:
    """Return what cheap samples agree on, else have the strong member answer."""
    classes = Classes(llm)
    replies: list[Reply] = []
    try:
        async with llm.sample(chat.messages, samples, reserve=1) as landed:
            async for reply in landed:
                replies.append(reply)
                await classes.add(reply)
                llm.keep(classes.best)
    except UpstreamError:
        # A chat that is too long for the cheap member, say, may fit the strong one.
        return await llm.run("none", chat, tail=True)
    if len(replies) == samples and len(classes.members) == 1 and not classes.void:
        return classes.elect()
    agreeing = f"{classes.top_two[0]} of {samples} samples agree"
    llm.note(agreeing)
    llm.decide("check", ((reply, None) for reply in replies), None, f"{agreeing}: not enough")
    if escalate == "none":
        return await llm.run("none", chat, tail=True)
    # The first is the answer where the aggregator fails.
    best = classes.best
    given = [best, *(reply for reply in replies if reply is not best)]
    return await llm.run("moa", chat, tail=True, given=given, samples=len(given), critique=False)
