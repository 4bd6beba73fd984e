"""Calls side by side: taken as they land, none left behind, rounds that follow the data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from conftest import MakeProxy, eventually
from driving import MESSAGES, Driver, FakeUpstream, app_with, completion, example, taken

from optictl.simulator import Fault, SimulatorThread
from proxy.chat import Chat, Reply
from proxy.ensembles import Member
from proxy.errors import EmptyReply
from proxy.llm import LLM
from proxy.settings import Limits
from proxy.upstream.port import Call


class Doors:
    """Answers that wait until the test opens their door, in any order."""

    def __init__(self) -> None:
        self._doors: dict[int, asyncio.Event] = {}
        self._next = 0

    def __call__(self, call: Call) -> Awaitable[str]:
        number, self._next = self._next, self._next + 1
        return self._behind(number)

    async def _behind(self, number: int) -> str:
        await self._doors.setdefault(number, asyncio.Event()).wait()
        return f"answer {number}"

    def open(self, number: int) -> None:
        self._doors.setdefault(number, asyncio.Event()).set()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


async def distracted(driver: Driver) -> None:
    async with driver.llm.sample(MESSAGES, 3):
        await asyncio.sleep(0.01)
        raise KeyError


class TestSample:
    def test_all_candidates_are_asked_for_at_once(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def sampling(chat: Chat, llm: LLM) -> Reply:
            return (await taken(llm.sample(chat.messages, 4)))[-1]

        sim.behave(latency=0.2)
        optillm = app_with(make_proxy, sampling).ask("example-sim").json["optillm"]
        assert (sim.log.choices, sim.log.peak, sim.log.rounds) == (4, 4, 1)
        assert (optillm["calls"], optillm["rounds"]) == (4, 1)
        assert all("n" not in (call.body or {}) for call in sim.log.records)

    def test_they_are_taken_as_they_land(self) -> None:
        async def test() -> None:
            doors = Doors()
            driver = Driver(FakeUpstream(doors))
            taken = []
            async with driver.llm.sample(MESSAGES, 3) as landed:
                doors.open(2)
                async for reply in landed:
                    taken.append(reply.text)
                    doors.open(0 if len(taken) == 1 else 1)
            assert taken == ["answer 2", "answer 0", "answer 1"]

        run(test)

    def test_leaving_cancels_and_awaits_the_rest(self) -> None:
        async def test() -> None:
            doors = Doors()
            upstream = FakeUpstream(doors)
            driver = Driver(upstream)
            async with driver.llm.sample(MESSAGES, 5) as landed:
                doors.open(1)
                async for _ in landed:
                    break
                assert upstream.running == 4
            assert (upstream.running, upstream.cancelled) == (0, 4)
            outcomes = sorted(record.outcome for record in driver.run.ledger.calls)
            assert outcomes == ["cancelled"] * 4 + ["ok"]

        run(test)

    def test_an_exception_in_the_block_cancels_and_awaits_too(self) -> None:
        async def test() -> None:
            upstream = FakeUpstream(Doors())
            driver = Driver(upstream)
            with pytest.raises(KeyError):
                await distracted(driver)
            assert (upstream.running, upstream.cancelled) == (0, 3)

        run(test)

    def test_the_upstream_sees_the_rest_hang_up(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def first(chat: Chat, llm: LLM) -> Reply:
            async with llm.sample(chat.messages, 4) as landed:
                return await anext(landed)

        sim.behave(faults=(Fault("hang", times=3),))
        proxy = app_with(make_proxy, first)
        assert proxy.text("example-sim")
        assert eventually(lambda: sim.log.inflight == 0)
        assert sim.log.dropped == 3

    @pytest.mark.parametrize(("calls", "expected"), [(8, 5), (6, 4), (3, 1), (2, 1)])
    def test_a_reserve_leaves_calls_for_later_stages(self, calls: int, expected: int) -> None:
        async def test() -> None:
            driver = Driver(FakeUpstream(), limits=Limits(max_calls=calls))
            async with driver.llm.sample(MESSAGES, 5, reserve=2) as landed:
                taken = [reply async for reply in landed]
            assert len(taken) == expected
            assert not landed.failed

        run(test)

    def test_each_has_its_own_seed_and_none_runs_at_temperature_0(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def sampling(chat: Chat, llm: LLM) -> Reply:
            return (await taken(llm.sample(chat.messages, 3)))[0]

        app_with(make_proxy, sampling).text("example-sim", seed=11, temperature=0)
        bodies = [call.body or {} for call in sim.log.records]
        assert sorted(body["seed"] for body in bodies) == [11, 12, 13]
        assert all(body["temperature"] > 0 for body in bodies)

    def test_a_sample_of_one_keeps_the_clients_temperature(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def sampling(chat: Chat, llm: LLM) -> Reply:
            return (await taken(llm.sample(chat.messages, 1)))[0]

        app_with(make_proxy, sampling).text("example-sim", seed=11, temperature=0)
        assert (sim.log.records[0].body or {})["temperature"] == 0

    def test_choices_draw_different_samples_from_one_seed(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def sampling(chat: Chat, llm: LLM) -> Reply:
            return (await taken(llm.sample(chat.messages, 3)))[0]

        proxy = app_with(make_proxy, sampling)
        assert len(proxy.ask("example-sim", seed=11, n=2).json["choices"]) == 2
        assert len({(call.body or {})["seed"] for call in sim.log.records}) == 6


class TestNativeSample:
    def test_it_is_one_call_that_counts_as_many_choices(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = make_proxy(upstream_n="native")
        optillm = proxy.ask("self_consistency-sim").json["optillm"]
        assert (sim.log.calls, sim.log.choices) == (1, 5)
        assert (optillm["calls"], optillm["rounds"]) == (5, 1)

    def test_a_short_count_is_topped_up(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        sim.behave(n="ignored", probability=0.0, distractors=(1,) * 40)
        proxy = make_proxy(upstream_n="native")
        assert proxy.ask("self_consistency-sim").status_code == 200
        assert sim.log.choices == 5
        assert [(call.body or {}).get("n") for call in sim.log.records] == [5] + [None] * 4

    def test_proposers_of_different_models_are_asked_one_by_one(self) -> None:
        async def test() -> None:
            upstream = FakeUpstream(native_n=True)
            driver = Driver(upstream, Member("a"), Member("b"))
            assert len(await taken(driver.llm.sample(MESSAGES, 4))) == 4
            assert sorted(upstream.models_called) == ["a", "a", "b", "b"]

        run(test)


class TestFan:
    def test_it_takes_whole_chains_as_they_land(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def chains(chat: Chat, llm: LLM) -> Reply:
            async def chain(length: int) -> int:
                for _ in range(length):
                    await llm.ask(chat.messages)
                return length

            async with llm.fan(chain(length) for length in (3, 1, 2)) as landed:
                return Reply.of(str([length async for length in landed]))

        sim.behave(latency=0.2)
        answer = app_with(make_proxy, chains).ask("example-sim").json
        assert answer["choices"][0]["message"]["content"] == "[1, 2, 3]"
        assert (answer["optillm"]["calls"], answer["optillm"]["rounds"]) == (6, 3)
        assert (sim.log.choices, sim.log.rounds, sim.log.peak) == (6, 3, 3)

    def test_a_failed_member_is_dropped_and_its_error_kept(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def chains(chat: Chat, llm: LLM) -> Reply:
            async with llm.fan(llm.ask(chat.messages) for _ in range(3)) as landed:
                taken = [reply async for reply in landed]
            return Reply.of(f"{len(taken)} {[error.code for error in landed.failed]}")

        sim.behave(faults=(Fault(500, times=1),))
        said = app_with(make_proxy, chains).text("example-sim")
        assert said == "2 ['upstream_error']"

    def test_the_first_error_is_raised_when_nothing_landed(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def chains(chat: Chat, llm: LLM) -> Reply:
            return (await taken(llm.fan(llm.ask(chat.messages) for _ in range(3))))[0]

        sim.behave(faults=(Fault(429, retry_after=600.0),))
        response = app_with(make_proxy, chains).ask("example-sim")
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "600"

    def test_a_member_that_says_nothing_has_failed(self) -> None:
        async def test() -> None:
            answers = iter([completion(None), completion(" \n"), completion("yes")])
            driver = Driver(FakeUpstream(lambda _: next(answers)))
            async with driver.llm.sample(MESSAGES, 3) as landed:
                assert [reply.text async for reply in landed] == ["yes"]
            assert [type(error) for error in landed.failed] == [EmptyReply, EmptyReply]

        run(test)

    def test_a_bug_in_a_member_is_raised_at_once_and_ends_the_others(self) -> None:
        async def test() -> None:
            upstream = FakeUpstream(Doors())
            driver = Driver(upstream)

            async def buggy() -> Reply:
                await asyncio.sleep(0)
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await taken(driver.llm.fan([driver.llm.ask(MESSAGES), buggy()]))
            assert upstream.running == 0

        run(test)

    def test_members_can_be_added_while_it_is_open(self) -> None:
        async def test() -> None:
            driver = Driver(FakeUpstream())
            async with driver.llm.fan([driver.llm.ask(MESSAGES)]) as landed:
                count = 0
                async for _ in landed:
                    count += 1
                    if count < 3:
                        landed.add(driver.llm.ask(MESSAGES))
            assert (count, driver.run.ledger.rounds) == (3, 3)

        run(test)

    def test_a_cancelled_request_leaves_no_call_behind(self) -> None:
        async def test() -> None:
            upstream = FakeUpstream(Doors())
            driver = Driver(upstream)

            async def chain() -> Reply:
                return (await taken(driver.llm.sample(MESSAGES, 2)))[0]

            async def request() -> None:
                await taken(driver.llm.fan([chain(), chain()]))

            task = asyncio.create_task(request())
            while upstream.running < 4:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert upstream.running == 0

        run(test)


class TestRounds:
    def test_a_call_after_a_fan_waits_for_what_was_taken_not_for_what_was_left(self) -> None:
        async def test() -> None:
            doors = Doors()
            driver = Driver(FakeUpstream(doors))
            llm = driver.llm
            for number in (0, 1, 3):
                doors.open(number)

            async def twice() -> Reply:
                await llm.ask(MESSAGES)
                return await llm.ask(MESSAGES)

            # Calls 0 (short) and 1 (long's first); call 2 is long's second and never comes back.
            async with llm.fan([llm.ask(MESSAGES), twice()]) as landed:
                async for _ in landed:
                    while len(driver.upstream.calls) < 3:
                        await asyncio.sleep(0)
                    break
            await llm.ask(MESSAGES)
            assert [call.round for call in driver.run.ledger.calls] == [1, 1, 2, 2]

        run(test)

    def test_they_are_the_longest_chain_of_nested_fans(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def tree(chat: Chat, llm: LLM) -> Reply:
            async def branch(width: int) -> Reply:
                async with llm.sample(chat.messages, width) as landed:
                    replies = [reply async for reply in landed]
                for _ in range(width - 1):
                    await llm.ask(chat.messages)
                return replies[0]

            async with llm.fan(branch(width) for width in (1, 3)) as landed:
                replies = [reply async for reply in landed]
            await llm.ask(chat.messages)
            return replies[0]

        sim.behave(latency=0.2)
        optillm = app_with(make_proxy, tree).ask("example-sim").json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (7, 4)
        assert (sim.log.choices, sim.log.rounds) == (7, 4)

    def test_a_stream_left_early_was_waited_for(self) -> None:
        async def test() -> None:
            driver = Driver(FakeUpstream(lambda _: "some words"))
            async with driver.llm.stream(MESSAGES) as incoming:
                async for delta in incoming:
                    assert delta.text
                    break
            await driver.llm.ask(MESSAGES)
            assert driver.run.ledger.rounds == 2

        run(test)


def test_a_member_that_has_never_begun_leaves_nothing_behind() -> None:
    """Added and cancelled in one go: nobody would await it, and Python would say so."""

    async def test() -> None:
        driver = Driver(FakeUpstream())
        never_begun = driver.llm.answer(MESSAGES)
        async with driver.llm.fan([driver.llm.answer(MESSAGES)]) as landed:
            await anext(landed)
            landed.add(never_begun)
        assert never_begun.cr_frame is None
        assert len(driver.upstream.calls) == 1

    run(test)
