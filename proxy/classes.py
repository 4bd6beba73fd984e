"""Replies by the answer that they come to, and the vote among those answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from proxy.answers import extract, normalise, tool_call_key, worth_comparing
from proxy.chat import Reply
from proxy.llm import LLM
from proxy.voting import Tally


@dataclass(slots=True)
class Classes:
    """Classes of equal answers, in the order of their first reply.

    Two answers are equal where they normalise to the same text, or are the same expression
    (`LLM.equal`). Replies that call tools are classed by their calls, which are never compared
    with text, and those whose answer is a program by its text: the last number of a program is no
    answer. A reply without an answer, or cut short, is void: it has no class and no vote.
    """

    llm: LLM
    votes: Tally[str] = field(default_factory=Tally)
    members: dict[str, list[Reply]] = field(default_factory=dict)
    void: list[Reply] = field(default_factory=list)

    async def add(self, reply: Reply, weight: float | None = None) -> str | None:
        """The class of ``reply``, now with its vote; None where it is void.

        ``weight`` is that of the vote; the weight of its author in an ensemble where it is None.
        """
        answer = self._answer(reply)
        if answer is None:
            self.void.append(reply)
            return None
        key = await self._key(answer)
        self.members.setdefault(key, []).append(reply)
        self.votes.add(key, self.llm.weight(reply) if weight is None else weight)
        return key

    @property
    def ballots(self) -> int:
        """How many replies there are, void ones included."""
        return len(self.void) + sum(map(len, self.members.values()))

    @property
    def unanimous(self) -> bool:
        """Whether all replies came to one answer; those without any agree if they say the same."""
        if self.members:
            return len(self.members) == 1 and not self.void
        return len({reply.rendered for reply in self.void}) == 1

    @property
    def programs(self) -> list[Reply]:
        """The replies whose answer is a program."""
        keys = (key for key in self.members if key.startswith(_PROGRAM))
        return [reply for key in keys for reply in self.members[key]]

    @property
    def counts(self) -> list[int]:
        """How many replies each class has, the leading one first."""
        keys = sorted(self.members, key=lambda key: key != self.votes.leader)
        return [len(self.members[key]) for key in keys]

    @property
    def top_two(self) -> tuple[int, int]:
        """How many replies the leading class has, and the largest of the others."""
        leading, *others = self.counts or [0]
        return leading, max(others, default=0)

    @property
    def best(self) -> Reply:
        """The shortest reply of the leading class; without a vote, a complete one if there is.

        Raises `ValueError` where no reply has been added.
        """
        if self.votes.leader is None:
            return min(self.void, key=lambda reply: reply.truncated)
        return min(self.members[self.votes.leader], key=lambda reply: len(reply.text))

    def elect(self) -> Reply:
        """The best reply, with the vote that elected it told to the trace."""
        leader = self.votes.leader
        if leader is None:
            places = range(len(self.void))
            first = min(places, key=lambda place: self.void[place].truncated)
            void = ((reply, None) for reply in self.void)
            self.llm.decide("vote", void, first, "none of them states an answer to count")
            return self.best
        why = f"{len(self.members[leader])} of {self.ballots} agree"
        counts = self.votes.counts
        votes = ((key.lstrip(_CALLS + _PROGRAM), weight) for key, weight in counts.items())
        self.llm.decide("vote", votes, list(counts).index(leader), why)
        return self.best

    def _answer(self, reply: Reply) -> str | None:
        if reply.truncated:
            return None
        if reply.tool_calls:
            return f"{_CALLS}{tool_call_key(reply.tool_calls)}"
        program = _program(reply.rendered)
        if program is not None:
            return f"{_PROGRAM}{program}"
        answer = extract(reply.text)
        return None if answer is None else normalise(answer)

    async def _key(self, answer: str) -> str:
        """The class that ``answer`` belongs to: its own, unless it equals another symbolically."""
        if answer in self.members or answer.startswith((_CALLS, _PROGRAM)):
            return answer
        for known in self.members:
            if worth_comparing(answer, known) and await self.llm.equal(answer, known):
                return known
        return answer


def _program(text: str) -> str | None:
    """The code that ``text`` gives for an answer; None where it marks something else as one."""
    blocks = [body for language, body in _FENCED.findall(text) if language.lower() != "json"]
    if not blocks or _MARKED.search(_FENCED.sub("", text)):
        return None
    return "\n".join(line.rstrip() for block in blocks for line in block.splitlines() if line)


#: In front of the keys of tool calls and programs; no text normalises to what begins so.
_CALLS = "\0"
_PROGRAM = "\1"
_FENCED = re.compile(r"^```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_MARKED = re.compile(r"\\boxed\b|<(?:final_)?answer\b|\b(?:the|final) answer\b", re.IGNORECASE)
