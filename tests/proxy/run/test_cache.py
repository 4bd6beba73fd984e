"""The cache behind `LLM.once`: bounded, and its values are made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.run.cache import Cache


def making(made: list[str], value: str) -> Callable[[], Awaitable[str]]:
    async def make() -> str:
        made.append(value)
        return value

    return make


def test_the_least_recently_used_value_goes_first() -> None:
    async def run() -> list[str]:
        cache, made = Cache(size=2), list[str]()
        for key in ("a", "b", "a", "c", "a", "b"):
            assert await cache.once(key, making(made, key), 60.0) == key
        return made

    assert asyncio.run(run()) == ["a", "b", "c", "b"]


def test_many_waiters_share_one_make() -> None:
    async def run() -> None:
        cache, made = Cache(), list[str]()
        door = asyncio.Event()

        async def make() -> str:
            made.append("value")
            await door.wait()
            return "value"

        waiters = [asyncio.create_task(cache.once("key", make, 60.0)) for _ in range(50)]
        await asyncio.sleep(0)
        door.set()
        assert set(await asyncio.gather(*waiters)) == {"value"}
        assert made == ["value"]

    asyncio.run(run())


def test_a_value_of_none_is_a_value() -> None:
    async def run() -> None:
        calls = 0

        async def make() -> None:
            nonlocal calls
            calls += 1

        cache = Cache()
        for _ in range(3):
            assert await cache.once("key", make, 60.0) is None
        assert calls == 1

    asyncio.run(run())


def test_another_key_does_not_wait() -> None:
    async def run() -> None:
        cache, made = Cache(), list[str]()
        never = asyncio.Event()

        async def stuck() -> None:
            await never.wait()

        waiting = asyncio.create_task(cache.once("slow", stuck, 60.0))
        await asyncio.sleep(0)
        assert await cache.once("fast", making(made, "fast"), 60.0) == "fast"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(run())
