"""Generative selection: a judge sees all candidates at once and names the best.

Toshniwal et al.: GenSelect, a generative approach to best-of-N, arXiv:2507.17797. A judge prefers
places in a list, so several of them see it in different orders, side by side, and vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from proxy.answers import choice
from proxy.chat import Chat, Reply
from proxy.llm import LLM, UpstreamError
from proxy.voting import Tally, decided

#: Enough to compare at length before the number.
_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Selected:
    """A candidate, and what the first judge that named it said; '' where none did."""

    reply: Reply
    why: str = ""


async def select(
    chat: Chat,
    llm: LLM,
    candidates: Sequence[Reply],
    *,
    ballots: int = 3,
    excerpts: Sequence[str] | None = None,
    task: str | None = None,
) -> Reply:
    """The candidate that most of ``ballots`` judges name; see `selected`."""
    chosen = await selected(chat, llm, candidates, ballots=ballots, excerpts=excerpts, task=task)
    return chosen.reply


async def selected(
    chat: Chat,
    llm: LLM,
    candidates: Sequence[Reply],
    *,
    ballots: int = 3,
    excerpts: Sequence[str] | None = None,
    temperature: float = 0.0,
    task: str | None = None,
) -> Selected:
    """The candidate that most of ``ballots`` judges name, and why; one round.

    The judges are the ensemble's. ``excerpts`` are shown in place of the candidates' whole text;
    ``task`` says what makes a candidate the best, where it is not being right. A judge that fails
    or names nobody casts no vote. Without any vote it is the first candidate that is complete.
    Raises `ValueError` where there are none.
    """
    if not candidates:
        raise ValueError("there is nothing to select from")
    votes: Tally[int] = Tally()
    why: dict[int, str] = {}
    first = min(range(len(candidates)), key=lambda index: candidates[index].truncated)
    if len(candidates) == 1:
        return Selected(candidates[first])
    texts = excerpts or [candidate.rendered for candidate in candidates]
    said = 0
    try:
        asked = task or _COMPARE
        judges = (_ballot(chat, llm, texts, nth, temperature, asked) for nth in range(ballots))
        async with llm.fan(judges) as landed:
            async for index, words in landed:
                said += 1
                if index is not None:
                    votes.add(index)
                    why.setdefault(index, words)
                    llm.keep(candidates[votes.leader or 0])
                if decided(votes, ballots - said - len(landed.failed)):
                    break
    except UpstreamError:
        llm.decide("selection", ((each, None) for each in candidates), first, "no judge answers")
        return Selected(candidates[first])
    chosen = first if votes.leader is None else votes.leader
    told = f"{votes.counts.get(chosen, 0):g} of {said} judges name it"
    named = ((each, votes.counts.get(place, 0.0)) for place, each in enumerate(candidates))
    llm.decide("selection", named, chosen, told)
    return Selected(candidates[chosen], why.get(chosen, ""))


async def _ballot(
    chat: Chat, llm: LLM, texts: Sequence[str], nth: int, temperature: float, task: str
) -> tuple[int | None, str]:
    """The index of the candidate that the nth judge names, and its words."""
    order = list(range(len(texts)))
    # The same orders in every run; every second judge reads what the one before it read backwards.
    Random(nth // 2).shuffle(order)
    if nth % 2:
        order.reverse()
    listed = "\n\n".join(
        _CANDIDATE.format(number=number, text=texts[index])
        for number, index in enumerate(order, start=1)
    )
    messages = chat.followed_by(_SELECT.format(candidates=listed, task=task, last=len(order)))
    said = await llm.role("judge").ask(messages, temperature=temperature, max_tokens=_TOKENS)
    chosen = choice(said.text, len(order))
    return (None if chosen is None else order[chosen]), said.rendered


_CANDIDATE = """\
<candidate number="{number}">
{text}
</candidate>"""

_SELECT = """\
Do not answer the message above. These candidates answer it:

{candidates}

{task} Their order, their length and their tone say nothing. Then end with one line that names the \
best of them by its number:
Best candidate: <number from 1 to {last}>"""

_COMPARE = """\
Compare them with each other: check their facts and their steps, and where they disagree find out \
who is right."""
