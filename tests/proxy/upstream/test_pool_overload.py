"""What becomes of calls while providers have too much to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import FakeEndpoint, Tally, asked, call, failure_of, now, pooled, run, text_of

from proxy.errors import QueueFull, UpstreamOverloaded, UpstreamRateLimited
from proxy.upstream.config import QueueConfig
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call


async def answered(pool: Pool, one: Call) -> str:
    return text_of(await pool.complete(one))


def busy(retry_after: float | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("slow down", retry_after=retry_after)


def busy_times(count: int, retry_after: float | None) -> Callable[[Call], Any]:
    """So many refusals, then answers."""
    left = [count]

    def respond(_: Call) -> Any:
        left[0] -= 1
        return busy(retry_after) if left[0] >= 0 else "at last"

    return respond


def slow(seconds: float) -> Callable[[Call], Any]:
    async def answer() -> str:
        await asyncio.sleep(seconds)
        return "slow"

    return lambda _: answer()


class TestAPause:
    @pytest.mark.parametrize("retry_after", [1.0, 3600.0])
    def test_sends_calls_to_the_next_provider(self, retry_after: float) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", lambda _: busy(retry_after)), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                began = now()
                for _ in range(5):
                    assert await asked(pool) == "b"
                assert now() == began
                assert (len(a.calls), len(b.calls)) == (1, 5)

        run(test)

    def test_is_kept_to_the_end_and_no_longer(self) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", busy_times(1, 10.0)), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                assert await asked(pool) == "b"
                await asyncio.sleep(9.9)
                assert await asked(pool) == "b"
                await asyncio.sleep(0.2)
                assert await asked(pool) == "at last"

        run(test)

    def test_is_that_model_s_alone(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda c: busy(60.0) if c.model == "hot" else "a")
            b = FakeEndpoint("b")
            async with pooled(a, b) as pool:
                assert await answered(pool, call("hot")) == "b"
                assert await answered(pool, call("cold")) == "a"

        run(test)

    def test_marks_nobody_as_failed(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: UpstreamOverloaded("busy", retry_after=5.0))
            async with pooled(a, FakeEndpoint("b")) as pool:
                await asked(pool)
                (report, _) = pool.report()
                assert (report["state"], report["models_failing"]) == ("closed", [])
                assert report["models_waiting"] == ["m"]

        run(test)


class TestWhereNobodyElseIsLeft:
    def test_a_call_with_patience_waits_for_it(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", busy_times(1, 7.0))
            async with pooled(a) as pool:
                began = now()
                assert await answered(pool, call(patience=10.0)) == "at last"
                assert now() - began == pytest.approx(7.0, abs=0.1)

        run(test)

    def test_a_client_s_own_call_does_not(self) -> None:
        async def test() -> None:
            async with pooled(FakeEndpoint("a", lambda _: busy(7.0))) as pool:
                began = now()
                error = await failure_of(asked(pool))
                assert (error.http_status(), error.retry_after) == (429, 7.0)
                again = await failure_of(asked(pool))
                assert (again.http_status(), now()) == (429, began)

        run(test)

    @pytest.mark.parametrize("pause", [10.5, 3600.0])
    def test_nobody_waits_longer_than_patience_lasts(self, pause: float) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: busy(pause))
            async with pooled(a) as pool:
                began = now()
                error = await failure_of(answered(pool, call(patience=10.0)))
                assert (error.http_status(), now(), len(a.calls)) == (429, began, 1)

        run(test)

    def test_nor_beyond_its_deadline(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: busy(5.0))
            async with pooled(a) as pool:
                late = call(patience=10.0, deadline=now() + 4.0)
                assert (await failure_of(answered(pool, late))).http_status() == 429

        run(test)

    def test_a_provider_that_never_has_time_is_given_up(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: busy(1.0))
            async with pooled(a) as pool:
                error = await failure_of(answered(pool, call(patience=100.0)))
                assert error.http_status() == 429
                assert len(a.calls) == 4

        run(test)

    def test_one_that_names_no_pause_is_given_a_moment(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", busy_times(1, None))
            async with pooled(a) as pool:
                began = now()
                assert await answered(pool, call(patience=10.0)) == "at last"
                assert 0.1 < now() - began < 0.3

        run(test)

    def test_of_several_calls_only_the_one_that_is_needed_waits(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", busy_times(1, 5.0))
            async with pooled(a) as pool:
                needed = call(patience=10.0, watch=Tally(only=True))
                others = [call(patience=10.0, watch=Tally(only=False)) for _ in range(2)]
                results = await asyncio.gather(
                    *(answered(pool, each) for each in (*others, needed)), return_exceptions=True
                )
                assert [type(each) for each in results[:2]] == [UpstreamRateLimited] * 2
                assert results[2] == "at last"

        run(test)

    def test_a_short_pause_is_borne_by_all(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", busy_times(3, 0.8))
            async with pooled(a) as pool:
                others = [call(patience=10.0, watch=Tally(only=False)) for _ in range(3)]
                results = await asyncio.gather(*(answered(pool, each) for each in others))
                assert results == ["at last"] * 3

        run(test)

    def test_behind_a_pause_calls_come_back_a_few_at_a_time(self) -> None:
        async def test() -> None:
            refusals = busy_times(8, 1.0)

            async def answer(c: Call) -> Any:
                await asyncio.sleep(0.1)
                said = refusals(c)
                if said == "at last":
                    await asyncio.sleep(1.0)
                return said

            a = FakeEndpoint("a", answer)
            async with pooled(a) as pool:
                calls = [call(patience=10.0, owner=n) for n in range(8)]
                waiting = [asyncio.create_task(answered(pool, each)) for each in calls]
                await asyncio.sleep(0.5)
                assert (a.peak, a.running) == (8, 0)
                a.peak = 0
                await asyncio.sleep(1.0)
                assert a.peak == 3
                assert await asyncio.gather(*waiting) == ["at last"] * 8

        run(test)


class TestRoom:
    def test_a_full_provider_is_waited_for_half_a_second_then_the_next_one_is_asked(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", slow(10.0), max_concurrent=1)
            b = FakeEndpoint("b")
            async with pooled(a, b) as pool:
                first = asyncio.create_task(asked(pool))
                await asyncio.sleep(0)
                began = now()
                assert await asked(pool) == "b"
                assert now() - began == pytest.approx(0.5, abs=0.06)
                await first

        run(test)

    def test_with_nowhere_else_to_go_it_is_waited_for(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", slow(10.0), max_concurrent=2)
            async with pooled(a) as pool:
                began = now()
                await asyncio.gather(*(answered(pool, call(owner=n)) for n in range(6)))
                assert now() - began == pytest.approx(30.0)
                assert a.peak == 2

        run(test)

    def test_but_not_for_ever(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", slow(100.0), max_concurrent=1)
            async with pooled(a, queue=QueueConfig(timeout=5.0)) as pool:
                first = asyncio.create_task(asked(pool))
                await asyncio.sleep(0)
                began = now()
                error = await failure_of(asked(pool))
                assert isinstance(error, QueueFull)
                assert (error.http_status(), error.code) == (503, "queue_timeout")
                assert int(error.headers()["Retry-After"]) >= 1
                assert now() - began == pytest.approx(5.0, abs=0.06)
                await first

        run(test)

    def test_providers_on_one_host_are_limited_together(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", slow(1.0), hosts={"*": "box"})
            b = FakeEndpoint("b", slow(1.0), hosts={"*": "box"})
            running: list[int] = []

            async def watch() -> None:
                while True:
                    running.append(a.running + b.running)
                    await asyncio.sleep(0.1)

            async with pooled(a, b, strategy="round_robin", hosts={"box": 2}) as pool:
                watching = asyncio.create_task(watch())
                await asyncio.gather(*(answered(pool, call(owner=n)) for n in range(8)))
                watching.cancel()
                assert max(running) == 2
                assert a.calls
                assert b.calls

        run(test)

    def test_models_on_one_host_are_limited_together(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", slow(1.0), hosts={"mlx-*": "studio"})
            async with pooled(a, hosts={"studio": 1}) as pool:
                began = now()
                models = ("mlx-a", "mlx-b", "elsewhere")
                ended: dict[str, float] = {}

                async def ask(model: str) -> None:
                    await answered(pool, call(model, owner=model))
                    ended[model] = now() - began

                await asyncio.gather(*map(ask, models))
                assert sorted(ended[m] for m in models[:2]) == pytest.approx([1.0, 2.0], abs=0.1)
                assert ended["elsewhere"] == pytest.approx(1.0, abs=0.1)

        run(test)

    def test_the_queue_limits_all_calls_of_the_pool(self) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", slow(1.0)), FakeEndpoint("b", slow(1.0))
            queue = QueueConfig(max_concurrent=3)
            async with pooled(a, b, strategy="round_robin", queue=queue) as pool:
                tasks = [asyncio.create_task(answered(pool, call(owner=n))) for n in range(9)]
                await asyncio.sleep(0.1)
                assert (pool.under_way, pool.waiting) == (3, 6)
                await asyncio.gather(*tasks)

        run(test)
