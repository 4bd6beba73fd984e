"""Single flight and the cache: who shares an answer with whom, and who pays for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from driving import completion
from endpoints import (
    MESSAGES,
    TTL,
    FakeEndpoint,
    Tally,
    call,
    cold,
    failure_of,
    now,
    pooled,
    run,
    shared,
)

from proxy.errors import UpstreamError, UpstreamRejected, UpstreamTimeout
from proxy.upstream.answers import Answers
from proxy.upstream.flight import Flight, Flights
from proxy.upstream.port import Call, Json
from proxy.upstream.sharing import Shared


def text(answer: Json) -> str:
    said: str = answer["choices"][0]["message"]["content"]
    return said


def slow(seconds: float = 1.0, said: Any = "slow") -> Callable[[Call], Any]:
    async def answer() -> Any:
        await asyncio.sleep(seconds)
        return said

    return lambda _: answer()


class TestSingleFlight:
    def test_equal_calls_at_the_same_time_are_one_and_one_of_them_pays(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow())
            async with shared(endpoint) as upstream:
                watches = [Tally() for _ in range(5)]
                answers = await asyncio.gather(
                    *(upstream.complete(cold(watch)) for watch in watches)
                )
                assert [text(answer) for answer in answers] == ["slow"] * 5
                assert len(endpoint.calls) == 1
                assert [watch.attempts for watch in watches] == [["a"], *[["flight"]] * 4]
                assert [answer.get("usage") is None for answer in answers] == [
                    False,
                    *[True] * 4,
                ]

        run(test)

    def test_an_answer_is_one_s_own_to_change(self) -> None:
        async def test() -> None:
            async with shared(FakeEndpoint("a", slow())) as upstream:
                one, other = await asyncio.gather(
                    upstream.complete(cold()), upstream.complete(cold())
                )
                one["choices"][0]["message"]["content"] = "changed"
                assert text(other) == "slow"

        run(test)

    def test_those_that_come_later_are_another_call(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a")
            async with shared(endpoint) as upstream:
                for _ in range(3):
                    assert (await upstream.complete(cold()))["usage"]["total_tokens"] == 15
                assert len(endpoint.calls) == 3

        run(test)

    @pytest.mark.parametrize(
        "other",
        [
            cold(tenant="bob"),
            cold(model="n"),
            cold(body={"max_tokens": 5}),
            cold(body={"messages": [{"role": "user", "content": "ho"}]}),
            cold(hops="elsewhere"),
            cold(ours=frozenset({"temperature"})),
            cold(patience=10.0),
        ],
        ids=["tenant", "model", "parameter", "messages", "hops", "ours", "patience"],
    )
    def test_what_differs_is_not_shared(self, other: Call) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow())
            async with shared(endpoint, cache=True) as upstream:
                one = cold(tenant="alice") if other.tenant else cold()
                await asyncio.gather(upstream.complete(one), upstream.complete(other))
                assert len(endpoint.calls) == 2

        run(test)

    @pytest.mark.parametrize("temperature", [0.1, 1, None, False, "0", [0]])
    def test_only_temperature_0_is_shared(self, temperature: Any) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow())
            async with shared(endpoint, cache=True) as upstream:
                warm = cold(body={"temperature": temperature})
                plain = call(watch=Tally())
                for each in (warm, plain):
                    await asyncio.gather(upstream.complete(each), upstream.complete(each))
                assert len(endpoint.calls) == 4

        run(test)

    def test_zero_is_zero(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow())
            async with shared(endpoint) as upstream:
                float_ = cold(body={"temperature": 0.0})
                await asyncio.gather(upstream.complete(float_), upstream.complete(float_))
                assert len(endpoint.calls) == 1

        run(test)

    def test_an_error_reaches_all_each_as_its_own(self) -> None:
        refused = UpstreamRejected("too hot", status=422, code="hot", param="temperature")

        async def test() -> None:
            endpoint = FakeEndpoint("a", slow(said=refused))
            async with shared(endpoint) as upstream:
                errors = await asyncio.gather(
                    *(failure_of(upstream.complete(cold())) for _ in range(3))
                )
                assert len(endpoint.calls) == 1
                assert len({id(error) for error in errors}) == 3
                for error in errors:
                    assert type(error) is UpstreamRejected
                    assert error.http_status() == 422
                    assert error.body() == refused.body()
                errors[0].summary = {"calls": 1}
                assert errors[1].summary == {}

        run(test)

    def test_a_bug_reaches_all_too(self) -> None:
        def broken(_: Call) -> str:
            raise ZeroDivisionError

        async def test() -> None:
            async with shared(FakeEndpoint("a", broken)) as upstream:
                ended = await asyncio.gather(
                    *(upstream.complete(cold()) for _ in range(2)), return_exceptions=True
                )
                assert [type(each) for each in ended] == [ZeroDivisionError] * 2

        run(test)

    def test_a_retry_inside_is_the_first_one_s(self) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", slow(said=UpstreamTimeout("no"))), FakeEndpoint("b", slow())
            async with shared(a, b) as upstream:
                first, second = Tally(), Tally()
                await asyncio.gather(
                    upstream.complete(cold(first)), upstream.complete(cold(second))
                )
                assert first.attempts == ["a", "b"]
                assert [error.code for error in first.errors] == ["upstream_timeout"]
                assert (second.attempts, second.errors) == (["flight"], [])

        run(test)

    def test_what_a_provider_could_not_do_is_told_to_all(self) -> None:
        def respond(call: Call) -> Any:
            if "logprobs" in call.body:
                return UpstreamRejected("logprobs is not supported", status=400, param="logprobs")
            return slow()(call)

        async def test() -> None:
            async with shared(FakeEndpoint("a", respond), cache=True) as upstream:
                watches = [Tally() for _ in range(3)]

                async def asked(watch: Tally, after: float) -> None:
                    await asyncio.sleep(after)
                    await upstream.complete(cold(watch, body={"logprobs": True}))

                # The last one finds the answer kept.
                await asyncio.gather(*map(asked, watches, (0.0, 0.5, 2.0)))
                assert [watch.attempts[-1] for watch in watches] == ["a", "flight", "cache"]
                for watch in watches:
                    assert watch.notes == ["a: logprobs: this provider does not support it"]

        run(test)


class TestWhoLeaves:
    def test_takes_only_itself_away_and_the_next_one_pays(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow())
            async with shared(endpoint) as upstream:
                watches = [Tally() for _ in range(3)]
                tasks = [asyncio.create_task(upstream.complete(cold(w))) for w in watches]
                await asyncio.sleep(0.5)
                tasks[0].cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                assert isinstance(answers[0], asyncio.CancelledError)
                assert len(endpoint.calls) == 1
                assert [watch.attempts for watch in watches] == [["a"], ["a"], ["flight"]]
                assert [bool(answer.get("usage")) for answer in answers[1:]] == [True, False]

        run(test)

    def test_one_that_only_waits_changes_nothing(self) -> None:
        async def test() -> None:
            async with shared(FakeEndpoint("a", slow())) as upstream:
                watches = [Tally() for _ in range(3)]
                tasks = [asyncio.create_task(upstream.complete(cold(w))) for w in watches]
                await asyncio.sleep(0.5)
                tasks[1].cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert [watch.attempts for watch in watches] == [["a"], [], ["flight"]]

        run(test)

    @pytest.mark.parametrize("late", [False, True], ids=["before it wins", "after it has won"])
    def test_the_next_one_learns_which_of_two_attempts_answers(self, late: bool) -> None:
        async def make(flight: Flight) -> None:
            flight.relay.sent("a")
            rival = flight.relay.beside()
            rival.sent("b")
            await asyncio.sleep(1.0)
            rival.won()
            await asyncio.sleep(1.0)
            await flight.write([completion("b")])

        async def test() -> None:
            flights = Flights()

            async def asked(watch: Tally) -> list[Any]:
                async with flights.join(b"key", watch, make) as batches:
                    return [each async for batch in batches for each in batch]

            watches = Tally(), Tally()
            first, second = (asyncio.create_task(asked(watch)) for watch in watches)
            await asyncio.sleep(1.5 if late else 0.5)
            first.cancel()
            assert text((await second)[0]) == "b"
            assert watches[0].attempts == ["a"]
            assert watches[0].rival is not None
            assert (watches[0].rival.attempts, watches[0].rival.end) == (["b"], "won")
            assert watches[1].attempts == (["b"] if late else ["a", "b"])

        run(test)

    def test_the_last_one_takes_the_call_along(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow(60.0))
            async with shared(endpoint) as upstream:
                began = now()
                tasks = [asyncio.create_task(upstream.complete(cold())) for _ in range(3)]
                await asyncio.sleep(0.5)
                for task in tasks:
                    assert endpoint.running == 1
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                assert endpoint.running == 0
                assert now() - began == 0.5

                endpoint.respond = slow()
                assert text(await upstream.complete(cold())) == "slow"
                assert len(endpoint.calls) == 2

        run(test)

    def test_and_who_comes_meanwhile_makes_another(self) -> None:
        async def reluctant() -> str:
            try:
                await asyncio.sleep(60.0)
            finally:
                await asyncio.sleep(1.0)
            return "slow"

        async def test() -> None:
            endpoint = FakeEndpoint("a", lambda _: reluctant())
            async with shared(endpoint) as upstream:
                leaving = asyncio.create_task(upstream.complete(cold()))
                await asyncio.sleep(0.5)
                leaving.cancel()
                await asyncio.sleep(0.5)
                endpoint.respond = slow()
                assert text(await upstream.complete(cold())) == "slow"
                await asyncio.gather(leaving, return_exceptions=True)
                assert len(endpoint.calls) == 2

        run(test)

    def test_in_the_very_first_moment(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", slow())
            async with shared(endpoint) as upstream:
                task = asyncio.create_task(upstream.complete(cold()))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert endpoint.running == 0
                assert text(await upstream.complete(cold())) == "slow"

        run(test)

    def test_its_deadline_is_not_the_others(self) -> None:
        """Behind it the call waits for room elsewhere, as the others have time for that."""

        def failing(call: Call) -> Any:
            return slow(12.0 if call.model == "m" else 0.0, UpstreamTimeout("no"))(call)

        async def test() -> None:
            a, b = FakeEndpoint("a", failing), FakeEndpoint("b", slow(5.0), max_concurrent=1)
            async with shared(a, b) as upstream:
                # One every five seconds: by then it is known how long there is to wait.
                others = [asyncio.create_task(upstream.complete(call("n"))) for _ in range(5)]
                hurried = cold(deadline=now() + 1.0)
                first = asyncio.create_task(upstream.complete(hurried))
                second = asyncio.create_task(upstream.complete(cold(deadline=now() + 60.0)))
                await asyncio.sleep(1.0)
                first.cancel()
                assert text(await second) == "slow"
                await asyncio.gather(first, *others, return_exceptions=True)

        run(test)


class TestCache:
    def test_the_same_question_is_answered_without_a_call_until_time_is_over(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a")
            async with shared(endpoint, cache=True) as upstream:
                first, second, third = Tally(), Tally(), Tally()
                paid = await upstream.complete(cold(first))
                await asyncio.sleep(TTL - 1)
                free = await upstream.complete(cold(second))
                assert (text(free), "usage" in free) == (text(paid), False)
                free["choices"].clear()
                assert text(await upstream.complete(cold())) == "a"
                await asyncio.sleep(2)
                assert "usage" in await upstream.complete(cold(third))
                assert [watch.attempts for watch in (first, second, third)] == [
                    ["a"],
                    ["cache"],
                    ["a"],
                ]

        run(test)

    @pytest.mark.parametrize("other", [cold(tenant="bob"), call(watch=Tally())])
    def test_is_for_the_same_key_and_temperature_0(self, other: Call) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a")
            async with shared(endpoint, cache=True) as upstream:
                await upstream.complete(cold(tenant="alice"))
                await upstream.complete(other)
                assert len(endpoint.calls) == 2

        run(test)

    def test_pools_have_their_own_answers(self) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a"), FakeEndpoint("b")
            answers = Answers(TTL, 1_000_000, now)
            async with pooled(a) as one, pooled(b) as other:
                for name, pool in (("pool", one), ("upstream", other)):
                    await Shared(pool, name, answers).complete(cold())
            assert (len(a.calls), len(b.calls)) == (1, 1)

        run(test)

    @pytest.mark.parametrize(
        "said", [completion(""), completion(None), UpstreamError("oops")], ids=str
    )
    def test_no_answer_is_not_kept(self, said: Json | UpstreamError) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", lambda _: dict(said) if isinstance(said, dict) else said)
            async with shared(endpoint, cache=True, breaker=False) as upstream:
                for _ in range(2):
                    await asyncio.gather(upstream.complete(cold()), return_exceptions=True)
                assert len(endpoint.calls) == 2

        run(test)

    def test_tools_are_an_answer(self) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}
        said = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}

        async def test() -> None:
            endpoint = FakeEndpoint("a", lambda _: dict(said))
            async with shared(endpoint, cache=True) as upstream:
                for _ in range(2):
                    answer = await upstream.complete(cold())
                    assert answer["choices"][0]["message"] == message
                assert len(endpoint.calls) == 1

        run(test)

    def test_of_ten_megabytes_is_not_kept_where_there_is_less_room(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", lambda _: "x" * 10_000_000)
            async with shared(endpoint, cache=True) as upstream:
                for _ in range(2):
                    await upstream.complete(cold(body={"messages": MESSAGES}))
                assert len(endpoint.calls) == 2

        run(test)
