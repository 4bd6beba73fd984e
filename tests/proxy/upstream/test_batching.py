"""Batch mode: calls leave together, and have nothing else in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from endpoints import FakeEndpoint, asked, call, failure_of, now, pooled, read, run

from proxy.errors import UpstreamRejected
from proxy.upstream.batching import Batched
from proxy.upstream.port import Call

WAIT = 0.05


class Timed(FakeEndpoint):
    """Remembers when each call came, from when it was made."""

    def __init__(self, seconds: float = 0.0, respond: Callable[[Call], Any] | None = None) -> None:
        super().__init__("a", respond or (lambda call: self._slowly(seconds)))
        self.began = now()
        self.came: list[float] = []

    async def _slowly(self, seconds: float) -> str:
        self.came.append(round(now() - self.began, 6))
        await asyncio.sleep(seconds)
        return "a"


def test_those_that_come_within_the_wait_leave_together() -> None:
    async def test() -> None:
        endpoint = Timed()
        async with pooled(endpoint) as pool:
            batched = Batched(pool, 10, WAIT)

            async def late(seconds: float) -> None:
                await asyncio.sleep(seconds)
                await asked(batched)

            await asyncio.gather(*map(late, (0.0, 0.02, 0.04, 0.06)))
            assert endpoint.came == [0.05, 0.05, 0.05, 0.11]

    run(test)


def test_a_full_batch_leaves_at_once_and_none_waits_for_the_answers_of_another() -> None:
    async def test() -> None:
        endpoint = Timed(seconds=30.0)
        async with pooled(endpoint) as pool:
            batched = Batched(pool, 4, WAIT)
            await asyncio.gather(*(asked(batched) for _ in range(10)))
            assert endpoint.came == [0.0] * 8 + [WAIT] * 2
            assert endpoint.peak == 10
            assert now() - endpoint.began < 30.1

    run(test)


def test_a_batch_is_of_one_model() -> None:
    async def test() -> None:
        endpoint = Timed()
        async with pooled(endpoint) as pool:
            batched = Batched(pool, 2, WAIT)
            await asyncio.gather(asked(batched, "m"), asked(batched, "other"))
            assert endpoint.came == [WAIT, WAIT]

    run(test)


def test_a_member_that_fails_fails_alone() -> None:
    refused = UpstreamRejected("no", status=400)

    async def test() -> None:
        endpoint = FakeEndpoint("a", lambda call: refused if "bad" in call.body else "fine")
        async with pooled(endpoint) as pool:
            batched = Batched(pool, 3, WAIT)
            said = await asyncio.gather(
                asked(batched),
                failure_of(asked(batched, body={"bad": True})),
                asked(batched),
            )
            assert said == ["fine", refused, "fine"]

    run(test)


def test_streams_are_members_too() -> None:
    async def test() -> None:
        endpoint = Timed()
        async with pooled(endpoint) as pool:
            batched = Batched(pool, 2, WAIT)
            assert await asyncio.gather(read(batched, call()), asked(batched)) == ["a", "a"]
            assert endpoint.came == [0.0, 0.0]

    run(test)


def test_who_leaves_before_the_batch_does_gives_its_place_to_others() -> None:
    async def test() -> None:
        endpoint = Timed()
        async with pooled(endpoint) as pool:
            batched = Batched(pool, 2, WAIT)
            leaving = asyncio.create_task(asked(batched))
            await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await asyncio.gather(asked(batched), asked(batched), asked(batched))
            assert endpoint.came == [0.01, 0.01, 0.06]

    run(test)


def test_nothing_is_left_of_models_that_were_asked_once() -> None:
    async def test() -> None:
        async with pooled(FakeEndpoint("a")) as pool:
            batched = Batched(pool, 4, WAIT)
            await asyncio.gather(*(asked(batched, f"invented-{i}") for i in range(50)))
            assert not batched._open

    run(test)
