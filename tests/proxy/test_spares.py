"""Enough results of attempts of which some fail or lag."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from driving import Driver, FakeUpstream

from proxy.spares import enough


def results(
    attempt: Callable[[int], Awaitable[str | None]], wanted: int, most: int
) -> tuple[list[str], list[int]]:
    """What came of it, and which attempts were started."""
    started: list[int] = []
    taken: list[str] = []

    async def noted(number: int) -> str | None:
        started.append(number)
        return await attempt(number)

    async def run() -> list[str]:
        llm = Driver(FakeUpstream()).llm
        async with asyncio.timeout(30):
            return await enough(llm, noted, wanted, most, taken.append)

    found = asyncio.run(run())
    assert taken == found
    return found, sorted(started)


async def works(number: int) -> str | None:
    return str(number)


def test_as_many_as_are_wanted_and_no_spare_where_all_succeed() -> None:
    assert results(works, 3, 9) == (["0", "1", "2"], [0, 1, 2])


def test_a_spare_for_each_that_fails() -> None:
    async def attempt(number: int) -> str | None:
        return None if number in (0, 3) else str(number)

    found, started = results(attempt, 3, 9)
    assert sorted(found) == ["1", "2", "4"]
    assert started == [0, 1, 2, 3, 4]


def test_fewer_where_too_many_fail() -> None:
    async def attempt(number: int) -> str | None:
        return "only" if number == 4 else None

    assert results(attempt, 2, 5) == (["only"], [0, 1, 2, 3, 4])
    assert results(attempt, 2, 4) == ([], [0, 1, 2, 3])


def test_a_rival_for_the_last_where_it_takes_long() -> None:
    async def attempt(number: int) -> str | None:
        return await asyncio.sleep(60 if number == 1 else 0, str(number))

    assert results(attempt, 2, 3) == (["0", "2"], [0, 1, 2])
