"""Drawing several replies where some may be lost on the way, and a few of those by lot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

from proxy.chat import Reply
from proxy.classes import Classes
from proxy.errors import BudgetExhausted
from proxy.llm import LLM, Fan, UpstreamError
from proxy.voting import decided


async def _never(_: Reply) -> bool:
    return False


async def draw(
    llm: LLM,
    first: Fan[Reply],
    again: Callable[[int], Fan[Reply]],
    *,
    keep: bool = True,
    enough: Callable[[Reply], Awaitable[bool]] = _never,
) -> list[Reply]:
    """The complete replies of ``first``; those that were cut short where there are no others.

    Replies that failed or were cut short are drawn once more, so many of them from ``again``:
    unless all were, which another try would not change. With ``keep`` the first complete reply is
    what the client gets if time ends here. Once ``enough`` says so of a complete one, the others
    are cancelled. Raises what ``first`` raises where nothing landed.
    """
    complete: list[Reply] = []
    cut: list[Reply] = []
    async with first as landed:
        async for reply in landed:
            (cut if reply.truncated else complete).append(reply)
            if keep:
                llm.keep((complete or cut)[0])
            if not reply.truncated and await enough(reply):
                return complete
        lost = len(landed.failed) + len(cut)
    if lost and complete:
        try:
            async with again(lost) as landed:
                async for reply in landed:
                    if reply.truncated:
                        continue
                    complete.append(reply)
                    if await enough(reply):
                        break
        except (UpstreamError, BudgetExhausted):
            pass
    return complete or cut


async def draw_population(
    llm: LLM,
    first: Fan[Reply],
    again: Callable[[int], Fan[Reply]],
    *,
    size: int,
    agreement: float,
    keep: bool = True,
) -> tuple[list[Reply], Classes]:
    """As `draw`, with the answers that the replies come to; the best of all is kept in the end.

    Does not wait for those of ``size`` that are left once so large a share as ``agreement`` agrees
    and they can elect no other.
    """
    classes = Classes(llm)

    async def enough(reply: Reply) -> bool:
        await classes.add(reply)
        to_come = (size - classes.ballots) * llm.heaviest
        return classes.top_two[0] >= agreement * size and decided(classes.votes, to_come)

    population = await draw(llm, first, again, keep=keep, enough=enough)
    if not classes.ballots:
        for cut_short in population:
            await classes.add(cut_short)
    llm.keep(classes.best)
    return population, classes


def by_lot(replies: Sequence[Reply], count: int, seed: str) -> list[Reply]:
    """``count`` different ones of ``replies``, all where there are fewer; the same in every run.

    By their texts, then: which of them came first is chance, and must not change what is drawn.
    """
    ordered = sorted(replies, key=lambda reply: reply.rendered)
    return Random(seed).sample(ordered, min(count, len(ordered)))
