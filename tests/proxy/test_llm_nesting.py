"""An approach inside another, and what is made once and kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from conftest import InProcess, MakeProxy, chat_body, content_of
from driving import MESSAGES, Driver, FakeUpstream, app_with, example, registry_with, taken

from optictl.simulator import SimulatorThread
from proxy.chat import Chat, Filter, Reply
from proxy.errors import BadRequest
from proxy.llm import LLM, Range, Shape, approach, transform
from proxy.settings import Limits


@approach("nested", shape=lambda o: Shape(calls=o.calls, rounds=o.calls))
async def nested(
    chat: Chat, llm: LLM, *, calls: Annotated[int, Range(1, 9), "how many"] = 1
) -> Reply:
    """Calls one after another; the last one's answer."""
    for _ in range(calls):
        reply = await llm.answer(chat.messages)
    llm.keep(Reply.of("kept inside"))
    return reply


class Upper:
    """A filter that shouts."""

    def feed(self, text: str) -> str:
        return text.upper()

    def flush(self) -> str:
        return ""


class TestRun:
    def test_the_result_comes_back_and_its_content_stays_inside(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            inner = await llm.run("none", chat)
            return Reply.of(f"heard: {inner.text[-4:]}")

        proxy = app_with(make_proxy, outer)
        assert proxy.text("example-sim") == "heard: 91}."
        assert content_of(proxy.stream("example-sim")) == "heard: 91}."
        # Nobody reads along inside, so that nothing is streamed.
        assert not any(call.stream for call in sim.log.records)

    def test_rounds_and_calls_add_up_along_the_chain(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            await llm.ask(chat.messages)
            async with llm.fan(llm.run("nested", chat, calls=calls) for calls in (2, 3)) as landed:
                async for _ in landed:
                    pass
            return await llm.run("bon", chat, samples=2)

        sim.behave(latency=0.5)
        optillm = app_with(make_proxy, outer, nested).ask("example-sim").json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (10, 6)
        assert (sim.log.choices, sim.log.rounds) == (10, 6)

    def test_each_may_call_final(self, make_proxy: MakeProxy) -> None:
        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            await llm.run("none", chat)
            await llm.run("none", chat)
            return await llm.final(chat.messages)

        assert app_with(make_proxy, outer).text("example-sim")

    def test_options_are_checked(self, make_proxy: MakeProxy) -> None:
        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            return await llm.run("nested", chat, calls=10)

        error = app_with(make_proxy, outer, nested).ask("example-sim").json["error"]
        assert error["code"] == "invalid_option"
        assert "from 1 to 9" in error["message"]

    def test_a_transform_is_run_around_a_single_call(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @transform("shouting")
        async def shouting(chat: Chat, llm: LLM) -> tuple[Chat, Filter | None]:
            return chat.with_query(f"{chat.query} NOW!"), Upper()

        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            inner = await llm.run("shouting", chat)
            return Reply.of(f"heard: {inner.text[-12:]}")

        @approach("chooser", shape=lambda _: Shape(calls=1, rounds=1))
        async def chooser(chat: Chat, llm: LLM) -> Reply:
            return await llm.run("shouting", chat, tail=True)

        proxy = app_with(make_proxy, shouting, outer, chooser)
        assert proxy.text("example-sim") == "heard: \\BOXED{391}."
        assert (sim.log.records[0].body or {})["messages"][-1]["content"].endswith("NOW!")
        assert proxy.text("chooser-sim").endswith("\\BOXED{391}.")
        assert content_of(proxy.stream("chooser-sim")).endswith("\\BOXED{391}.")

    def test_what_it_cannot_treat_honestly_goes_to_the_model_as_it_is(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def router(chat: Chat, llm: LLM) -> Reply:
            return await llm.run("rto", chat, tail=True)

        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        answer = app_with(make_proxy, router).ask("example-sim", tools=[tool]).json
        assert answer["choices"][0]["message"]["tool_calls"]
        assert answer["optillm"]["skipped"] == ["rto: the request carries tools"]
        assert sim.log.calls == 1

    def test_an_unknown_slug_is_refused(self) -> None:
        async def run() -> None:
            with pytest.raises(BadRequest):
                await Driver(FakeUpstream()).llm.run("nonsense", Chat(MESSAGES))

        asyncio.run(run())

    def test_what_is_kept_inside_is_no_answer_of_ours(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("kept outside"))
            await llm.run("nested", chat)
            sim.behave(latency=30.0)
            return await llm.answer(chat.messages)

        proxy = app_with(make_proxy, outer, nested)
        answer = proxy.text("example-sim", optillm_budget={"max_seconds": 1.0})
        assert answer == "kept outside"

    def test_given_samples_are_not_drawn_again(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def outer(chat: Chat, llm: LLM) -> Reply:
            paid = [await llm.answer(chat.messages, nth=nth) for nth in range(2)]
            return await llm.run("self_consistency", chat, given=paid, samples=3, tail=True)

        sim.behave(probability=0.0, distractors=(1,) * 40)
        assert app_with(make_proxy, outer).text("example-sim")
        assert sim.log.choices == 3

    def test_given_samples_are_taken_first_and_only_once(self) -> None:
        taken: list[str] = []

        @approach("twice", shape=lambda _: Shape(calls=1, rounds=1))
        async def twice(chat: Chat, llm: LLM) -> Reply:
            for _ in range(2):
                async with llm.sample(chat.messages, 2) as landed:
                    taken.extend([reply.text async for reply in landed])
            return Reply.of("done")

        async def run() -> None:
            driver = Driver(FakeUpstream(lambda _: "drawn"), registry=registry_with(twice))
            await driver.llm.run("twice", Chat(MESSAGES), given=[Reply.of("given")])
            assert taken == ["given", "drawn", "drawn", "drawn"]

        asyncio.run(run())


class TestTail:
    @pytest.mark.parametrize("slug", ["bon", "moa", "none", "nested"])
    def test_it_answers_in_this_ones_place_once(self, make_proxy: MakeProxy, slug: str) -> None:
        @example
        async def router(chat: Chat, llm: LLM) -> Reply:
            return await llm.run(slug, chat, tail=True)

        proxy = app_with(make_proxy, router, nested)
        assert proxy.text("example-sim").count("The final answer is") == 1
        assert content_of(proxy.stream("example-sim")).count("The final answer is") == 1

    def test_it_streams(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        @example
        async def router(chat: Chat, llm: LLM) -> Reply:
            return await llm.run("none", chat, tail=True)

        app_with(make_proxy, router).stream("example-sim")
        assert [call.stream for call in sim.log.records] == [True]

    def test_nothing_can_follow_it(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream(), registry=registry_with(nested))
            await driver.llm.run("nested", Chat(MESSAGES), tail=True)
            with pytest.raises(RuntimeError, match="behind its answer"):
                await driver.llm.final(MESSAGES)
            with pytest.raises(RuntimeError, match="behind its answer"):
                await driver.llm.run("nested", Chat(MESSAGES), tail=True)

        asyncio.run(run())

    def test_it_is_a_bug_inside_a_fan(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream(), registry=registry_with(nested))
            tails = [driver.llm.run("nested", Chat(MESSAGES), tail=True) for _ in range(2)]
            with pytest.raises(RuntimeError, match="inside a fan"):
                await taken(driver.llm.fan(tails))
            assert driver.text == ""

        asyncio.run(run())

    def test_it_shares_the_kept_answer(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        @example
        async def router(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("kept outside"))
            return await llm.run("keeping", chat, tail=True)

        @approach("keeping", shape=lambda _: Shape(calls=1, rounds=1))
        async def keeping(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("kept inside"))
            return await llm.answer(chat.messages)

        sim.behave(latency=30.0)
        proxy = app_with(make_proxy, router, keeping)
        answer = proxy.text("example-sim", optillm_budget={"max_seconds": 0.1})
        assert answer == "kept inside"

    @pytest.mark.parametrize("tail", [False, True])
    def test_the_budget_is_one(self, make_proxy: MakeProxy, tail: bool) -> None:
        @example
        async def router(chat: Chat, llm: LLM) -> Reply:
            await llm.ask(chat.messages)
            return await llm.run("nested", chat, tail=tail, calls=2)

        proxy = app_with(make_proxy, router, nested)
        response = proxy.ask("example-sim", optillm_budget={"max_calls": 2})
        assert response.json["error"]["code"] == "budget_exhausted"
        assert proxy.text("example-sim", optillm_budget={"max_calls": 3})


def ask_as(proxy: InProcess, model: str, tenant: str) -> str:
    headers = {"Authorization": f"Bearer {tenant}"}
    response = proxy.post(json=chat_body(model), headers=headers)
    assert response.status_code == 200
    text: str = response.json["choices"][0]["message"]["content"]
    return text


class TestOnce:
    @staticmethod
    def caching(slug: str, ttl: float = 60.0) -> Callable[..., Any]:
        made: list[int] = []

        @approach(slug, shape=lambda _: Shape(calls=(0, 9), rounds=(0, 9)))
        async def caching(chat: Chat, llm: LLM) -> Reply:
            async def make() -> int:
                await llm.ask(chat.messages)
                made.append(len(made))
                return made[-1]

            return Reply.of(f"value {await llm.once('key', make, ttl)}")

        return caching

    def test_the_value_is_made_once_for_each_tenant_slug_and_model(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = app_with(make_proxy, self.caching("one"), self.caching("other"))
        assert ask_as(proxy, "one-sim", "anna") == "value 0"
        assert ask_as(proxy, "one-sim", "anna") == "value 0"
        assert sim.log.calls == 1
        assert ask_as(proxy, "one-sim", "berta") == "value 1"
        assert ask_as(proxy, "one-large", "anna") == "value 2"
        assert ask_as(proxy, "other-sim", "anna") == "value 0"
        assert sim.log.calls == 4
        assert ask_as(proxy, "one-sim", "anna") == "value 0"

    def test_it_is_made_again_when_its_time_is_over(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = app_with(make_proxy, self.caching("one", ttl=0.05))
        assert ask_as(proxy, "one-sim", "anna") == "value 0"
        time.sleep(0.1)
        assert ask_as(proxy, "one-sim", "anna") == "value 1"

    def test_whoever_asks_at_the_same_time_waits_for_the_same_one(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def caching(chat: Chat, llm: LLM) -> Reply:
            async def make() -> str:
                return (await llm.ask(chat.messages)).text

            async def member() -> Reply:
                value = await llm.once("key", make, 60.0)
                await llm.ask(chat.messages)
                return Reply.of(value)

            async with llm.fan(member() for _ in range(3)) as landed:
                values = {reply.text async for reply in landed}
            return Reply.of(str(len(values)))

        sim.behave(latency=0.5)
        answer = app_with(make_proxy, caching).ask("example-sim", optillm_trace=True).json
        assert answer["choices"][0]["message"]["content"] == "1"
        # Whoever waited for the first call has waited for a round, as its maker has.
        assert [call["round"] for call in answer["optillm"]["trace"]] == [1, 2, 2, 2]
        assert (sim.log.choices, sim.log.rounds) == (4, 2)

    def test_one_callers_end_is_not_anothers(self) -> None:
        async def run() -> None:
            upstream = FakeUpstream()
            driver = Driver(upstream)
            never, started = asyncio.Event(), asyncio.Event()

            async def make_first() -> str:
                started.set()
                await never.wait()
                return "first"

            async def make_second() -> str:
                return "second"

            first = asyncio.create_task(driver.llm.once("key", make_first, 60.0))
            await started.wait()
            second = asyncio.create_task(driver.llm.once("key", make_second, 60.0))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == "second"

        asyncio.run(run())

    def test_a_failure_is_not_kept(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream())

            async def fails() -> str:
                raise LookupError

            async def works() -> str:
                return "fine"

            with pytest.raises(LookupError):
                await driver.llm.once("key", fails, 60.0)
            assert await driver.llm.once("key", works, 60.0) == "fine"

        asyncio.run(run())


def test_max_calls_is_shared_by_choices(make_proxy: MakeProxy) -> None:
    @example
    async def thrifty(chat: Chat, llm: LLM) -> Reply:
        async with llm.sample(chat.messages, 5) as landed:
            return Reply.of(str(len([reply async for reply in landed])))

    proxy = app_with(make_proxy, thrifty, limits=Limits(max_calls=7))
    answer = proxy.ask("example-sim", n=2).json
    drawn = [int(choice["message"]["content"]) for choice in answer["choices"]]
    assert sum(drawn) == answer["optillm"]["calls"] == 7
