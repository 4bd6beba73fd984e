"""The answer that the client sees: once, streamed as it arises, the same as in JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of, events
from driving import MESSAGES, Driver, FakeUpstream, Live, app_with, example, taken
from hypothesis import given
from hypothesis import strategies as st

from optictl.simulator import Fault, SimulatorThread
from proxy.chat import Chat, Filter, Reply
from proxy.llm import LLM, transform


class Masked:
    """A filter that looks ahead: each "cat" becomes "[pet]", and the end is marked."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        text = (self._held + text).replace("cat", "[pet]")
        held = next((n for n in (2, 1) if text.endswith("cat"[:n])), 0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return f"{held}|"


class Held:
    """A filter that says everything at the end."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        self._held += text
        return ""

    def flush(self) -> str:
        return self._held


@example
async def masked(chat: Chat, llm: LLM) -> Reply:
    return await llm.final(chat.messages, through=Masked())


@example
async def plain(chat: Chat, llm: LLM) -> Reply:
    return await llm.final(chat.messages)


@transform("masking")
async def masking(chat: Chat, llm: LLM) -> tuple[Chat, Filter | None]:
    return chat, Masked()


@transform("holding")
async def holding(chat: Chat, llm: LLM) -> tuple[Chat, Filter | None]:
    return chat, Held()


def code_of(proxy: InProcess, **members: Any) -> str:
    response = proxy.ask("example-sim", **members)
    assert response.status_code == 500
    return str(response.json["error"]["code"])


class TestOnce:
    def test_a_second_final_call_is_a_bug(self, make_proxy: MakeProxy) -> None:
        @example
        async def twice(chat: Chat, llm: LLM) -> Reply:
            await llm.final(chat.messages)
            return await llm.role("judge").final(chat.messages)

        assert code_of(app_with(make_proxy, twice)) == "internal_error"

        async def run() -> None:
            driver = Driver(FakeUpstream())
            await driver.llm.final(MESSAGES)
            with pytest.raises(RuntimeError, match="behind its answer"):
                await driver.llm.final(MESSAGES)
            assert len(driver.upstream.calls) == 1

        asyncio.run(run())

    def test_it_is_a_bug_inside_a_fan(self, make_proxy: MakeProxy) -> None:
        @example
        async def speculative(chat: Chat, llm: LLM) -> Reply:
            return (await taken(llm.fan([llm.final(chat.messages)])))[0]

        assert code_of(app_with(make_proxy, speculative)) == "internal_error"

    def test_it_is_a_bug_inside_a_fan_however_deep(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream())

            async def inner() -> Reply:
                return (await taken(driver.llm.fan([driver.llm.final(MESSAGES)])))[0]

            async def outer() -> Reply:
                return await asyncio.create_task(inner())

            with pytest.raises(RuntimeError, match="inside a fan"):
                await taken(driver.llm.fan([outer()]))
            assert not driver.upstream.calls

        asyncio.run(run())

    def test_it_is_fine_behind_a_fan(self, make_proxy: MakeProxy) -> None:
        @example
        async def after(chat: Chat, llm: LLM) -> Reply:
            await taken(llm.sample(chat.messages, 2))
            return await llm.final(chat.messages)

        assert app_with(make_proxy, after).text("example-sim")

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_it_returned_is_not_sent_again(self, make_proxy: MakeProxy, stream: bool) -> None:
        proxy = app_with(make_proxy, plain)
        said = content_of(proxy.stream("example-sim")) if stream else proxy.text("example-sim")
        assert said.count("The final answer is") == 1


class TestStreamed:
    def test_it_is_passed_on_as_it_arises(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(chunk_interval=0.01, tokens=60)
        chunks = app_with(make_proxy, plain).stream("example-sim")
        pieces = [c["choices"][0]["delta"].get("content") for c in chunks[:-1] if c["choices"]]
        assert len([piece for piece in pieces if piece]) > 10
        assert (sim.log.records[0].body or {})["stream"] is True

    def test_helpers_and_candidates_are_not_streamed_upstream(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def staged(chat: Chat, llm: LLM) -> Reply:
            await llm.ask(chat.messages)
            await llm.answer(chat.messages)
            return await llm.final(chat.messages)

        proxy = app_with(make_proxy, staged)
        proxy.stream("example-sim")
        assert [call.stream for call in sim.log.records] == [False, False, True]
        proxy.text("example-sim")
        assert not any(call.stream for call in sim.log.records[3:])

    def test_an_upstream_that_dies_in_the_middle_ends_the_stream_with_an_error(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def keeping(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("something else"))
            return await llm.final(chat.messages)

        sim.behave(chunk_interval=0.01, tokens=60, faults=(Fault("stream_cut"),))
        chunks = app_with(make_proxy, keeping).stream("example-sim")
        assert chunks[-1]["error"]["type"] == "upstream_error"
        assert "[DONE]" not in chunks
        assert content_of(chunks)
        assert "something else" not in content_of(chunks)

    def test_reasoning_and_tool_calls_pass_too(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(reasoning="Let me think about that for a moment.")
        parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": "look_up", "parameters": parameters}}
        proxy = app_with(make_proxy, plain)
        chunks = proxy.stream("example-sim", tools=[tool], seed=1)
        deltas = [c["choices"][0]["delta"] for c in chunks[:-1] if c["choices"]]
        message = proxy.ask("example-sim", tools=[tool], seed=1).json["choices"][0]["message"]
        thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
        assert thought == message["reasoning_content"]
        fragments = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        arguments = "".join(f["function"].get("arguments", "") for f in fragments)
        assert arguments == message["tool_calls"][0]["function"]["arguments"]
        assert fragments[0]["function"]["name"] == "look_up"


class TestThrough:
    def test_it_rewrites_the_json_answer(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        said = app_with(make_proxy, masked).text("example-sim", "What is a cat [[cat]]?", seed=3)
        assert said.endswith("|")

    @given(
        st.lists(st.sampled_from(["cat", "c", "ca", "at", "dog ", "", "ccat", "catca"]), max_size=8)
    )
    def test_stream_and_json_say_the_same_however_it_is_cut(self, pieces: Sequence[str]) -> None:
        text = "".join(pieces) + "."

        async def said(outlet: Live | None) -> tuple[str, str]:
            upstream = FakeUpstream(lambda _: text, cut=lambda _: [*pieces, "."])
            driver = Driver(upstream, outlet=outlet)
            reply = await driver.llm.final(MESSAGES, through=Masked())
            return driver.text, reply.text

        expected = text.replace("cat", "[pet]") + "|"
        assert asyncio.run(said(None)) == (expected, expected)
        assert asyncio.run(said(Live())) == (expected, expected)

    @pytest.mark.parametrize("slug", ["masking&example", "masking&none", "masking&moa"])
    def test_a_transforms_filter_does_the_same(
        self, make_proxy: MakeProxy, sim: SimulatorThread, slug: str
    ) -> None:
        sim.behave(chunk_chars=1)
        proxy = app_with(make_proxy, masked, masking)
        options = {"optillm_options": {"samples": 1}} if "moa" in slug else {}
        said = proxy.text(f"{slug}-sim", seed=1, **options)
        assert said.endswith("||" if "example" in slug else "|")
        assert content_of(proxy.stream(f"{slug}-sim", seed=1, **options)) == said

    def test_emitted_text_behind_it_passes_the_transform_alone(self, make_proxy: MakeProxy) -> None:
        @example
        async def sourced(chat: Chat, llm: LLM) -> Reply:
            reply = await llm.final(chat.messages, through=Masked())
            await llm.emit(" by cat")
            return reply

        proxy = app_with(make_proxy, sourced, masking)
        said = proxy.text("masking&example-sim", seed=1)
        assert said.endswith("\\boxed{391}.| by [pet]|")
        assert content_of(proxy.stream("masking&example-sim", seed=1)) == said

    def test_no_other_answer_is_put_behind_what_a_filter_holds_back(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def keeping(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("kept"))
            return await llm.final(chat.messages)

        sim.behave(chunk_interval=0.01, faults=(Fault("stream_cut"),))
        chunks = app_with(make_proxy, keeping, holding).stream("holding&example-sim")
        assert "kept" not in content_of(chunks)
        assert chunks[-1]["error"]["type"] == "upstream_error"

    def test_what_is_kept_goes_through_it_where_nothing_has(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        @example
        async def keeping(chat: Chat, llm: LLM) -> Reply:
            llm.keep(Reply.of("a cat"))
            return await llm.final(chat.messages)

        sim.behave(faults=(Fault(500),))
        proxy = app_with(make_proxy, keeping, masking)
        assert proxy.text("masking&example-sim") == "a [pet]|"
        assert content_of(proxy.stream("masking&example-sim")) == "a [pet]|"

    def test_log_probabilities_are_the_same_in_stream_and_json(self, make_proxy: MakeProxy) -> None:
        @example
        async def held(chat: Chat, llm: LLM) -> Reply:
            return await llm.final(chat.messages, through=Held())

        proxy = app_with(make_proxy, held)
        body = {"seed": 1, "logprobs": True, "top_logprobs": 2}
        whole = proxy.ask("example-sim", **body).json["choices"][0]["logprobs"]["content"]
        chunks = proxy.stream("example-sim", **body)
        choices = [c for chunk in chunks[:-1] for c in chunk["choices"]]
        streamed = [e for c in choices if c.get("logprobs") for e in c["logprobs"]["content"]]
        assert whole
        assert streamed == whole


class TestOrder:
    def test_the_first_words_leave_before_the_last_are_there(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        """Each chunk is written when the upstream wrote it: no event waits for the next."""
        sim.behave(chunk_interval=0.15, chunk_chars=40, tokens=40)
        proxy = app_with(make_proxy, masked)
        response = proxy.http.post(
            "/v1/chat/completions",
            json={"model": "example-sim", "messages": list(MESSAGES), "stream": True},
            buffered=False,
        )
        unfinished = []
        for raw in response.iter_encoded():
            if content_of(events(raw.decode())):
                unfinished.append(sim.log.inflight)
        assert unfinished[0] == 1
        assert all(a >= b for a, b in pairwise(unfinished))
