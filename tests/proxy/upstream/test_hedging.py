"""A second try for a call that takes longer than usual: when, where, how often, who wins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from endpoints import (
    FakeEndpoint,
    Paced,
    Tally,
    asked,
    call,
    failure_of,
    hedged,
    now,
    pooled,
    run,
    text_of,
)

from proxy.errors import UpstreamError, UpstreamRateLimited, UpstreamRejected, UpstreamTimeout
from proxy.upstream.config import QueueConfig
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call


async def usual(pool: Pool, endpoint: Paced, count: int = 40, seconds: float = 1.0) -> None:
    """Make a second the usual, and pay for two second attempts."""
    # Each a little faster than the one before: none of them is overdue.
    endpoint.next = [seconds - i / 10_000 for i in range(count)]
    for _ in range(count):
        await asked(pool)


def test_who_is_overdue_is_asked_again_elsewhere_and_the_first_answer_wins() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a)
            a.next = [60.0]
            began, watch = now(), Tally()
            assert text_of(await pool.complete(call(watch=watch))) == "b"
            assert now() - began == pytest.approx(1.5, abs=0.01)
            assert (a.running, b.running) == (0, 0)
            assert watch.attempts == ["a"]
            assert watch.rival is not None
            assert (watch.rival.attempts, watch.rival.end) == (["b"], "won")

    run(test)


def test_the_first_may_still_win() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a)
            a.next = [1.2]
            watch = Tally()
            assert text_of(await pool.complete(call(watch=watch))) == "a"
            assert len(b.calls) == 1
            assert b.running == 0
            assert watch.rival is not None
            assert watch.rival.end == "overtaken"

    run(test)


def test_a_lone_provider_is_asked_twice() -> None:
    async def test() -> None:
        a = Paced("a")
        async with hedged(a) as pool:
            await usual(pool, a)
            a.next = [60.0, (0.5, "again")]
            assert await asked(pool) == "again"
            assert a.running == 0

    run(test)


def test_nobody_knows_what_is_usual_before_twenty_answers_of_that_model() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a, 19)
            a.next = [9.0]
            assert await asked(pool) == "a"
            assert await asked(pool) == "a"
            a.next = [9.0]
            assert await asked(pool, "other") == "a"
            assert b.calls == []

    run(test)


def test_without_the_flag_nothing_is_asked_twice() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with pooled(a, b) as pool:
            await usual(pool, a)
            a.next = [60.0]
            assert await asked(pool) == "a"
            assert b.calls == []

    run(test)


def test_there_is_one_more_for_every_twenty_at_most() -> None:
    """However slow all of them become: what is usual follows only slowly."""

    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a, 100)
            a.next = [60.0] * 400
            calls = 100
            for _ in range(10):
                await asyncio.gather(*(asked(pool) for _ in range(30)))
                calls += 30
                assert 0 < len(b.calls) <= 0.05 * calls

    run(test)


def test_what_was_overtaken_counts_as_slow() -> None:
    """Otherwise the usual would be what is left of it."""

    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a, 95)
            for _ in range(6):
                a.next = [60.0]
                assert await asked(pool) == "b"
                await usual(pool, a, 10, seconds=0.9)
            # More than 5 of the last 100 took one and a half: that has become usual.
            await usual(pool, a, 20, seconds=0.9)
            a.next = [1.4]
            assert await asked(pool) == "a"
            assert len(b.calls) == 6

    run(test)


class TestRoom:
    def test_no_second_attempt_where_the_limit_is_reached(self) -> None:
        async def test() -> None:
            a, b = Paced("a"), Paced("b", max_concurrent=1)
            async with hedged(a, b, strategy="failover") as pool:
                await usual(pool, a)
                b.next, a.next = [90.0], [(0.0, UpstreamError("oops")), 30.0]
                blocking = asyncio.create_task(asked(pool))
                await asyncio.sleep(0.1)
                assert b.running == 1
                watch = Tally()
                assert text_of(await pool.complete(call(watch=watch))) == "a"
                assert (len(a.calls), len(b.calls)) == (42, 1)
                assert watch.rival is not None
                assert watch.rival.attempts == []
                assert await blocking == "b"

        run(test)

    def test_nor_where_everybody_s_is_and_the_attempt_is_saved(self) -> None:
        async def test() -> None:
            a = Paced("a", max_concurrent=1)
            async with hedged(a) as pool:
                await usual(pool, a, 20)
                for _ in range(5):
                    a.next, watch = [60.0], Tally()
                    assert text_of(await pool.complete(call(watch=watch))) == "a"
                    assert watch.rival is not None
                    assert (watch.rival.attempts, a.peak) == ([], 1)

        run(test)

    def test_nor_while_others_wait_for_room(self) -> None:
        async def test() -> None:
            a = Paced("a")
            async with hedged(a, queue=QueueConfig(max_concurrent=3)) as pool:
                await usual(pool, a)
                a.next = [30.0] * 3
                await asyncio.gather(*(asked(pool) for _ in range(5)))
                assert (len(a.calls), a.peak) == (45, 3)

        run(test)

    def test_nor_at_one_that_has_asked_for_a_pause(self) -> None:
        pause = UpstreamRateLimited("slow down", retry_after=50.0)

        async def test() -> None:
            a = Paced("a")
            async with hedged(a, breaker=False) as pool:
                await usual(pool, a)
                a.next = [30.0, *[0.5] * 5, (0.1, pause)]
                under_way = [asyncio.create_task(asked(pool)) for _ in range(6)]
                await asyncio.sleep(0)
                assert await failure_of(asked(pool)) is pause
                assert await asyncio.gather(*under_way) == ["a"] * 6
                assert len(a.calls) == 47

        run(test)


class TestFailures:
    def test_a_second_attempt_that_fails_is_not_the_call_s(self) -> None:
        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next, watch = [5.0], [(1.0, UpstreamTimeout("no"))], Tally()
                assert text_of(await pool.complete(call(watch=watch))) == "a"
                assert watch.errors == []
                assert watch.rival is not None
                assert watch.rival.end == "upstream_timeout"
                assert pool.report()[1]["models_failing"] == ["m"]

        run(test)

    def test_a_first_attempt_that_fails_meanwhile_is_told_and_the_second_answers(self) -> None:
        failure = UpstreamTimeout("no")

        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next, watch = [(1.5, failure)], [3.0], Tally()
                assert text_of(await pool.complete(call(watch=watch))) == "b"
                assert (watch.attempts, watch.errors) == (["a"], [failure])
                assert len(b.calls) == 1
                assert pool.report()[0]["models_failing"] == ["m"]

        run(test)

    def test_where_both_fail_the_others_are_asked(self) -> None:
        async def test() -> None:
            a, b, c = Paced("a"), Paced("b"), Paced("c")
            async with hedged(a, b, c) as pool:
                await usual(pool, a)
                a.next, b.next = [(3.0, UpstreamTimeout("a"))], [(3.0, UpstreamTimeout("b"))]
                watch = Tally()
                assert text_of(await pool.complete(call(watch=watch))) == "c"
                assert watch.attempts == ["a", "c"]
                assert (len(a.calls), len(b.calls), len(c.calls)) == (41, 1, 1)

        run(test)

    def test_a_refusal_is_the_call_s_whatever_the_second_attempt_says(self) -> None:
        refused = UpstreamRejected("no", status=400)

        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next = [(2.5, refused)], [(1.0, refused)]
                assert await failure_of(asked(pool)) is refused

        run(test)

    @pytest.mark.parametrize("after", [0.5, 1.5])
    def test_a_client_that_hangs_up_ends_both(self, after: float) -> None:
        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next = [60.0], [60.0]
                task = asyncio.create_task(asked(pool))
                await asyncio.sleep(after)
                assert (a.running, b.running) == (1, int(after > 1))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert (a.running, b.running) == (0, 0)

        run(test)


def test_what_the_second_one_does_not_know_it_is_asked_without() -> None:
    def picky(call: Call) -> Any:
        if "logprobs" in call.body:
            return UpstreamRejected("logprobs is not supported", status=400, param="logprobs")
        return "b"

    async def test() -> None:
        a, b = Paced("a"), FakeEndpoint("b", picky)
        async with hedged(a, b) as pool:
            await usual(pool, a)
            a.next = [60.0]
            assert await asked(pool, body={"logprobs": True}) == "b"

    run(test)


def test_models_that_a_client_invents_are_forgotten() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a)
            await asyncio.gather(*(asked(pool, f"invented-{i}") for i in range(256)))
            a.next = [60.0]
            assert await asked(pool) == "a"
            assert b.calls == []

    run(test)
