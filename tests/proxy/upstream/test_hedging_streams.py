"""A second try for a stream whose first content is late: whose comes first is the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from endpoints import (
    END,
    ROLE,
    FakeEndpoint,
    Paced,
    Tally,
    asked,
    call,
    delta,
    failure_of,
    hedged,
    now,
    pooled,
    read,
    run,
)

from proxy.errors import UpstreamRateLimited, UpstreamRejected, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.pool import Pool


def words(*script: Any) -> tuple[float, list[Any]]:
    """Answers at once with a role, and then ``script``."""
    return 0.0, [ROLE, *script, END]


async def usual(pool: Pool, endpoint: Paced, count: int = 40, seconds: float = 1.0) -> None:
    """Make a second the usual time to the first content, and pay for two second attempts."""
    # Each a little faster than the one before: none of them is overdue.
    endpoint.next = [words(seconds - i / 10_000, delta("a"), 50.0) for i in range(count)]
    for _ in range(count):
        await read(pool, call())


def test_whose_content_is_overdue_is_asked_again_elsewhere_and_the_first_content_wins() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a)
            a.next, b.next = [words(60.0, delta("a"))], [words(0.5, delta("b"), 70.0, delta("!"))]
            began, watch = now(), Tally()
            async with pool.stream(call(watch=watch)) as batches:
                assert now() - began == pytest.approx(1.5, abs=0.01)
                # The other one is closed, and its slot free, while this one goes on.
                assert (a.running, b.running, pool.under_way) == (0, 1, 1)
                chunks = [chunk async for batch in batches for chunk in batch]
            assert chunks == [ROLE, delta("b"), delta("!"), END]
            assert (a.running, b.running, pool.under_way) == (0, 0, 0)
            assert watch.attempts == ["a"]
            assert watch.rival is not None
            assert (watch.rival.attempts, watch.rival.end) == (["b"], "won")

    run(test)


def test_the_first_may_still_win_whoever_would_be_done_sooner() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a)
            a.next, b.next = [words(1.2, delta("a"), 60.0)], [words(0.5, delta("b"))]
            began, watch = now(), Tally()
            async with pool.stream(call(watch=watch)) as batches:
                assert now() - began == pytest.approx(1.2, abs=0.01)
                assert (a.running, b.running) == (1, 0)
                assert [chunk async for each in batches for chunk in each][1:] == [delta("a"), END]
            assert len(b.calls) == 1
            assert watch.rival is not None
            assert watch.rival.end == "overtaken"

    run(test)


def test_where_both_say_something_at_once_it_is_the_first_and_the_other_is_closed() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a)
            signal = asyncio.Event()

            async def answer() -> list[Any]:
                await signal.wait()
                return [ROLE, delta("said"), 9.0, END]

            a.respond = b.respond = lambda _: answer()
            asyncio.get_running_loop().call_later(2.0, signal.set)
            async with pool.stream(call()):
                assert (a.running, b.running, pool.under_way) == (1, 0, 1)
            assert len(b.calls) == 1

    run(test)


def test_a_lone_provider_is_asked_twice() -> None:
    async def test() -> None:
        a = Paced("a")
        async with hedged(a) as pool:
            await usual(pool, a)
            a.next = [words(60.0, delta("a")), words(0.5, delta("again"))]
            assert await read(pool, call()) == "again"
            assert a.running == 0

    run(test)


def test_what_is_usual_for_whole_answers_is_not_for_streams() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            a.next = [1.0] * 40
            for _ in range(40):
                await asked(pool)
            a.next = [words(60.0, delta("a"))]
            assert await read(pool, call()) == "a"
            await usual(pool, a, seconds=30.0)
            a.next = [20.0]
            assert await asked(pool) == "b"
            a.next = [words(20.0, delta("a"))]
            assert await read(pool, call()) == "a"

    run(test)


def test_without_the_flag_nothing_is_asked_twice() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with pooled(a, b) as pool:
            await usual(pool, a)
            a.next = [words(60.0, delta("a"))]
            assert await read(pool, call()) == "a"
            assert b.calls == []

    run(test)


def test_there_is_one_more_for_every_twenty_at_most_of_streams_and_answers_together() -> None:
    async def test() -> None:
        a, b = Paced("a"), Paced("b")
        async with hedged(a, b) as pool:
            await usual(pool, a, 100)
            a.next = [1.0] * 100
            for _ in range(100):
                await asked(pool)
            a.next = [(60.0, "a")] * 600
            calls = 200
            for _ in range(10):
                await asyncio.gather(
                    *(read(pool, call()) for _ in range(20)), *(asked(pool) for _ in range(20))
                )
                calls += 40
                assert 0 < len(b.calls) <= 0.05 * calls

    run(test)


class TestRoom:
    def test_no_second_attempt_where_there_is_none(self) -> None:
        async def test() -> None:
            a = Paced("a", max_concurrent=1)
            async with hedged(a) as pool:
                await usual(pool, a)
                for _ in range(5):
                    a.next, watch = [words(60.0, delta("a"))], Tally()
                    assert await read(pool, call(watch=watch)) == "a"
                    assert watch.rival is not None
                    assert (watch.rival.attempts, a.peak) == ([], 1)

        run(test)

    def test_who_was_overtaken_makes_room_at_once(self) -> None:
        async def test() -> None:
            a, b = Paced("a", max_concurrent=1), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next = [words(60.0, delta("a"))], [words(0.5, delta("b"), 50.0)]
                async with pool.stream(call()):
                    assert await asked(pool) == "a"
                    assert b.running == 1

        run(test)


class TestFailures:
    def test_a_second_attempt_that_fails_is_not_the_call_s(self) -> None:
        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next = [words(5.0, delta("a"))], [words(1.0, UpstreamTimeout("no"))]
                watch = Tally()
                assert await read(pool, call(watch=watch)) == "a"
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
                a.next, b.next = [words(1.5, failure)], [words(3.0, delta("b"))]
                watch = Tally()
                assert await read(pool, call(watch=watch)) == "b"
                assert (watch.attempts, watch.errors) == (["a"], [failure])
                assert len(b.calls) == 1
                assert pool.report()[0]["models_failing"] == ["m"]

        run(test)

    def test_where_both_fail_the_others_are_asked(self) -> None:
        async def test() -> None:
            a, b, c = Paced("a"), Paced("b"), Paced("c")
            async with hedged(a, b, c) as pool:
                await usual(pool, a)
                a.next = [words(3.0, UpstreamTimeout("a"))]
                b.next = [words(3.0, UpstreamTimeout("b"))]
                watch = Tally()
                assert await read(pool, call(watch=watch)) == "c"
                assert watch.attempts == ["a", "c"]
                assert (len(a.calls), len(b.calls), len(c.calls)) == (41, 1, 1)

        run(test)

    def test_before_anything_is_overdue_another_is_asked_as_ever(self) -> None:
        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, watch = [words(0.1, UpstreamUnreachable("reset"))], Tally()
                assert await read(pool, call(watch=watch)) == "b"
                assert watch.attempts == ["a", "b"]
                assert watch.rival is None

        run(test)

    @pytest.mark.parametrize("winner", ["a", "b"])
    def test_one_that_breaks_off_behind_its_first_content_is_not_begun_again(
        self, winner: str
    ) -> None:
        silence = UpstreamTimeout("silence")

        async def test() -> None:
            a, b, c = Paced("a"), Paced("b"), Paced("c")
            async with hedged(a, b, c) as pool:
                await usual(pool, a)
                a.next = [words(1.2 if winner == "a" else 60.0, delta("a"), 1.0, silence)]
                b.next = [words(0.5, delta("b"), 1.0, silence)]
                assert await failure_of(read(pool, call())) is silence
                assert [each["models_failing"] for each in pool.report()] == [
                    ["m"] if name == winner else [] for name in "abc"
                ]
                assert (c.calls, pool.under_way) == ([], 0)

        run(test)

    def test_a_refusal_is_the_call_s_whatever_the_second_attempt_says(self) -> None:
        refused = UpstreamRejected("no", status=400)

        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next = [(2.5, refused)], [(1.0, refused)]
                assert await failure_of(read(pool, call())) is refused

        run(test)

    def test_nothing_that_its_reader_raises_is_anyone_s(self) -> None:
        elsewhere = UpstreamUnreachable("elsewhere", refused=True)

        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next = [words(60.0, delta("a"))]

                async def reader() -> None:
                    async with pool.stream(call()) as batches:
                        await anext(batches)
                        raise elsewhere

                assert await failure_of(reader()) is elsewhere
                assert [each["models_failing"] for each in pool.report()] == [[], []]
                assert [each["state"] for each in pool.report()] == ["closed", "closed"]
                assert pool.under_way == 0

        run(test)

    @pytest.mark.parametrize(("after", "running"), [(0.5, (1, 0)), (1.3, (1, 1)), (5.0, (0, 1))])
    def test_a_client_that_hangs_up_ends_both(self, after: float, running: tuple[int, int]) -> None:
        async def test() -> None:
            a, b = Paced("a"), Paced("b")
            async with hedged(a, b) as pool:
                await usual(pool, a)
                a.next, b.next = [words(60.0)], [words(1.0, delta("b"), 60.0)]
                task = asyncio.create_task(read(pool, call()))
                await asyncio.sleep(after)
                assert (a.running, b.running) == running
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert (a.running, b.running, pool.under_way) == (0, 0, 0)

        run(test)


def test_what_the_second_one_does_not_know_it_is_asked_without() -> None:
    def picky(call: Any) -> Any:
        if "logprobs" in call.body:
            return UpstreamRejected("logprobs is not supported", status=400, param="logprobs")
        return "b"

    async def test() -> None:
        a, b = Paced("a"), FakeEndpoint("b", picky)
        async with hedged(a, b) as pool:
            await usual(pool, a)
            a.next = [words(60.0, delta("a"))]
            assert await read(pool, call(body={"logprobs": True})) == "b"

    run(test)


def test_one_that_asks_for_a_pause_is_not_asked_beside_another() -> None:
    pause = UpstreamRateLimited("slow down", retry_after=50.0)

    async def test() -> None:
        a = Paced("a")
        async with hedged(a, breaker=False) as pool:
            await usual(pool, a)
            a.next = [words(30.0, delta("a")), (0.1, pause)]
            under_way = asyncio.create_task(read(pool, call()))
            await asyncio.sleep(0)
            assert await failure_of(read(pool, call())) is pause
            assert await under_way == "a"
            assert len(a.calls) == 42

    run(test)
