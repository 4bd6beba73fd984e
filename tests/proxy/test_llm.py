"""What an approach can do with an `LLM`: single calls, content, progress, the kept answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import QUESTION, MakeProxy, content_of, events
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
from proxy.errors import EmptyReply
from proxy.llm import LLM, UpstreamError

SAMPLING = {"temperature": 0.3, "top_p": 0.9, "seed": 7, "top_k": 40}
SHAPE = {"max_tokens": 900, "stop": ["never"], "response_format": {"type": "text"}}


def sent(sim: SimulatorThread, index: int = -1) -> dict[str, Any]:
    """The body of a call as the upstream saw it."""
    body = sim.log.records[index].body
    assert body is not None
    return body


class TestAsk:
    def test_sends_nothing_of_the_clients_but_who_asks(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def helped(chat: Chat, llm: LLM) -> Reply:
            return await llm.ask(chat.messages)

        proxy = app_with(make_proxy, helped)
        proxy.text("example-sim", user="me", **SAMPLING, **SHAPE)
        assert sent(sim).keys() == {"model", "messages", "user"}

    def test_sends_its_own_parameters(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        @example
        async def helped(chat: Chat, llm: LLM) -> Reply:
            return await llm.ask(chat.messages, temperature=0, max_tokens=12, logit_bias={"1": 2})

        app_with(make_proxy, helped).text("example-sim", **SAMPLING, **SHAPE)
        own = {"temperature": 0, "max_tokens": 12, "logit_bias": {"1": 2}}
        assert {**sent(sim), **own} == sent(sim)
        assert sent(sim).keys() == {"model", "messages", *own}

    def test_a_limit_goes_under_the_name_that_the_client_uses(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def helped(chat: Chat, llm: LLM) -> Reply:
            return await llm.ask(chat.messages, max_tokens=12)

        app_with(make_proxy, helped).text("example-sim", max_completion_tokens=900)
        assert sent(sim)["max_completion_tokens"] == 12
        assert "max_tokens" not in sent(sim)

    def test_an_empty_reply_is_an_error_that_can_be_caught(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def helped(chat: Chat, llm: LLM) -> Reply:
            try:
                return await llm.ask(chat.messages)
            except UpstreamError as error:
                return Reply.of(error.code)

        sim.behave(faults=(Fault("null_content"),))
        assert app_with(make_proxy, helped).text("example-sim") == "upstream_empty_reply"


class TestAnswer:
    def test_inherits_what_the_client_set(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def candidate(chat: Chat, llm: LLM) -> Reply:
            return await llm.answer(chat.messages)

        app_with(make_proxy, candidate).text("example-sim", user="me", **SAMPLING, **SHAPE)
        assert sent(sim) == {
            "model": "sim",
            "messages": [{"role": "user", "content": QUESTION}],
            "user": "me",
            **SAMPLING,
            **SHAPE,
        }

    def test_an_argument_wins_over_the_client_and_none_takes_away(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def candidate(chat: Chat, llm: LLM) -> Reply:
            return await llm.answer(chat.messages, temperature=0.9, stop=None)

        app_with(make_proxy, candidate).text("example-sim", **SAMPLING, **SHAPE)
        assert sent(sim)["temperature"] == 0.9
        assert sent(sim)["top_p"] == 0.9
        assert "stop" not in sent(sim)

    def test_alone_it_keeps_temperature_0_and_seed(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def candidate(chat: Chat, llm: LLM) -> Reply:
            return await llm.answer(chat.messages)

        app_with(make_proxy, candidate).text("example-sim", temperature=0, seed=7)
        assert (sent(sim)["temperature"], sent(sim)["seed"]) == (0, 7)

    def test_as_one_of_several_it_has_a_seed_of_its_own_and_never_temperature_0(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def candidate(chat: Chat, llm: LLM) -> Reply:
            return await llm.answer(chat.messages, nth=3)

        app_with(make_proxy, candidate).text("example-sim", temperature=0, seed=7)
        assert sent(sim)["seed"] == 10
        assert sent(sim)["temperature"] > 0

    def test_the_largest_seed_of_all_does_not_overflow(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def candidates(chat: Chat, llm: LLM) -> Reply:
            await llm.answer(chat.messages, nth=1)
            return await llm.answer(chat.messages, nth=2)

        app_with(make_proxy, candidates).text("example-sim", seed=2**64 - 1)
        seeds = {sent(sim, i)["seed"] for i in range(2)}
        assert len(seeds) == 2

    def test_an_empty_candidate_is_no_candidate(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream(lambda call: completion(None)))
            with pytest.raises(EmptyReply):
                await driver.llm.answer(MESSAGES)

        asyncio.run(run())

    def test_tool_calls_alone_are_an_answer(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]

        async def run() -> None:
            driver = Driver(FakeUpstream(lambda _: completion(None, choices=choices)))
            reply = await driver.llm.answer(MESSAGES)
            assert reply.tool_calls == [call]
            assert reply.message is message

        asyncio.run(run())


class TestEmit:
    def test_content_goes_out_in_order_in_a_stream_and_in_json(self, make_proxy: MakeProxy) -> None:
        @example
        async def wordy(chat: Chat, llm: LLM) -> Reply:
            await llm.emit("one ")
            await llm.emit("two ")
            return Reply.of("three")

        proxy = app_with(make_proxy, wordy)
        assert proxy.text("example-sim") == "one two three"
        chunks = proxy.stream("example-sim")
        said = [c["choices"][0]["delta"].get("content") for c in chunks[:-1] if c["choices"]]
        assert [piece for piece in said if piece] == ["one ", "two ", "three"]

    def test_what_was_emitted_is_not_said_again(self, make_proxy: MakeProxy) -> None:
        @example
        async def wordy(chat: Chat, llm: LLM) -> Reply:
            await llm.emit("one ")
            await llm.emit("two ")
            return Reply.of("one two three")

        proxy = app_with(make_proxy, wordy)
        assert proxy.text("example-sim") == "one two three"
        assert content_of(proxy.stream("example-sim")) == "one two three"

    def test_it_may_stand_before_and_behind_the_final_call(self, make_proxy: MakeProxy) -> None:
        @example
        async def framed(chat: Chat, llm: LLM) -> Reply:
            await llm.emit("<<")
            reply = await llm.final(chat.messages)
            await llm.emit(">>")
            return reply

        proxy = app_with(make_proxy, framed)
        said = proxy.text("example-sim", seed=1)
        assert said.startswith("<<")
        assert said.endswith("\\boxed{391}.>>")
        assert content_of(proxy.stream("example-sim", seed=1)) == said

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_may_follow_a_whole_answer(self, make_proxy: MakeProxy, stream: bool) -> None:
        @example
        async def sourced(chat: Chat, llm: LLM) -> Reply:
            reply = await llm.final(chat.messages)
            await llm.emit(" Source: me.")
            return reply

        proxy = app_with(make_proxy, sourced)
        said = content_of(proxy.stream("example-sim")) if stream else proxy.text("example-sim")
        assert said.endswith("\\boxed{391}. Source: me.")

    def test_tool_calls_follow_what_was_emitted(self, make_proxy: MakeProxy) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

        @example
        async def calling(chat: Chat, llm: LLM) -> Reply:
            await llm.emit("Let me look.")
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            return Reply(message, finish_reason="tool_calls")

        choice = app_with(make_proxy, calling).ask("example-sim").json["choices"][0]
        assert choice["message"]["content"] == "Let me look."
        assert choice["message"]["tool_calls"] == [call]
        assert choice["finish_reason"] == "tool_calls"


class TestNote:
    def test_it_is_a_comment_in_the_stream_and_never_content(self, make_proxy: MakeProxy) -> None:
        @example
        async def telling(chat: Chat, llm: LLM) -> Reply:
            llm.note("half way\nthere")
            return Reply.of("done")

        proxy = app_with(make_proxy, telling)
        raw = proxy.ask("example-sim", stream=True).get_data(as_text=True)
        assert ": half way there\n\n" in raw
        assert content_of(events(raw)) == "done"
        assert proxy.text("example-sim") == "done"


class TestKeep:
    def test_the_newest_kept_reply_is_the_answer_when_time_is_up(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def slow(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("first"))
            llm.role("judge").keep(Reply.of("second", finish_reason="length"))
            return await llm.answer(chat.messages)

        sim.behave(latency=30.0)
        proxy = app_with(make_proxy, slow)
        for stream in (False, True):
            response = proxy.ask("example-sim", optillm_budget={"max_seconds": 0.1}, stream=stream)
            assert response.status_code == 200
            if stream:
                chunks = events(response.get_data(as_text=True))
                said, last = content_of(chunks), chunks[-2]
                finish = [c["finish_reason"] for e in chunks[:-1] for c in e["choices"]][-1]
                assert chunks[-1] == "[DONE]"
            else:
                last = response.json
                said = last["choices"][0]["message"]["content"]
                finish = last["choices"][0]["finish_reason"]
            assert (said, finish) == ("second", "length")
            assert last["optillm"]["exhausted"] == "deadline"

    def test_it_saves_a_request_whose_upstream_fails(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def unlucky(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("good enough"))
            return await llm.final(chat.messages)

        sim.behave(faults=(Fault(500),))
        proxy = app_with(make_proxy, unlucky)
        answer = proxy.ask("example-sim").json
        assert answer["choices"][0]["message"]["content"] == "good enough"
        assert answer["optillm"]["skipped"] == ["last stage: upstream_error"]
        assert content_of(proxy.stream("example-sim")) == "good enough"

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_stands_in_for_a_final_answer_that_says_nothing(
        self, make_proxy: MakeProxy, sim: SimulatorThread, stream: bool
    ) -> None:
        @example
        async def unlucky(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("good enough"))
            return await llm.final(chat.messages)

        sim.behave(faults=(Fault("null_content"),))
        proxy = app_with(make_proxy, unlucky)
        said = content_of(proxy.stream("example-sim")) if stream else proxy.text("example-sim")
        assert said == "good enough"

    def test_nothing_is_put_behind_content_that_has_left(self) -> None:
        async def broken(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("kept"))
            await llm.emit("begun")
            return await llm.answer(chat.messages)

        async def run() -> None:
            outlet = Live()
            upstream = FakeUpstream(lambda _: UpstreamError("dead"))
            driver = Driver(upstream, outlet=outlet, registry=registry_with(example(broken)))
            with pytest.raises(UpstreamError, match="dead"):
                await driver.play("example")
            assert outlet.text == "begun"

        asyncio.run(run())


class TestTimeFor:
    def test_it_measures_with_the_usual_length_of_a_call(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def planner(chat: Chat, llm: LLM) -> Reply:
            unknown = llm.time_for(10**9)
            await llm.ask(chat.messages)
            # 60 s are left, and a call takes at least 20 ms.
            return Reply.of(f"{unknown} {llm.time_for(1)} {llm.time_for(3001)}")

        sim.behave(latency=0.02)
        proxy = app_with(make_proxy, planner)
        assert proxy.text("example-sim", optillm_budget={"max_seconds": 60}) == "True True False"
