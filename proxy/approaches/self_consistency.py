"""Self-consistency: sample chains of thought, vote on their answers.

Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou: Self-Consistency Improves Chain of Thought
Reasoning in Language Models, arXiv:2203.11171.

1. Sample m chains at once.
2. Parse the final answer from each; chains without one, or cut short, are void.
3. Return a chain of the largest class of equal answers, the shortest.

The vote is curtailed: as soon as it can no longer change, the samples in flight are cancelled.
"""

from __future__ import annotations

from typing import Annotated

from proxy.answers import extract, normalise, worth_comparing
from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, approach
from proxy.voting import Tally, decided


@approach(
    "self_consistency",
    paper="arXiv:2203.11171",
    shape=lambda o: Shape(calls=o.samples, rounds=1),
    use="Questions with one checkable answer: arithmetic, multiple choice, extraction.",
)
async def self_consistency(
    chat: Chat, llm: LLM, *, samples: Annotated[int, Range(1, 64), "chains to draw"] = 5
) -> Reply:
    """Sample chains of thought and return one from the largest class of equal answers."""
    votes: Tally[str] = Tally()
    members: dict[str, list[Reply]] = {}
    void: list[Reply] = []
    async with llm.sample(chat.messages, samples) as landed:
        async for reply in landed:
            answer = None if reply.truncated else extract(reply.text)
            if answer is None:
                void.append(reply)
                llm.keep(_representative(votes, members, void))
                continue
            key = await _class_of(llm, normalise(answer), members)
            members.setdefault(key, []).append(reply)
            votes.add(key)
            llm.keep(_representative(votes, members, void))
            ballots = len(void) + sum(map(len, members.values())) + len(landed.failed)
            if decided(votes, remaining=samples - ballots):
                break
    if votes.leader is not None:
        llm.note(f"{len(members[votes.leader])} of {samples} samples agree")
    return _representative(votes, members, void)


async def _class_of(llm: LLM, answer: str, members: dict[str, list[Reply]]) -> str:
    """The class that ``answer`` belongs to: its own, unless it equals another symbolically."""
    if answer in members:
        return answer
    for known in members:
        if worth_comparing(answer, known) and await llm.equal(answer, known):
            return known
    return answer


def _representative(votes: Tally[str], members: dict[str, list[Reply]], void: list[Reply]) -> Reply:
    """The shortest reply of the leading class; without a vote, a complete one if there is."""
    if votes.leader is None:
        return min(void, key=lambda reply: reply.truncated)
    return min(members[votes.leader], key=lambda reply: len(reply.text))
