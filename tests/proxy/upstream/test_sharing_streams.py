"""Streams that are shared and kept: each reader gets all of it, from the start, at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from endpoints import (
    END,
    ROLE,
    TTL,
    FakeEndpoint,
    Tally,
    call,
    cold,
    delta,
    failure_of,
    now,
    read,
    run,
    shared,
    text_of,
)

from proxy.errors import UpstreamError, UpstreamRejected, UpstreamUnreachable
from proxy.upstream import flight
from proxy.upstream.port import Call, Json, Upstream

USAGE: Json = {"model": "served", "choices": [], "usage": {"total_tokens": 15}}


def spoken(*script: Any) -> Callable[[Call], list[Any]]:
    return lambda _: [*script]


#: A word a second, and the end a second later.
PACED = spoken(ROLE, delta("a"), 1.0, delta("b"), 1.0, delta("c"), 1.0, END, USAGE)


async def heard(upstream: Upstream, asked: Call, pause: float = 0.0) -> list[list[Json]]:
    """The batches of a stream, read with a ``pause`` behind each."""
    batches = []
    async with upstream.stream(asked) as chunks:
        async for batch in chunks:
            batches.append(list(batch))
            await asyncio.sleep(pause)
    return batches


async def later(seconds: float, upstream: Upstream, asked: Call) -> list[list[Json]]:
    await asyncio.sleep(seconds)
    return await heard(upstream, asked)


class TestSingleFlight:
    def test_equal_streams_at_the_same_time_are_one_and_one_of_them_pays(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint) as upstream:
                watches = [Tally() for _ in range(3)]
                first, *others = await asyncio.gather(
                    *(heard(upstream, cold(watch)) for watch in watches)
                )
                assert len(endpoint.calls) == 1
                assert first == [[ROLE], [delta("a")], [delta("b")], [delta("c")], [END], [USAGE]]
                assert others == [[*first[:-1], []]] * 2
                assert [watch.attempts for watch in watches] == [["a"], ["flight"], ["flight"]]

        run(test)

    def test_usage_that_stands_beside_text_is_taken_out_of_it(self) -> None:
        told = {"usage": {"total_tokens": 15}}

        async def test() -> None:
            endpoint = FakeEndpoint("a", spoken(1.0, {**delta("a"), **told}, {**END, **told}))
            async with shared(endpoint) as upstream:
                first, second = await asyncio.gather(*(heard(upstream, cold()) for _ in range(2)))
                assert first == [[{**delta("a"), **told}], [{**END, **told}]]
                assert second == [[delta("a")], [END]]

        run(test)

    def test_who_comes_in_the_middle_gets_it_from_the_start_and_at_once(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint) as upstream:
                leading = asyncio.create_task(heard(upstream, cold()))
                await asyncio.sleep(1.5)
                async with upstream.stream(cold()) as chunks:
                    for expected in (ROLE, delta("a"), delta("b")):
                        assert await anext(chunks) == [expected]
                    assert now() == 1001.5
                    assert [batch async for batch in chunks] == [[delta("c")], [END], []]
                await leading
                assert len(endpoint.calls) == 1

        run(test)

    def test_who_comes_behind_the_end_is_another_call(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a")
            async with shared(endpoint) as upstream:
                for _ in range(2):
                    assert await read(upstream, cold()) == "a"
                assert len(endpoint.calls) == 2

        run(test)

    def test_chunks_are_one_s_own_to_change(self) -> None:
        async def test() -> None:
            async with shared(FakeEndpoint("a", PACED), cache=True) as upstream:

                async def changing() -> None:
                    async with upstream.stream(cold()) as chunks:
                        async for batch in chunks:
                            for chunk in batch:
                                chunk["choices"].clear()

                _, other = await asyncio.gather(changing(), read(upstream, cold()))
                assert other == "abc"
                await changing()
                assert await read(upstream, cold()) == "abc"

        run(test)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (cold(tenant="alice"), cold(tenant="bob")),
            (cold(), cold(model="n")),
            (cold(), cold(body={"stream_options": {"include_usage": True}})),
            (call(watch=Tally(), body={"temperature": 1}),) * 2,
            (call(watch=Tally()),) * 2,
        ],
        ids=["tenant", "model", "body", "temperature 1", "temperature"],
    )
    def test_what_differs_is_not_shared(self, one: Call, other: Call) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint, cache=True) as upstream:
                await asyncio.gather(read(upstream, one), read(upstream, other))
                assert len(endpoint.calls) == 2

        run(test)

    def test_a_stream_and_an_answer_are_two_calls(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a")
            async with shared(endpoint, cache=True) as upstream:
                for _ in range(2):
                    said = await asyncio.gather(read(upstream, cold()), upstream.complete(cold()))
                    assert (said[0], text_of(said[1])) == ("a", "a")
                assert len(endpoint.calls) == 2

        run(test)

    def test_a_slow_reader_is_waited_for_by_nobody(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint) as upstream:
                slow = asyncio.create_task(heard(upstream, cold(), pause=60.0))
                assert await read(upstream, cold()) == "abc"
                assert (now(), endpoint.running) == (1003.0, 0)
                assert len(await slow) == 6
                assert now() == 1360.0

        run(test)

    def test_another_provider_takes_over_for_all(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", spoken(ROLE, 1.0, UpstreamUnreachable("reset")))
            async with shared(a, FakeEndpoint("b")) as upstream:
                first, second = Tally(), Tally()
                said = await asyncio.gather(
                    read(upstream, cold(first)), read(upstream, cold(second))
                )
                assert said == ["b", "b"]
                assert (first.attempts, second.attempts) == (["a", "b"], ["flight"])

        run(test)

    def test_one_that_breaks_off_breaks_off_for_all(self) -> None:
        reset = UpstreamUnreachable("reset")

        async def test() -> None:
            endpoint = FakeEndpoint("a", spoken(ROLE, delta("a"), 1.0, reset))
            async with shared(endpoint, cache=True) as upstream:
                pieces: list[list[Any]] = [[], []]

                async def reading(into: list[Any]) -> None:
                    async with upstream.stream(cold()) as chunks:
                        async for batch in chunks:
                            into += batch

                errors = await asyncio.gather(*(failure_of(reading(each)) for each in pieces))
                assert pieces == [[ROLE, delta("a")]] * 2
                assert [str(error) for error in errors] == ["reset"] * 2
                assert errors[0] is not errors[1]
                assert len(endpoint.calls) == 1

        run(test)

    def test_one_that_is_refused_is_refused_to_all(self) -> None:
        refused = UpstreamRejected("too hot", status=422)

        async def test() -> None:
            endpoint = FakeEndpoint("a", lambda _: refused)
            async with shared(endpoint) as upstream:
                errors = await asyncio.gather(
                    *(failure_of(read(upstream, cold())) for _ in range(2))
                )
                assert [error.http_status() for error in errors] == [422, 422]
                assert len(endpoint.calls) == 1

        run(test)


class TestWhoLeaves:
    def test_takes_only_itself_away_and_the_next_one_pays(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint) as upstream:
                watches = [Tally() for _ in range(3)]
                tasks = [asyncio.create_task(heard(upstream, cold(watch))) for watch in watches]
                await asyncio.sleep(1.5)
                tasks[0].cancel()
                await asyncio.gather(tasks[0], return_exceptions=True)
                second, third = await asyncio.gather(*tasks[1:])
                assert (second[-1], third[-1]) == ([USAGE], [])
                assert [watch.attempts for watch in watches] == [["a"], ["a"], ["flight"]]
                assert len(endpoint.calls) == 1

        run(test)

    def test_even_behind_the_end_of_what_it_has_not_read(self) -> None:
        async def test() -> None:
            async with shared(FakeEndpoint("a", PACED)) as upstream:
                watches = [Tally() for _ in range(3)]
                tasks = [
                    asyncio.create_task(heard(upstream, cold(watch), pause))
                    for watch, pause in zip(watches, (60.0, 30.0, 0.0), strict=True)
                ]
                await asyncio.sleep(5.0)
                tasks[0].cancel()
                _, second, third = await asyncio.gather(*tasks, return_exceptions=True)
                assert isinstance(second, list)
                assert isinstance(third, list)
                assert (second[-1], third[-1]) == ([USAGE], [])
                assert [watch.attempts for watch in watches] == [["a"], ["a"], ["flight"]]

        run(test)

    def test_early_of_its_own_accord(self) -> None:
        """As an approach does that has read enough."""

        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint, cache=True) as upstream:
                staying = asyncio.create_task(read(upstream, cold()))
                async with upstream.stream(cold()) as chunks:
                    await anext(chunks)
                assert await staying == "abc"
                async with upstream.stream(call(watch=Tally())) as chunks:
                    await anext(chunks)
                assert endpoint.running == 0

        run(test)

    def test_the_last_one_takes_the_call_along(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint, cache=True) as upstream:
                tasks = [asyncio.create_task(read(upstream, cold())) for _ in range(3)]
                await asyncio.sleep(1.5)
                for task in tasks:
                    assert endpoint.running == 1
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                assert endpoint.running == 0
                assert now() == 1001.5

                assert await read(upstream, cold()) == "abc"
                assert len(endpoint.calls) == 2

        run(test)


class TestTooMuchToHold:
    """Beyond so many bytes nobody joins any more, and nothing is held that all have read."""

    @pytest.fixture(autouse=True)
    def little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flight, "_MOST", 1000)

    def test_who_comes_then_is_another_call(self) -> None:
        async def test() -> None:
            long = spoken(ROLE, delta("a"), 1.0, delta("x" * 1000), 1.0, END)
            endpoint = FakeEndpoint("a", long)
            async with shared(endpoint, cache=True) as upstream:
                # The last one when the first has ended, and its successor has not said much yet.
                moments = (0.0, 0.5, 1.5, 2.25)
                said = await asyncio.gather(*(later(s, upstream, cold()) for s in moments))
                assert len({str(each) for each in said}) == 1
                assert len(endpoint.calls) == 2
                # Nor is it kept.
                await read(upstream, cold())
                assert len(endpoint.calls) == 3

        run(test)

    def test_who_has_read_nothing_yet_still_gets_all_of_it(self) -> None:
        async def test() -> None:
            words = [delta(f"{number} ") for number in range(100)]
            endpoint = FakeEndpoint("a", spoken(ROLE, *words, END))
            async with shared(endpoint) as upstream, upstream.stream(cold()) as chunks:
                fast = await heard(upstream, cold())
                assert [batch async for batch in chunks] == fast
                assert len(fast) == 102
                assert len(endpoint.calls) == 1

        run(test)

    def test_it_is_not_far_ahead_of_who_reads_it_first(self) -> None:
        sent: list[int] = []

        def words() -> Iterator[Json]:
            for number in range(100):
                sent.append(number)
                yield delta(f"{number} ")
            yield END

        async def test() -> None:
            async with shared(FakeEndpoint("a", lambda _: words())) as upstream:
                slow = asyncio.create_task(heard(upstream, cold(), pause=1.0))
                slower = asyncio.create_task(heard(upstream, cold(), pause=9.0))
                await asyncio.sleep(30.5)
                assert 30 < len(sent) < 35
                assert await slow == await slower

        run(test)


@pytest.mark.parametrize("cache", [False, True])
def test_who_has_much_to_catch_up_with_holds_nobody_up(cache: bool) -> None:
    async def test() -> None:
        words = [delta(f"{number} ") for number in range(1000)]
        end = () if cache else (60.0,)
        async with shared(FakeEndpoint("a", spoken(*words, *end, END)), cache=cache) as upstream:
            first = asyncio.create_task(read(upstream, cold()))
            await asyncio.sleep(30.0)
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            async with upstream.stream(cold()) as chunks:
                beside = asyncio.create_task(others())
                for _ in words:
                    await anext(chunks)
                beside.cancel()
            await asyncio.gather(first, beside, return_exceptions=True)
            assert turns > 900

    run(test)


class TestCache:
    def test_a_stream_is_replayed_without_a_call_until_time_is_over(self) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", PACED)
            async with shared(endpoint, cache=True) as upstream:
                watches = [Tally() for _ in range(3)]
                paid = await heard(upstream, cold(watches[0]))
                await asyncio.sleep(TTL - 1)
                began = now()
                assert await heard(upstream, cold(watches[1])) == [*paid[:-1], []]
                assert now() == began
                await asyncio.sleep(2)
                assert await heard(upstream, cold(watches[2])) == paid
                attempts = [watch.attempts for watch in watches]
                assert attempts == [["a"], ["cache"], ["a"]]

        run(test)

    def test_it_says_what_a_provider_could_not_do(self) -> None:
        def respond(call: Call) -> Any:
            if "logprobs" in call.body:
                return UpstreamRejected("logprobs is not supported", status=400, param="logprobs")
            return PACED(call)

        async def test() -> None:
            async with shared(FakeEndpoint("a", respond), cache=True) as upstream:
                watches = [Tally() for _ in range(3)]
                asked = [cold(watch, body={"logprobs": True}) for watch in watches]
                # The last one finds the answer kept.
                await asyncio.gather(
                    *(later(s, upstream, each) for s, each in zip((0, 1, 9), asked, strict=True))
                )
                assert [watch.attempts[-1] for watch in watches] == ["a", "flight", "cache"]
                for watch in watches:
                    assert watch.notes == ["a: logprobs: this provider does not support it"]

        run(test)

    def test_several_choices_are_kept(self) -> None:
        async def test() -> None:
            second = {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}
            endpoint = FakeEndpoint("a", spoken(delta("a"), second, END))
            async with shared(endpoint, cache=True) as upstream:
                for _ in range(2):
                    assert await heard(upstream, cold()) == [[delta("a")], [second], [END]]
                assert len(endpoint.calls) == 1

        run(test)

    def test_tools_are_an_answer(self) -> None:
        async def test() -> None:
            tools = [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}]
            calling = {"choices": [{"index": 0, "delta": {"tool_calls": tools}}]}
            endpoint = FakeEndpoint("a", spoken(ROLE, calling, END))
            async with shared(endpoint, cache=True) as upstream:
                for _ in range(2):
                    assert await heard(upstream, cold()) == [[ROLE], [calling], [END]]
                assert len(endpoint.calls) == 1

        run(test)

    @pytest.mark.parametrize(
        "script",
        [
            [ROLE, delta("a")],
            [ROLE, END],
            [ROLE, delta("  "), END],
            [ROLE, delta("a"), {"choices": [{"index": 1, "delta": {"content": "b"}}]}, END],
            [ROLE, delta("a"), END, UpstreamError("oops")],
            [{"choices": []}],
            [delta("a"), {"choices": ["text"]}, END],
            [delta("a"), {"choices": [{"delta": "text"}]}, END],
        ],
        ids=["cut", "empty", "blank", "cut choice", "failed", "nothing", "nonsense", "no delta"],
    )
    def test_what_is_no_answer_is_not_kept(self, script: list[Any]) -> None:
        async def test() -> None:
            endpoint = FakeEndpoint("a", spoken(*script))
            async with shared(endpoint, cache=True, breaker=False) as upstream:
                for _ in range(2):
                    await asyncio.gather(heard(upstream, cold()), return_exceptions=True)
                assert len(endpoint.calls) == 2

        run(test)
