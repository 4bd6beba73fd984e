"""What a request's ledger says of calls that were made twice, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from driving import MESSAGES, Driver, completion
from endpoints import FakeEndpoint, pooled, run

from proxy.errors import UpstreamRejected, UpstreamTimeout
from proxy.run import calls
from proxy.run.ledger import CallRecord
from proxy.run.scope import Caller
from proxy.settings import Limits, Sharing
from proxy.upstream.answers import Answers
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call, Json, Upstream
from proxy.upstream.sharing import Shared

BODY = {"messages": list(MESSAGES), "temperature": 0}


class Scripted(FakeEndpoint):
    """Answers after the seconds that are ``next``, half a one where nothing is."""

    def __init__(self, name: str, **config: Any) -> None:
        super().__init__(name, lambda _: self._after(), **config)
        self.next: list[Any] = []

    async def _chunks(self, script: Sequence[Any]) -> AsyncIterator[Sequence[Json]]:
        async for batch in super()._chunks(script):
            yield batch
        yield [{"choices": [], "usage": completion("")["usage"]}]

    async def _after(self) -> Any:
        step = self.next.pop(0) if self.next else 0.5
        seconds, said = step if isinstance(step, tuple) else (step, self.config.name)
        await asyncio.sleep(seconds)
        return said


def driver(upstream: Upstream, limits: Limits | None = None) -> Driver:
    driver = Driver(upstream, limits=limits)  # type: ignore[arg-type]
    driver.run.caller = Caller(tenant="alice")
    return driver


async def called(driver: Driver) -> str:
    run = driver.run
    (reply,) = await calls.complete(run, run.call("m", BODY), "proposer")
    return reply.text


async def streamed(driver: Driver) -> str:
    run = driver.run
    async with calls.stream(run, run.call("m", BODY), "final") as incoming:
        async for _ in incoming:
            pass
    return incoming.reply.text


Kind = Callable[[Driver], Coroutine[Any, Any, str]]
kinds = pytest.mark.parametrize("kind", [called, streamed])


def told(record: CallRecord) -> tuple[Any, ...]:
    return record.provider, record.outcome, record.why


@asynccontextmanager
async def overdue(*endpoints: Scripted) -> AsyncIterator[Pool]:
    """A pool whose first provider takes a second as a rule, and next time forever."""
    first = endpoints[0]
    async with pooled(*endpoints, sharing=Sharing(hedge=True)) as pool:
        for kind in (called, streamed):
            first.next = [1.0 - i / 10_000 for i in range(40)]
            one = driver(pool)
            for _ in range(40):
                # In a task of its own: each is a first round.
                await asyncio.create_task(kind(one))
        first.next = [900.0]
        yield pool


class TestASecondAttempt:
    @kinds
    def test_that_wins_is_the_call_and_the_first_was_overtaken(self, kind: Kind) -> None:
        async def test() -> None:
            async with overdue(Scripted("a"), Scripted("b")) as pool:
                one = driver(pool)
                assert await kind(one) == "b"
                ledger = one.run.ledger
                assert [told(record) for record in ledger.calls] == [
                    ("a", "cancelled", "overtaken"),
                    ("b", "ok", ""),
                ]
                assert [record.repeated for record in ledger.calls] == [True, False]
                assert (ledger.choices, ledger.rounds, ledger.unreported) == (2, 1, 1)
                assert ledger.total_tokens == 15
                assert ledger.calls[0].first is None

        run(test)

    @kinds
    def test_that_loses_was_overtaken(self, kind: Kind) -> None:
        async def test() -> None:
            a, b = Scripted("a"), Scripted("b")
            async with overdue(a, b) as pool:
                a.next = [1.2]
                one = driver(pool)
                assert await kind(one) == "a"
                assert [told(record) for record in one.run.ledger.calls] == [
                    ("a", "ok", ""),
                    ("b", "cancelled", "overtaken"),
                ]

        run(test)

    def test_that_fails_is_told_by_its_code(self) -> None:
        async def test() -> None:
            a, b = Scripted("a"), Scripted("b")
            async with overdue(a, b) as pool:
                a.next, b.next = [3.0], [(0.1, UpstreamTimeout("no"))]
                one = driver(pool)
                assert await called(one) == "a"
                assert [told(record) for record in one.run.ledger.calls] == [
                    ("a", "ok", ""),
                    ("b", "upstream_timeout", ""),
                ]

        run(test)

    def test_that_nobody_had_room_for_is_not_told_of(self) -> None:
        async def test() -> None:
            a = Scripted("a", max_concurrent=1)
            async with overdue(a) as pool:
                a.next = [3.0]
                one = driver(pool)
                assert await called(one) == "a"
                assert [told(record) for record in one.run.ledger.calls] == [("a", "ok", "")]

        run(test)

    def test_is_not_paid_for_by_the_request(self) -> None:
        async def test() -> None:
            async with overdue(Scripted("a"), Scripted("b")) as pool:
                one = driver(pool, Limits(max_calls=2))
                assert await called(one) == "b"
                assert one.run.budget.calls_left == 1
                assert await called(one) == "a"

        run(test)

    def test_that_is_made_again_is_not_paid_for_either(self) -> None:
        def picky(call: Call) -> Any:
            if "logprobs" in call.body:
                return UpstreamRejected("logprobs is not supported", status=400, param="logprobs")
            return "b"

        async def test() -> None:
            b = Scripted("b")
            b.respond = picky
            async with overdue(Scripted("a"), b) as pool:
                one = driver(pool, Limits(max_calls=2))
                asking = one.run
                call = asking.call("m", {**BODY, "logprobs": True})
                (reply,) = await calls.complete(asking, call, "proposer")
                assert reply.text == "b"
                assert [told(record) for record in asking.ledger.calls] == [
                    ("a", "cancelled", "overtaken"),
                    ("b", "upstream_rejected", ""),
                    ("b", "ok", ""),
                ]
                assert asking.budget.calls_left == 1
                (note,) = asking.ledger.skipped
                assert note.startswith("b: logprobs")

        run(test)

    def test_ends_with_a_client_that_hangs_up(self) -> None:
        async def test() -> None:
            a, b = Scripted("a"), Scripted("b")
            async with overdue(a, b) as pool:
                b.next = [900.0]
                one = driver(pool)
                task = asyncio.create_task(called(one))
                await asyncio.sleep(1.5)
                assert (a.running, b.running) == (1, 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert (a.running, b.running) == (0, 0)
                first, second = one.run.ledger.calls
                assert (first.outcome, second.outcome) == ("cancelled", "cancelled")
                assert first.why == second.why != "overtaken"

        run(test)


class TestAnAnswerThatIsShared:
    @kinds
    @pytest.mark.parametrize("source", ["cache", "flight"])
    def test_is_no_call(self, source: str, kind: Kind) -> None:
        async def test() -> None:
            async with pooled(Scripted("a")) as pool:
                upstream = Shared(pool, "pool", Answers(60.0, 1_000_000, lambda: 0.0))
                first, second = driver(upstream), driver(upstream, Limits(max_calls=1))
                if source == "flight":
                    await asyncio.gather(kind(first), kind(second))
                else:
                    await kind(first)
                    await kind(second)
                ledger = second.run.ledger
                assert [told(record) for record in ledger.calls] == [(source, "ok", "")]
                assert ledger.shared == {source: 1}
                assert (ledger.choices, ledger.rounds, ledger.unreported) == (0, 0, 0)
                assert ledger.total_tokens == 0
                assert ledger.usual_duration() is None
                assert second.run.budget.calls_left == 1
                assert first.run.ledger.shared == {}
                assert first.run.ledger.total_tokens == 15

        run(test)

    @kinds
    def test_is_no_round(self, kind: Kind) -> None:
        async def test() -> None:
            async with pooled(Scripted("a")) as pool:
                upstream = Shared(pool, "pool", Answers(60.0, 1_000_000, lambda: 0.0))
                await asyncio.create_task(kind(driver(upstream)))
                one = driver(upstream)
                await kind(one)
                await calls.complete(one.run, one.run.call("n", BODY), "final")
                assert one.run.ledger.rounds == 1

        run(test)

    @kinds
    def test_whose_call_failed_is_told_of_by_none_but_who_led(self, kind: Kind) -> None:
        async def test() -> None:
            a = Scripted("a")
            a.next = [(1.0, UpstreamTimeout("no"))]
            async with pooled(a, breaker=False) as pool:
                upstream = Shared(pool, "pool", None)
                first, second = driver(upstream), driver(upstream)
                ended = await asyncio.gather(kind(first), kind(second), return_exceptions=True)
                assert [type(each) for each in ended] == [UpstreamTimeout] * 2
                assert [told(record) for record in first.run.ledger.calls] == [
                    ("a", "upstream_timeout", "")
                ]
                assert second.run.ledger.calls == []

        run(test)

    @kinds
    def test_becomes_one_s_own_call_where_who_led_leaves(self, kind: Kind) -> None:
        async def test() -> None:
            a = Scripted("a")
            a.next = [2.0]
            async with pooled(a) as pool:
                upstream = Shared(pool, "pool", None)
                first, second = driver(upstream), driver(upstream)
                leaving = asyncio.create_task(kind(first))
                staying = asyncio.create_task(kind(second))
                await asyncio.sleep(1.0)
                leaving.cancel()
                assert await staying == "a"
                assert len(a.calls) == 1
                assert [record.outcome for record in first.run.ledger.calls] == ["cancelled"]
                assert [told(record) for record in second.run.ledger.calls] == [("a", "ok", "")]
                assert (second.run.ledger.choices, second.run.ledger.total_tokens) == (1, 15)

        run(test)
