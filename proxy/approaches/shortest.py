"""Short-m@k: of k chains side by side, the first m to finish vote.

Hassid, Synnaeve, Adi, Schwartz: Don't Overthink it. Preferring Shorter Thinking Chains for Improved
LLM Reasoning, arXiv:2505.17813. A reasoning model's shorter chains are right more often than its
longer ones, and there sooner.

1. Start k chains at once.
2. When m have finished, cancel the others. (The paper stops them when m have finished thinking;
   here when m have finished their answers, which asks nothing of the upstream.) One that failed
   or was cut short has not finished.
3. Return a chain of the largest class of equal answers among the m; of equals, the one that was
   there first. As soon as the vote can no longer change, nobody is waited for.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.llm import LLM, Range, Shape, approach
from proxy.voting import decided


@approach(
    "shortest",
    paper="arXiv:2505.17813",
    shape=lambda o: Shape(calls=o.samples, rounds=1),
    aliases={"k": "samples", "m": "first"},
    use="Models that think before they answer: faster than one call, and more often right.",
    roles=lambda _: ("proposer",),
)
async def shortest(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 64), "chains to start"] = 5,
    first: Annotated[int, Range(1, 64), "chains that vote: the first to finish"] = 3,
) -> Reply:
    """Start several chains and return what the first few to finish agree on."""
    classes = Classes(llm)
    awaited = first
    async with llm.sample(chat.messages, samples) as landed:
        async for reply in landed:
            await classes.add(reply)
            llm.keep(classes.best)
            awaited -= not reply.truncated
            if decided(classes.votes, awaited * llm.heaviest):
                break
    return classes.elect()
