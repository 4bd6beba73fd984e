"""Majority voting: self-consistency with more samples, as the peer's plugin of this name.

Wang et al.: Self-Consistency Improves Chain of Thought Reasoning in Language Models,
arXiv:2203.11171. The steps are those of ``self_consistency``, whose vote is curtailed: k samples at
once, the answer taken out of each, the largest class of equal answers wins.

The plugin counts a sample that states no answer as a vote for its whole text, and asks at
temperature 0.6 where the client names none. Here such a sample is void, and the client's
parameters are sent as they are.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, approach


@approach(
    "majority_voting",
    paper="arXiv:2203.11171",
    shape=lambda o: Shape(calls=o.samples, rounds=1),
    aliases={"k": "samples"},
    handles={"tools", "parts", "formats"},
    use="As self_consistency, where more samples are worth their price.",
    roles=lambda _: ("proposer",),
)
async def majority_voting(
    chat: Chat, llm: LLM, *, samples: Annotated[int, Range(1, 64), "answers to draw"] = 8
) -> Reply:
    """Sample answers and return one from the largest class of equal ones."""
    return await llm.run("self_consistency", chat, tail=True, samples=samples)
