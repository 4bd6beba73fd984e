"""What a request may spend in calls, tokens and seconds, and what it gets when that is spent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of, events, eventually
from driving import (
    MESSAGES,
    Driver,
    FakeUpstream,
    Live,
    app_with,
    completion,
    example,
    registry_with,
)

from optictl.simulator import Fault, SimulatorThread
from proxy.chat import Chat, Reply
from proxy.errors import BudgetExhausted
from proxy.llm import LLM, UpstreamError
from proxy.settings import Limits


@example
async def patient(chat: Chat, llm: LLM) -> Reply:
    """Answers one after another, each better than the last, as long as it may."""
    reply = Reply.of("none")
    for _ in range(20):
        reply = await llm.answer(chat.messages)
        llm.keep(reply)
    return reply


@example
async def careless(chat: Chat, llm: LLM) -> Reply:
    """The same, and keeps nothing."""
    for _ in range(20):
        reply = await llm.answer(chat.messages)
    return reply


def failed(response: Any) -> tuple[int, str, str | None]:
    error = response.json["error"]
    assert response.headers["x-optillm-error"] == error["code"]
    return response.status_code, error["code"], error["param"]


class TestCalls:
    @pytest.mark.parametrize(
        ("model", "least", "options"),
        [
            ("sim", 1, {}),
            ("re2-sim", 1, {}),
            ("bon-sim", 6, {}),
            ("bon-sim", 2, {"samples": 1}),
            ("moa-sim", 5, {}),
            ("moa-sim", 12, {"samples": 5, "layers": 2}),
            ("self_consistency-sim", 5, {}),
            ("moa&bon-sim", 11, {}),
            ("moa|bon|none-sim", 12, {}),
        ],
    )
    def test_less_than_the_least_is_refused_before_the_first_call(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        model: str,
        least: int,
        options: dict[str, int],
    ) -> None:
        body = {"optillm_options": options}
        if least > 1:
            response = proxy.ask(model, optillm_budget={"max_calls": least - 1}, **body)
            assert failed(response) == (400, "budget_too_small", "optillm_budget.max_calls")
            assert f"at least {least} calls" in response.json["error"]["message"]
            assert sim.log.calls == 0
        answer = proxy.ask(model, optillm_budget={"max_calls": least}, **body).json
        assert answer["optillm"]["calls"] == least
        assert answer["optillm"]["exhausted"] is None

    def test_each_choice_costs(self, proxy: InProcess, sim: SimulatorThread) -> None:
        response = proxy.ask("bon-sim", n=2, optillm_budget={"max_calls": 11})
        assert failed(response)[1] == "budget_too_small"
        assert proxy.ask("sim", n=2, optillm_budget={"max_calls": 1}).status_code == 400
        assert sim.log.calls == 0
        answer = proxy.ask("bon-sim", n=2, optillm_budget={"max_calls": 12}).json
        assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 12)

    def test_a_streamed_request_is_refused_the_same(self, proxy: InProcess) -> None:
        response = proxy.ask("bon-sim", stream=True, optillm_budget={"max_calls": 5})
        assert failed(response) == (400, "budget_too_small", "optillm_budget.max_calls")

    @pytest.mark.parametrize("stream", [False, True])
    def test_when_they_are_spent_the_newest_kept_reply_is_the_answer(
        self, make_proxy: MakeProxy, sim: SimulatorThread, stream: bool
    ) -> None:
        proxy = app_with(make_proxy, patient)
        response = proxy.ask("example-sim", stream=stream, optillm_budget={"max_calls": 3})
        assert response.status_code == 200
        if stream:
            chunks = events(response.get_data(as_text=True))
            said, optillm = content_of(chunks), chunks[-2]["optillm"]
            assert chunks[-1] == "[DONE]"
        else:
            said = response.json["choices"][0]["message"]["content"]
            optillm = response.json["optillm"]
            assert response.headers["x-optillm-exhausted"] == "max_calls"
        assert said == sim.log.records[-1].content
        assert (optillm["exhausted"], optillm["calls"], sim.log.calls) == ("max_calls", 3, 3)

    def test_with_nothing_kept_it_is_an_error(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = app_with(make_proxy, careless)
        response = proxy.ask("example-sim", optillm_budget={"max_calls": 3})
        assert failed(response) == (400, "budget_exhausted", "optillm_budget.max_calls")
        assert sim.log.calls == 3

    def test_the_servers_cap_holds_and_the_stricter_wins(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = app_with(make_proxy, patient, limits=Limits(max_calls=4))
        for asked, expected in ((None, 4), (9, 4), (2, 2)):
            sim.reset()
            budget = {} if asked is None else {"optillm_budget": {"max_calls": asked}}
            assert proxy.ask("example-sim", **budget).json["optillm"]["exhausted"] == "max_calls"
            assert sim.log.calls == expected
        assert failed(proxy.ask("bon-sim"))[1] == "budget_too_small"

    def test_content_that_has_left_is_the_answer_as_far_as_it_goes(self) -> None:
        @example
        async def talking(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("something else"))
            for _ in range(5):
                await llm.emit((await llm.ask(chat.messages)).text)
            return Reply.of("")

        async def run() -> None:
            driver = Driver(
                FakeUpstream(lambda _: "word "),
                limits=Limits(max_calls=2),
                registry=registry_with(talking),
                outlet=Live(),
            )
            ended = await driver.play("example")
            assert (driver.text, ended.finish_reason) == ("word word ", "length")
            assert driver.run.ledger.exhausted == "max_calls"

        asyncio.run(run())


class TestTokens:
    def test_no_call_begins_once_they_are_spent(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = app_with(make_proxy, patient)
        one = proxy.ask("sim").json["usage"]["total_tokens"]
        sim.reset()
        budget = {"max_total_tokens": 2 * one + one // 2}
        answer = proxy.ask("example-sim", optillm_budget=budget).json
        assert answer["optillm"]["exhausted"] == "max_total_tokens"
        assert sim.log.calls == 3
        assert answer["usage"]["total_tokens"] >= budget["max_total_tokens"]

    def test_with_nothing_kept_it_is_an_error(self, make_proxy: MakeProxy) -> None:
        proxy = app_with(make_proxy, careless)
        response = proxy.ask("example-sim", optillm_budget={"max_total_tokens": 1})
        assert failed(response) == (400, "budget_exhausted", "optillm_budget.max_total_tokens")

    def test_the_servers_cap_holds(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        proxy = app_with(make_proxy, patient, limits=Limits(max_total_tokens=1))
        budget = {"max_total_tokens": 10**6}
        answer = proxy.ask("example-sim", optillm_budget=budget).json
        assert answer["optillm"]["exhausted"] == "max_total_tokens"
        assert sim.log.calls == 1

    def test_moa_ends_with_a_proposal(self, proxy: InProcess, sim: SimulatorThread) -> None:
        answer = proxy.ask("moa-sim", optillm_budget={"max_total_tokens": 1}).json
        assert answer["optillm"]["exhausted"] == "max_total_tokens"
        said = answer["choices"][0]["message"]["content"]
        assert said in {call.content for call in sim.log.records}

    def test_an_upstream_that_gives_no_total_is_counted_by_its_parts(self) -> None:
        usage = {"prompt_tokens": 10, "completion_tokens": 5}

        async def run() -> None:
            driver = Driver(
                FakeUpstream(lambda _: completion("ok", usage=usage)),
                limits=Limits(max_total_tokens=30),
            )
            await driver.llm.ask(MESSAGES)
            await driver.llm.ask(MESSAGES)
            with pytest.raises(BudgetExhausted):
                await driver.llm.ask(MESSAGES)
            assert driver.run.ledger.total_usage()["total_tokens"] == 30

        asyncio.run(run())


class TestSeconds:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("model", ["sim", "bon-sim", "moa-sim", "cot_reflection-sim"])
    def test_with_nothing_kept_it_is_504(
        self, proxy: InProcess, sim: SimulatorThread, model: str, stream: bool
    ) -> None:
        sim.behave(latency=30.0)
        response = proxy.ask(model, stream=stream, optillm_budget={"max_seconds": 0.1})
        assert failed(response) == (504, "deadline_exceeded", None)
        assert eventually(lambda: sim.log.inflight == 0)
        assert sim.log.dropped == sim.log.calls

    def test_the_servers_caps_hold(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        sim.behave(latency=30.0)
        budget = {"max_seconds": 60}
        for settings in ({"limits": Limits(max_seconds=0.1)}, {"request_timeout": 0.1}):
            response = make_proxy(**settings).ask("bon-sim", optillm_budget=budget)
            assert failed(response)[1] == "deadline_exceeded"

    @pytest.mark.parametrize("stream", [False, True])
    def test_the_best_so_far_is_the_answer(
        self, proxy: InProcess, sim: SimulatorThread, stream: bool
    ) -> None:
        sim.behave(faults=(Fault("hang", role="aggregator"),))
        response = proxy.ask("moa-sim", stream=stream, optillm_budget={"max_seconds": 1.2})
        assert response.status_code == 200
        if stream:
            chunks = events(response.get_data(as_text=True))
            said, optillm = content_of(chunks), chunks[-2]["optillm"]
            finish = [c["finish_reason"] for e in chunks[:-1] for c in e["choices"]]
            assert (finish[-1], chunks[-1]) == ("stop", "[DONE]")
        else:
            said = response.json["choices"][0]["message"]["content"]
            optillm = response.json["optillm"]
        assert said in {call.content for call in sim.log.records if call.role == "solver"}
        assert optillm["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)

    @pytest.mark.parametrize("model", ["sim", "re2-sim", "moa-sim"])
    def test_a_stream_that_has_begun_ends_with_length(
        self, proxy: InProcess, sim: SimulatorThread, model: str
    ) -> None:
        sim.behave(chunk_interval=0.02, tokens=2000)
        options = {"stream_options": {"include_usage": True}}
        chunks = proxy.stream(model, optillm_budget={"max_seconds": 1.2}, **options)
        assert chunks[-1] == "[DONE]"
        assert content_of(chunks)
        finish = [c["finish_reason"] for e in chunks[:-1] for c in e["choices"]]
        assert [reason for reason in finish if reason] == ["length"]
        assert chunks[-2]["optillm"]["exhausted"] == "deadline"
        assert chunks[-2]["optillm"]["unreported_calls"] >= 1
        assert "usage" in chunks[-2]
        assert eventually(lambda: sim.log.inflight == 0)
        assert sim.log.dropped == 1

    def test_what_a_filter_holds_back_is_said_at_the_deadline(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        class LastWordHeld:
            def __init__(self) -> None:
                self.held = ""

            def feed(self, text: str) -> str:
                said, _, self.held = (self.held + text).rpartition(" ")
                return said

            def flush(self) -> str:
                return f"{self.held}|"

        @example
        async def filtered(chat: Chat, llm: LLM) -> Reply:
            return await llm.final(chat.messages, through=LastWordHeld())

        sim.behave(chunk_interval=0.02, tokens=2000)
        proxy = app_with(make_proxy, filtered)
        chunks = proxy.stream("example-sim", optillm_budget={"max_seconds": 1.2})
        assert content_of(chunks).endswith("|")
        assert chunks[-1] == "[DONE]"

    def test_output_of_cot_reflection_is_cut_not_lost(self, make_proxy: MakeProxy) -> None:
        words = ["<thinking>x</thinking><output>", *(f"{number} " for number in range(99))]

        class Dripping(FakeUpstream):
            async def _chunks(self, answer: Any) -> Any:
                async for batch in super()._chunks(answer):
                    yield batch
                    await asyncio.sleep(0.02)

        async def run() -> None:
            upstream = Dripping(lambda _: "".join(words), cut=lambda _: words)
            driver = Driver(upstream, outlet=Live(), seconds=1.2)
            # One and two digits, a blank each, 20 ms apart: all of it takes two seconds.
            ended = await driver.play("cot_reflection")
            assert ended.finish_reason == "length"
            assert driver.text.startswith("0 1 2 ")
            assert not driver.text.endswith(" ")
            assert upstream.running == 0

        asyncio.run(run())


class TestWhatItCost:
    @pytest.mark.parametrize("model", ["bon-sim", "moa-sim", "bon|moa-sim", "re2&moa-sim"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_usage_is_the_sum_over_all_calls(
        self, proxy: InProcess, sim: SimulatorThread, model: str, stream: bool
    ) -> None:
        if stream:
            options = {"stream_options": {"include_usage": True}}
            last = proxy.stream(model, **options)[-2]
        else:
            last = proxy.ask(model).json
        written = sum(call.completion_tokens for call in sim.log.records)
        read = sum(
            -(-sum(len(str(m["content"])) for m in (call.body or {})["messages"]) // 4)
            for call in sim.log.records
        )
        usage = last["usage"]
        assert usage["completion_tokens"] == written
        assert usage["prompt_tokens"] == read
        assert usage["total_tokens"] == written + read
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
        assert last["optillm"]["unreported_calls"] == 0

    def test_reasoning_tokens_are_summed(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(reasoning="x" * 40)
        usage = proxy.ask("bon-sim").json["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 60

    def test_calls_without_a_report_are_counted(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("no_usage", times=2),))
        answer = proxy.ask("bon-sim").json
        assert answer["optillm"]["unreported_calls"] == 2
        assert answer["usage"]["total_tokens"] > 0
        sim.behave(usage=False)
        answer = proxy.ask("sim").json
        assert answer["optillm"]["unreported_calls"] == 1
        assert answer["usage"]["total_tokens"] == 0

    def test_cancelled_calls_have_none(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(faults=(Fault("hang", times=2),))
        optillm = proxy.ask("self_consistency-sim", optillm_trace=True).json["optillm"]
        assert optillm["unreported_calls"] == 2
        outcomes = sorted(call["outcome"] for call in optillm["trace"])
        assert outcomes == ["cancelled"] * 2 + ["ok"] * 3


def test_a_failing_upstream_is_no_spent_budget(make_proxy: MakeProxy, sim: SimulatorThread) -> None:
    @example
    async def keeping(chat: Chat, llm: LLM) -> Reply:
        llm.keep(await llm.answer(chat.messages))
        try:
            return await llm.ask(chat.messages)
        except UpstreamError:
            return await llm.ask(chat.messages)

    sim.behave(faults=(Fault(500, role="solver", times=None, probability=1.0),))
    response = app_with(make_proxy, keeping).ask("example-sim", optillm_budget={"max_calls": 5})
    assert failed(response)[1] == "upstream_error"
