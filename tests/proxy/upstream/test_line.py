"""Who waits for room at a provider, for how long, and who goes first."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from endpoints import now, run

from proxy.errors import QueueFull, UpstreamRateLimited
from proxy.upstream.config import QueueConfig
from proxy.upstream.line import Lane, Line
from proxy.upstream.port import Call
from proxy.upstream.slots import Slots
from proxy.upstream.window import Window


class Room:
    """A line in front of providers with so many places each, and who has gone in."""

    def __init__(self, limits: dict[str, int], queue: QueueConfig, *, shared: bool) -> None:
        self.slots = Slots()
        self.slots.register(limits)
        self.slots.claim()
        self.limits = limits
        self.lanes = {
            name: Lane(name, ((self.slots.column(name), most),), Window(now))
            for name, most in limits.items()
        }
        self.line = Line(self.slots, queue, shared=shared)
        self.order: list[object] = []
        self.inside: Counter[str] = Counter()

    async def stay(self, call: Call, seconds: float, lanes: str = "a") -> str:
        """Wait, go in for so long, and leave; where it was."""
        lane = await self.line.enter(call, [self.lanes[name] for name in lanes])
        self.order.append(call.owner)
        self.inside[lane.provider] += 1
        assert self.inside[lane.provider] <= self.limits[lane.provider]
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside[lane.provider] -= 1
            self.line.leave(call, lane)
        return lane.provider

    def idle(self) -> bool:
        held = sum(self.slots.held(name) for name in self.limits) + self.slots.waiting
        windows = sum(lane.window.under_way for lane in self.lanes.values())
        return (held, windows, self.line.waiting, self.line.under_way) == (0, 0, 0, 0)


@asynccontextmanager
async def room(
    queue: QueueConfig | None = None, *, shared: bool = False, **limits: int
) -> AsyncIterator[Room]:
    made = Room(limits, queue or QueueConfig(), shared=shared)
    yield made
    await made.line.close()
    assert made.idle()


def call(owner: object = None, stage: int = 1, deadline: float = math.inf) -> Call:
    return Call("m", {}, owner=owner, stage=stage, deadline=deadline)


def started(*asks: Coroutine[Any, Any, str]) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(ask) for ask in asks]


class TestRoom:
    def test_nobody_waits_where_there_is_some(self) -> None:
        async def test() -> None:
            async with room(a=3) as r:
                began = now()
                await asyncio.gather(*(r.stay(call(n), 1) for n in range(3)))
                assert now() - began == pytest.approx(1)

        run(test)

    def test_a_slot_is_passed_on_at_once(self) -> None:
        async def test() -> None:
            async with room(a=3) as r:
                began = now()
                await asyncio.gather(*(r.stay(call(n), 1) for n in range(9)))
                assert now() - began == pytest.approx(3)

        run(test)

    def test_of_two_limits_both_hold(self) -> None:
        """Two providers on one host: together they get no more than it takes."""

        async def test() -> None:
            async with room(a=3, b=3, host=4) as r:
                host = (r.slots.column("host"), 4)
                for name in "ab":
                    lane = r.lanes[name]
                    r.lanes[name] = Lane(name, (*lane.wanted, host), lane.window)
                peak = 0

                async def stay(n: int) -> None:
                    nonlocal peak
                    lane = await r.line.enter(call(n), [r.lanes["ab"[n % 2]]])
                    peak = max(peak, r.slots.held("host"))
                    assert r.slots.held("a") <= 3
                    assert r.slots.held("b") <= 3
                    await asyncio.sleep(0.1)
                    r.line.leave(call(n), lane)

                await asyncio.gather(*(stay(n) for n in range(20)))
                assert peak == 4

        run(test)

    def test_a_provider_without_limits_makes_nobody_wait(self) -> None:
        """Even while calls wait elsewhere: two pools share one table."""

        async def test() -> None:
            async with room(a=1) as r:
                waiting = started(*(r.stay(call(n), 5) for n in range(3)))
                await asyncio.sleep(0.01)
                assert r.line.waiting == 2
                other = Line(r.slots, QueueConfig(max_concurrent=None), shared=False)
                free = Lane("free", (), Window(now))
                began = now()
                for n in range(20):
                    assert await other.enter(call(n), [free]) is free
                assert (now(), other.under_way) == (began, 20)
                for n in range(20):
                    other.leave(call(n), free)
                await asyncio.gather(*waiting)

        run(test)

    def test_what_another_worker_gives_back_is_found(self) -> None:
        async def test() -> None:
            async with room(a=1, shared=True) as r:
                theirs = r.lanes["a"].wanted
                assert r.slots.take(theirs)
                (waiting,) = started(r.stay(call(), 0))
                await asyncio.sleep(1)
                assert not waiting.done()
                r.slots.give(theirs)
                async with asyncio.timeout(0.02):
                    await waiting

        run(test)


class TestFairness:
    def test_one_of_48_calls_does_not_starve_those_of_one(self) -> None:
        async def test() -> None:
            async with room(a=4) as r:
                big = [r.stay(call("big"), 1) for _ in range(48)]
                small = [r.stay(call(n), 1) for n in range(12)]
                tasks = started(*big, *small)
                await asyncio.gather(*tasks)
                # The first four were there alone. Then it keeps a share, and no more.
                assert r.order[:4] == ["big"] * 4
                assert sorted(map(str, r.order[4:16])) != ["big"] * 12
                last_small = max(at for at, who in enumerate(r.order) if who != "big")
                assert last_small < 4 + 2 * 12

        run(test)

    def test_several_places_at_once_are_shared_out_too(self) -> None:
        async def test() -> None:
            async with room(a=4) as r:
                lane = r.lanes["a"]
                for _ in range(4):
                    assert r.slots.take(lane.wanted)
                tasks = started(*(r.stay(call("big"), 1) for _ in range(9)))
                tasks += started(*(r.stay(call(n), 1) for n in range(3)))
                await asyncio.sleep(0.01)
                for _ in range(4):
                    r.slots.give(lane.wanted)
                await asyncio.gather(*tasks)
                assert set(r.order[:4]) == {"big", 0, 1, 2}

        run(test)

    def test_requests_of_many_calls_share_evenly(self) -> None:
        async def test() -> None:
            async with room(a=6) as r:
                asks = [r.stay(call(owner), 1) for owner in "xyz" for _ in range(20)]
                await asyncio.gather(*started(*asks))
                # Until x, which came first, has none left.
                for start in range(6, 48, 6):
                    assert Counter(r.order[start : start + 6]) == {"x": 2, "y": 2, "z": 2}

        run(test)

    def test_what_is_nearly_done_goes_first(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                (first,) = started(r.stay(call("first"), 1))
                await asyncio.sleep(0)
                stages = [(1, "one"), (3, "three"), (2, "two"), (3, "three, later")]
                tasks = started(*(r.stay(call(name, stage), 1) for stage, name in stages))
                await asyncio.gather(first, *tasks)
                assert r.order == ["first", "three", "three, later", "two", "one"]

        run(test)

    def test_fairness_goes_before_stages(self) -> None:
        async def test() -> None:
            async with room(a=2) as r:
                held = started(r.stay(call("late"), 9), r.stay(call("other"), 1))
                await asyncio.sleep(0)
                tasks = started(r.stay(call("late", 5), 1), r.stay(call("new", 1), 1))
                await asyncio.gather(*held, *tasks)
                assert r.order[2:] == ["new", "late"]

        run(test)

    def test_nobody_overtakes_those_that_wait(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                tasks = started(*(r.stay(call(n), 1) for n in range(5)))
                await asyncio.sleep(2.5)
                tasks += started(r.stay(call("late"), 1))
                await asyncio.gather(*tasks)
                assert r.order == [0, 1, 2, 3, 4, "late"]

        run(test)


class TestTheFirstChoice:
    def test_is_waited_for_half_a_second(self) -> None:
        async def test() -> None:
            async with room(a=1, b=1) as r:
                (held,) = started(r.stay(call(), 5))
                await asyncio.sleep(0)
                began = now()
                assert await r.stay(call(), 0, "ab") == "b"
                assert 0.5 <= now() - began <= 0.6
                await held

        run(test)

    def test_is_taken_where_it_is_free_in_time(self) -> None:
        async def test() -> None:
            async with room(a=1, b=1) as r:
                (held,) = started(r.stay(call(), 0.3))
                await asyncio.sleep(0)
                assert await r.stay(call(), 0, "ab") == "a"
                await held

        run(test)

    def test_is_still_first_later_on(self) -> None:
        async def test() -> None:
            async with room(a=1, b=1) as r:
                held = started(r.stay(call(), 2), r.stay(call(), 2.001, "b"))
                await asyncio.sleep(0)
                tasks = started(*(r.stay(call(), 9, "ab") for _ in range(2)))
                assert await asyncio.gather(*tasks) == ["a", "b"]
                await asyncio.gather(*held)

        run(test)


class TestRefusals:
    def test_a_full_line(self) -> None:
        async def test() -> None:
            async with room(QueueConfig(size=2), a=1) as r:
                tasks = started(*(r.stay(call(n), 1) for n in range(3)))
                await asyncio.sleep(0.01)
                with pytest.raises(QueueFull) as refused:
                    await r.stay(call(), 1)
                assert (refused.value.http_status(), refused.value.code) == (503, "queue_full")
                assert float(refused.value.headers()["Retry-After"]) >= 1
                # What a request has begun it may go on with.
                tasks += started(r.stay(call("late", stage=2), 1))
                await asyncio.gather(*tasks)
                assert "late" in r.order

        run(test)

    def test_a_wait_that_is_too_long(self) -> None:
        async def test() -> None:
            async with room(QueueConfig(timeout=3.0), a=1) as r:
                (held,) = started(r.stay(call(), 10))
                await asyncio.sleep(0)
                began = now()
                with pytest.raises(QueueFull) as refused:
                    await r.stay(call(), 1)
                assert (refused.value.http_status(), refused.value.code) == (503, "queue_timeout")
                assert 3.0 <= now() - began <= 3.1
                await held

        run(test)

    def test_what_could_not_be_answered_in_time(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                tasks = started(*(r.stay(call(n), 1) for n in range(20)))
                await asyncio.sleep(5.5)
                assert r.line.waiting == 14
                began = now()
                with pytest.raises(QueueFull, match=r"its deadline is in 10\.0 s"):
                    await r.stay(call("late", deadline=now() + 10), 1)
                assert now() == began
                tasks += started(r.stay(call("in time", deadline=now() + 20), 1))
                await asyncio.gather(*tasks)
                assert r.order[-1] == "in time"

        run(test)

    def test_a_pace_of_before_is_forgotten(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                await asyncio.gather(*(r.stay(call(n), 10) for n in range(4)))
                await asyncio.sleep(1)
                tasks = started(r.stay(call(1), 0.1), r.stay(call(2, deadline=now() + 1), 0.1))
                await asyncio.gather(*tasks)

        run(test)

    def test_a_request_of_one_call_is_not_told_to_wait_for_all_of_another(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                tasks = started(*(r.stay(call("big"), 1) for _ in range(40)))
                await asyncio.sleep(5.5)
                tasks += started(r.stay(call("small", deadline=now() + 10), 1))
                await asyncio.gather(*tasks)
                assert r.order.index("small") == 6

        run(test)


class TestWindows:
    def test_limit_what_goes_in(self) -> None:
        async def test() -> None:
            async with room(a=10) as r:
                window = r.lanes["a"].window
                window.under_way = 4
                window.overloaded(UpstreamRateLimited("slow down", retry_after=0.0))
                window.under_way = 0
                tasks = started(*(r.stay(call(n), 1) for n in range(6)))
                await asyncio.sleep(0.01)
                assert (r.inside["a"], r.line.waiting) == (2, 4)
                await asyncio.gather(*tasks)

        run(test)


class TestCancellation:
    def test_in_the_moment_of_being_served(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                lane = await r.line.enter(call(), [r.lanes["a"]])
                (waiting,) = started(r.stay(call(), 1))
                await asyncio.sleep(0)
                r.line.leave(call(), lane)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting

        run(test)

    def test_in_the_moment_of_being_refused(self) -> None:
        async def test() -> None:
            async with room(QueueConfig(timeout=1.0), a=1) as r:
                lane = await r.line.enter(call(), [r.lanes["a"]])
                (waiting,) = started(r.stay(call(), 1))
                await asyncio.sleep(0)
                while not waiting.done():
                    # The tick comes first, this task behind it.
                    await asyncio.sleep(0.05 if r.line.waiting else 0)
                    if not r.line.waiting:
                        waiting.cancel()
                with pytest.raises((asyncio.CancelledError, QueueFull)):
                    await waiting
                r.line.leave(call(), lane)

        run(test)

    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("shared", [False, True])
    def test_at_any_time_leaks_nothing(self, seed: int, shared: bool) -> None:
        """Enter, leave and give up as it comes: limits hold in between, and nothing is left."""
        random = Random(seed)

        async def test() -> None:
            queue = QueueConfig(timeout=random.choice([0.7, 60.0]), size=random.choice([5, 1000]))
            async with room(queue, shared=shared, a=2, b=3) as r:
                windows = [lane.window for lane in r.lanes.values()]

                async def one(number: int) -> None:
                    await asyncio.sleep(random.choice([0.0, random.random() * 5]))
                    until = now() + random.choice([3.0, math.inf])
                    asked = call(number % 9, random.randint(1, 4), until)
                    lanes = random.choice(["a", "b", "ab", "ba"])
                    if random.random() < 0.02:
                        complaint = UpstreamRateLimited("slow down", retry_after=0.1)
                        random.choice(windows).overloaded(complaint)
                    await r.stay(asked, random.choice([0.0, 0.05, random.random()]), lanes)
                    random.choice(windows).answered()

                tasks = started(*(one(number) for number in range(300)))

                async def give_up() -> None:
                    while not all(task.done() for task in tasks):
                        # As often in the middle of a turn of the loop as between two of them.
                        for _ in range(random.randint(0, 5)):
                            await asyncio.sleep(0)
                        random.choice(tasks).cancel()
                        await asyncio.sleep(random.choice([0.0, 0.05, 0.1]))

                ends = await asyncio.gather(give_up(), *tasks, return_exceptions=True)
                kinds = Counter(type(end) for end in ends[1:])
                assert set(kinds) <= {str, type(None), QueueFull, asyncio.CancelledError}
                assert kinds[asyncio.CancelledError]
                assert r.idle()

        run(test)

    def test_of_everybody_leaves_nothing_running(self) -> None:
        async def test() -> None:
            async with room(a=1) as r:
                lane = await r.line.enter(call(), [r.lanes["a"]])
                tasks = started(*(r.stay(call(n), 1) for n in range(50)))
                await asyncio.sleep(0.01)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert (r.line.waiting, r.slots.waiting) == (0, 0)
                await asyncio.sleep(0.1)
                assert len(asyncio.all_tasks()) == 1
                r.line.leave(call(), lane)

        run(test)


def test_requests_that_are_over_are_forgotten() -> None:
    async def test() -> None:
        async with room(a=2) as r:
            for n in range(500):
                await r.stay(call(f"request {n}"), 0)
            assert not r.line._requests

    run(test)


def test_a_line_can_be_closed_while_calls_wait() -> None:
    async def test() -> None:
        async with room(a=1) as r:
            lane = await r.line.enter(call(), [r.lanes["a"]])
            (waiting,) = started(r.stay(call(), 1))
            await asyncio.sleep(0.01)
            await r.line.close()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            r.line.leave(call(), lane)

    run(test)
