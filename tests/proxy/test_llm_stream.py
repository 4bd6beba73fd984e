"""`LLM.stream`: a candidate that the approach reads as it arises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import MakeProxy, eventually
from driving import MESSAGES, Driver, FakeUpstream, app_with, completion, example

from optictl.simulator import SimulatorThread
from proxy.chat import Chat, Reply
from proxy.errors import UpstreamInvalid
from proxy.llm import LLM


def test_deltas_bring_text_reasoning_and_log_probabilities(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    seen: list[tuple[str, str, Any]] = []

    @example
    async def reading(chat: Chat, llm: LLM) -> Reply:
        async with llm.stream(chat.messages) as incoming:
            seen.extend([(d.text, d.reasoning, d.logprobs) async for d in incoming])
            return incoming.reply

    sim.behave(reasoning="Let me think.")
    said = app_with(make_proxy, reading).text("example-sim", logprobs=True)
    assert "".join(text for text, _, _ in seen) == said
    assert "".join(reasoning for _, reasoning, _ in seen) == "Let me think."
    assert any(logprobs for _, _, logprobs in seen)


def test_leaving_early_hangs_up(make_proxy: MakeProxy, sim: SimulatorThread) -> None:
    @example
    async def impatient(chat: Chat, llm: LLM) -> Reply:
        async with llm.stream(chat.messages) as incoming:
            async for delta in incoming:
                if delta.text:
                    break
            return incoming.reply

    sim.behave(chunk_interval=0.02, tokens=400)
    answer = app_with(make_proxy, impatient).ask("example-sim").json
    assert answer["choices"][0]["message"]["content"]
    assert answer["optillm"]["unreported_calls"] == 1
    assert eventually(lambda: sim.log.inflight == 0)
    assert sim.log.dropped == 1


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"max_tokens": 5},
    ],
    ids=["text", "logprobs", "tools", "length"],
)
def test_its_reply_equals_the_json_one(
    make_proxy: MakeProxy, sim: SimulatorThread, members: dict[str, Any]
) -> None:
    replies: list[Reply] = []

    @example
    async def both(chat: Chat, llm: LLM) -> Reply:
        replies.append(await llm.answer(chat.messages))
        async with llm.stream(chat.messages) as incoming:
            async for _ in incoming:
                pass
            replies.append(incoming.reply)
        return replies[0]

    sim.behave(reasoning="Let me think.")
    app_with(make_proxy, both).ask("example-sim", seed=5, **members)
    assert replies[1] == replies[0]


def test_a_provider_that_is_always_streamed_answers_the_same(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    said = {
        cancel: make_proxy(upstream_cancel=cancel).text("bon-sim", seed=5)
        for cancel in ("close", "stream")
    }
    assert said["close"] == said["stream"]
    assert [call.stream for call in sim.log.records] == [False] * 6 + [True] * 6


def test_a_stream_without_an_end_is_no_reply() -> None:
    choice = {"index": 0, "message": {"content": "half"}, "finish_reason": None}

    async def run() -> None:
        driver = Driver(FakeUpstream(lambda _: completion(None, choices=[choice])))
        with pytest.raises(UpstreamInvalid):
            await read(driver)

    asyncio.run(run())


async def read(driver: Driver) -> Reply:
    async with driver.llm.stream(MESSAGES) as incoming:
        async for _ in incoming:
            pass
        return incoming.reply
