"""The best of several answers, chosen while they are still being written.

Each function takes coroutines that write one answer each, keeps the best so far (`LLM.keep`), and
raises the first answer's error where none is written. Answers that are whole come before those
cut short, and of equals the one that landed first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from proxy.chat import Reply
from proxy.classes import Classes
from proxy.llm import LLM
from proxy.voting import decided

Answers = Sequence[Coroutine[Any, Any, Reply]]


async def best_rated(
    llm: LLM, answers: Answers, rate: Callable[[Reply], Awaitable[float]]
) -> Reply:
    """The answer with the highest rating; each is rated as soon as it is written."""
    best: tuple[tuple[bool, float], Reply] | None = None
    seen: list[tuple[tuple[bool, float], Reply]] = []

    async def rated(answer: Coroutine[Any, Any, Reply]) -> tuple[tuple[bool, float], Reply]:
        reply = await answer
        if best is None and not reply.truncated:
            # Better than what an earlier stage has kept, should time run out before a rating.
            llm.keep(reply)
        return (not reply.truncated, await rate(reply)), reply

    async with llm.fan(map(rated, answers), quorum=True) as landed:
        async for candidate in landed:
            seen.append(candidate)
            if best is None or candidate[0] > best[0]:
                best = candidate
                llm.keep(best[1])
    assert best is not None, "a fan without results raises"
    ratings = ((reply, rating) for (_, rating), reply in seen)
    llm.decide("rating", ratings, seen.index(best), f"the highest of {len(seen)} ratings")
    return best[1]


async def winner_of_pairs(
    llm: LLM, answers: Answers, prefers: Callable[[Reply, Reply], Awaitable[int | None]]
) -> Reply:
    """The answer that wins most comparisons, with ``prefers``: the index of the better of two.

    Every pair is compared in both orders as soon as both are written: judges prefer places.
    """
    done: list[Reply] = []
    wins: Counter[int] = Counter()

    async def compared(*pair: int) -> int | None:
        first, second = (done[index] for index in pair)
        chosen = await prefers(first, second)
        return None if chosen is None else pair[chosen]

    def best() -> int:
        places = range(len(done))
        return max(places, key=lambda index: (not done[index].truncated, wins[index]))

    members: list[Coroutine[Any, Any, Reply | int | None]] = [*answers]
    async with llm.fan(members) as landed:
        async for result in landed:
            if isinstance(result, Reply):
                done.append(result)
                last = len(done) - 1
                for other in range(last):
                    landed.add(compared(other, last))
                    landed.add(compared(last, other))
            elif result is not None:
                wins[result] += 1
            llm.keep(done[best()])
    won = ((reply, wins[index]) for index, reply in enumerate(done))
    llm.decide("selection", won, best(), f"it wins {wins[best()]} comparisons")
    return done[best()]


async def most_frequent(llm: LLM, answers: Answers) -> Reply:
    """The shortest answer of the largest class of equal ones, once no other can become that."""
    classes = Classes(llm)
    async with llm.fan(answers) as landed:
        async for reply in landed:
            await classes.add(reply)
            llm.keep(classes.best)
            to_come = len(answers) - classes.ballots - len(landed.failed)
            if decided(classes.votes, to_come * llm.heaviest):
                break
    return classes.elect()
