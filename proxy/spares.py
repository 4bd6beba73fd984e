"""Enough results of attempts some of which fail or lag: a spare for each that fails, one for the
last where it takes long (Dean and Barroso, The Tail at Scale, CACM 2013)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.llm import LLM

T = TypeVar("T")

#: Seconds: what is quicker than this is not worth a second attempt.
_SOONEST = 1.0


async def enough(
    llm: LLM,
    attempt: Callable[[int], Coroutine[Any, Any, T | None]],
    wanted: int,
    most: int,
    take: Callable[[T], None],
) -> list[T]:
    """Results of ``wanted`` attempts side by side; of fewer, perhaps none, where others fail.

    ``attempt(i)`` is None where it fails. It is then followed by a spare at once; the last one that
    is waited for gets a rival after as long again as the others took. No more than ``most`` are
    started. ``take`` gets each result as it lands.
    """
    spares = iter(range(wanted, most))

    async def chain(number: int | None) -> T | None:
        while number is not None:
            result = await attempt(number)
            if result is not None:
                return result
            number = next(spares, None)
        return None

    async def rival(seconds: float) -> T | None:
        await asyncio.sleep(seconds)
        return await chain(next(spares, None))

    clock = asyncio.get_running_loop().time
    begun = clock()
    done: list[T] = []
    async with llm.fan(map(chain, range(wanted)), quorum=True) as landed:
        async for result in landed:
            if result is None:
                continue
            done.append(result)
            take(result)
            if len(done) == wanted:
                break
            if len(done) == wanted - 1:
                landed.add(rival(max(_SOONEST, clock() - begun)))
    return done
