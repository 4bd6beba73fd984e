"""Answers that are rated with remarks, and answered again from these remarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.answers import score
from proxy.chat import Chat, Message, Reply
from proxy.llm import LLM, UpstreamError


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer, its score from 0 to 1 and what the judge remarked: None and '' without judge."""

    reply: Reply
    score: float | None = None
    remarks: str = ""

    @property
    def worth(self) -> tuple[bool, float]:
        """What answers are compared by: complete before truncated, rated before unrated."""
        return not self.reply.truncated, -1.0 if self.score is None else self.score


@dataclass(slots=True)
class Refining:
    """Draws, rates and revises answers to one conversation; keeps the best so far."""

    chat: Chat
    llm: LLM
    best: Rated | None = None
    seen: list[Rated] = field(default_factory=list)

    async def fresh(self, nth: int | None = None) -> Rated:
        """A new answer, rated: two rounds. Raises `UpstreamError` where there is none."""
        return await self._rated(await drawn(self.llm, self.chat.messages, nth))

    async def revised(self, attempts: Sequence[Rated], nth: int | None = None) -> Rated:
        """An answer made from earlier ones and the remarks on them, rated: two rounds."""
        shown = "\n\n".join(
            _ATTEMPT.format(number=number, text=attempt.reply.rendered)
            + (_REMARKS.format(text=attempt.remarks) if attempt.remarks else "")
            for number, attempt in enumerate(attempts, start=1)
        )
        messages = self.chat.followed_by(_REVISE.format(attempts=shown))
        return await self._rated(await drawn(self.llm, messages, nth))

    def chosen(self) -> Reply:
        """The best so far, with the ratings told to the trace; there must be one."""
        assert self.best is not None, "nothing has been written"
        decide_by_rating(self.llm, self.seen, self.best)
        return self.best.reply

    async def _rated(self, reply: Reply) -> Rated:
        if self.best is None and not reply.truncated:
            # Better than nothing, should time run out before the first rating.
            self.llm.keep(reply)
        rated = await rate(self.chat, self.llm, reply)
        self.seen.append(rated)
        if self.best is None or rated.worth > self.best.worth:
            self.best = rated
            self.llm.keep(reply)
        return rated


def decide_by_rating(llm: LLM, seen: Sequence[Rated], best: Rated, why: str = "") -> None:
    """Tell the trace that ``best`` is the answer, of those ``seen``; ratings from 0 to 10."""
    ratings = [None if each.score is None else round(10 * each.score, 2) for each in seen]
    winner = next(place for place, each in enumerate(seen) if each is best)
    rated = ratings[winner]
    why = why or ("nobody rated it" if rated is None else f"rated {rated:g}, the highest")
    candidates = ((each.reply, rating) for each, rating in zip(seen, ratings, strict=True))
    llm.decide("rating", candidates, winner, why)


async def drawn(
    llm: LLM, messages: Sequence[Message], nth: int | None = None, **params: Any
) -> Reply:
    """An answer; a second one, with another seed, where the first fails."""
    try:
        return await llm.answer(messages, nth=nth, **params)
    except UpstreamError:
        return await llm.answer(messages, nth=_SPARE + (nth or 0), **params)


async def rate(chat: Chat, llm: LLM, reply: Reply) -> Rated:
    """``reply`` with the judge's score and remarks; without them where the judge fails."""
    messages = chat.followed_by(_RATE.format(candidate=reply.rendered))
    judge = llm.role("judge", not_model=reply.model)
    try:
        said = await judge.ask(messages, temperature=0, max_tokens=_JUDGE_TOKENS)
    except UpstreamError:
        return Rated(reply)
    rating = score(said.text)
    # Remarks of a judge that was cut short, or knows no score, may be about anything.
    return Rated(reply) if rating is None else Rated(reply, rating / 10, said.rendered)


#: Enough to reason at length before the number.
_JUDGE_TOKENS = 4096
#: Beyond the number of any answer that is drawn the first time. A prime, so that it moves the turn
#: to another proposer, however many there are.
_SPARE = 499

_RATE = """\
Do not answer the message above. This is a candidate answer to it:

<candidate>
{candidate}
</candidate>

Check it as an examiner would, with the instructions of this conversation in mind: follow each \
step, recompute each number, look for what was asked and is missing. Name each mistake and how to \
mend it. Then end with one line, 0 for worthless and 10 for flawless:
Score: [0-10]"""

_ATTEMPT = """\
<candidate number="{number}">
{text}
</candidate>"""

_REMARKS = """
<remarks>
{text}
</remarks>"""

_REVISE = """\
The message above has been answered before, and an examiner has remarked on it:

{attempts}

Answer the message again, in full and better. Mend what the remarks are right about, keep what is \
right already, and take another way where the old one leads nowhere. Mention neither earlier \
answers nor remarks."""
