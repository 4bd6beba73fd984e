"""Self-consistency: sample chains of thought, vote on their answers.

Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou: Self-Consistency Improves Chain of Thought
Reasoning in Language Models, arXiv:2203.11171.

1. Sample m chains at once.
2. Parse the final answer from each; chains without one, or cut short, are void.
3. Return a chain of the largest class of equal answers, the shortest. In an ensemble a chain
   counts by the weight of the member that wrote it (not in the paper).

The vote is curtailed: as soon as it can no longer change, the samples in flight are cancelled.
With ``stop=beta`` the samples come in waves and end once the leader is likely enough to be the
majority (Aggarwal, Madaan, Yang, Mausam: Adaptive-Consistency, arXiv:2305.11860, Beta criterion):
fewer samples on easy questions, a little less accuracy on hard ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

from proxy.answers import extract, normalise, worth_comparing
from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, approach
from proxy.voting import Tally, beta_stop, decided


@approach(
    "self_consistency",
    paper="arXiv:2203.11171",
    shape=lambda o: Shape(
        calls=(_waves(o.samples, o.stop)[0], o.samples),
        rounds=(1, len(_waves(o.samples, o.stop))),
    ),
    use="Questions with one checkable answer: arithmetic, multiple choice, extraction.",
    roles=lambda _: ("proposer",),
)
async def self_consistency(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 64), "chains to draw"] = 5,
    stop: Annotated[
        Literal["curtail", "beta"], "end when the vote is decided, or when it is likely enough"
    ] = "curtail",
    confidence: Annotated[float, Range(0.5, 0.9999), "what stop=beta calls likely enough"] = 0.95,
) -> Reply:
    """Sample chains of thought and return one from the largest class of equal answers."""
    votes: Tally[str] = Tally()
    members: dict[str, list[Reply]] = {}
    void: list[Reply] = []
    drawn = failed = 0
    for size in _waves(samples, stop):
        async with llm.sample(chat.messages, size, start=drawn) as landed:
            drawn += size
            async for reply in landed:
                answer = None if reply.truncated else extract(reply.text)
                if answer is None:
                    void.append(reply)
                else:
                    key = await _class_of(llm, normalise(answer), members)
                    members.setdefault(key, []).append(reply)
                    votes.add(key, llm.weight(reply))
                llm.keep(_representative(votes, members, void))
                leading, second = _top_two(votes, members)
                if leading > 1:
                    llm.note(f"{leading} of {samples} samples agree")
                ballots = len(void) + sum(map(len, members.values())) + failed + len(landed.failed)
                if decided(votes, remaining=(samples - ballots) * llm.heaviest):
                    return _representative(votes, members, void)
                if stop == "beta" and beta_stop(leading, second, confidence):
                    return _representative(votes, members, void)
            failed += len(landed.failed)
    return _representative(votes, members, void)


def _waves(samples: int, stop: str) -> list[int]:
    """How many samples are drawn at once: all, or 4, 4, 8, 16, ... since 4 equal ones can do."""
    if stop == "curtail":
        return [samples]
    waves = [min(4, samples)]
    while (drawn := sum(waves)) < samples:
        waves.append(min(drawn, samples - drawn))
    return waves


async def _class_of(llm: LLM, answer: str, members: dict[str, list[Reply]]) -> str:
    """The class that ``answer`` belongs to: its own, unless it equals another symbolically."""
    if answer in members:
        return answer
    for known in members:
        if worth_comparing(answer, known) and await llm.equal(answer, known):
            return known
    return answer


def _top_two(votes: Tally[str], members: dict[str, list[Reply]]) -> tuple[int, int]:
    """How many chains the leading class has, and the largest of the others."""
    others = (len(replies) for key, replies in members.items() if key != votes.leader)
    return len(members.get(votes.leader or "", ())), max(others, default=0)


def _representative(votes: Tally[str], members: dict[str, list[Reply]], void: list[Reply]) -> Reply:
    """The shortest reply of the leading class; without a vote, a complete one if there is."""
    if votes.leader is None:
        return min(void, key=lambda reply: reply.truncated)
    return min(members[votes.leader], key=lambda reply: len(reply.text))
