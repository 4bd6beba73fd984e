"""The simulated upstream as official and plain clients see it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import openai
import orjson
import pytest

from optictl.simulator import Behaviour, Simulator, SimulatorThread

QUESTION = "What is 17 * 23 + 5?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"properties": {"what": {"type": "string"}}}},
    }
]


@asynccontextmanager
async def connected(
    behaviour: Behaviour | None = None, **options: Any
) -> AsyncIterator[tuple[Simulator, openai.AsyncOpenAI]]:
    key = options.get("api_key") or "none"
    async with (
        Simulator(behaviour, **options) as sim,
        openai.AsyncOpenAI(base_url=sim.url, api_key=key, max_retries=0) as client,
    ):
        yield sim, client


def test_the_official_client_reads_an_answer_and_its_usage() -> None:
    async def run() -> None:
        async with connected(Behaviour(reasoning="Hmm, let me see.")) as (_, client):
            answer = await client.chat.completions.create(model="any", messages=MESSAGES)
        message = answer.choices[0].message
        assert (message.content or "").endswith("The final answer is \\boxed{396}.")
        assert (message.model_extra or {})["reasoning_content"] == "Hmm, let me see."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == "any"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(QUESTION) // 4
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 4
        total = answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.total_tokens == total

    asyncio.run(run())


@pytest.mark.parametrize("interval", [0.0, 0.001])
def test_a_stream_says_what_the_json_answer_says(interval: float) -> None:
    async def run() -> None:
        behaviour = Behaviour(chunk_interval=interval, chunk_chars=5, reasoning="Let me think.")
        async with connected(behaviour) as (_, client):
            whole = await client.chat.completions.create(model="m", messages=MESSAGES, seed=4)
            stream = await client.chat.completions.create(
                model="m",
                messages=MESSAGES,
                seed=4,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
        *deltas, last = chunks
        assert deltas[0].choices[0].delta.role == "assistant"
        assert all(len(chunk.choices[0].delta.content or "") <= 5 for chunk in deltas)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in deltas)
        assert text == whole.choices[0].message.content
        thought = [(c.choices[0].delta.model_extra or {}).get("reasoning_content") for c in deltas]
        assert "".join(filter(None, thought)) == "Let me think."
        assert [c.choices[0].finish_reason for c in deltas if c.choices[0].finish_reason] == [
            "stop"
        ]
        assert last.choices == []
        assert last.usage == whole.usage

    asyncio.run(run())


async def events_of(sim: Simulator, **body: Any) -> list[str]:
    body = {"model": "m", "messages": MESSAGES, "stream": True, **body}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{sim.url}/chat/completions", json=body) as response,
    ):
        assert response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events.pop() == ""
    return [event.removeprefix("data: ") for event in events]


def test_a_stream_ends_in_done_and_has_usage_only_when_asked() -> None:
    async def run() -> None:
        async with connected() as (sim, _):
            plain = await events_of(sim)
            asked = await events_of(sim, stream_options={"include_usage": True})
            sim.behave(stream_options="ignored")
            ignored = await events_of(sim, stream_options={"include_usage": True})
            sim.behave(stream_options="honoured", usage=False)
            silent = await events_of(sim, stream_options={"include_usage": True})
        for events in (plain, asked, ignored, silent):
            assert events[-1] == "[DONE]"
        has_usage = ['"usage"' in "".join(e) for e in (plain, asked, ignored, silent)]
        assert has_usage == [False, True, False, False]

    asyncio.run(run())


def test_a_stream_of_several_choices_interleaves_them() -> None:
    async def run() -> None:
        async with connected() as (sim, _):
            events = [orjson.loads(e) for e in (await events_of(sim, n=2))[:-1]]
        assert [e["choices"][0]["index"] for e in events[:4]] == [0, 1, 0, 1]
        ends = [e["choices"][0] for e in events if e["choices"][0]["finish_reason"]]
        assert {choice["index"] for choice in ends} == {0, 1}

    asyncio.run(run())


@pytest.mark.parametrize(("support", "choices"), [("honoured", 3), ("ignored", 1)])
def test_n_gives_as_many_choices_as_the_model_supports(support: str, choices: int) -> None:
    async def run() -> None:
        async with connected() as (sim, client):
            sim.behave(n=support)
            answer = await client.chat.completions.create(model="m", messages=MESSAGES, n=3)
            assert [choice.index for choice in answer.choices] == list(range(choices))
            assert (sim.log.calls, sim.log.choices) == (1, choices)

    asyncio.run(run())


def test_a_refused_n_or_stream_options_is_a_400_that_names_it() -> None:
    async def run() -> None:
        async with connected(Behaviour(n="refused", stream_options="refused")) as (sim, client):
            create: Callable[..., Awaitable[Any]] = client.chat.completions.create
            for more in ({"n": 2}, {"stream": True, "stream_options": {"include_usage": True}}):
                with pytest.raises(openai.BadRequestError) as caught:
                    await create(model="m", messages=MESSAGES, **more)
                assert caught.value.param in more
            await create(model="m", messages=MESSAGES, n=1)
            assert [call.status for call in sim.log.records] == [400, 400, 200]

    asyncio.run(run())


def test_choices_of_one_call_equal_those_of_single_calls() -> None:
    async def run() -> None:
        async with connected(Behaviour(probability=0.5)) as (sim, client):
            create: Callable[..., Awaitable[Any]] = client.chat.completions.create
            together = await create(model="m", messages=MESSAGES, n=4)
            sim.reset()
            single = [await create(model="m", messages=MESSAGES) for _ in range(4)]
            seeded = [await create(model="m", messages=MESSAGES, seed=i) for i in range(4)]
        texts = [choice.message.content for choice in together.choices]
        assert [answer.choices[0].message.content for answer in single] == texts
        assert [answer.choices[0].message.content for answer in seeded] == texts

    asyncio.run(run())


def test_models_are_listed_and_others_unknown_where_not_any_is_served() -> None:
    async def run() -> None:
        models = {"small": Behaviour(probability=0), "big": Behaviour()}
        async with connected(models=models, any_model=False) as (_, client):
            assert [model.id async for model in client.models.list()] == ["small", "big"]
            create: Callable[..., Awaitable[Any]] = client.chat.completions.create
            small = await create(model="small", messages=MESSAGES)
            big = await create(model="big", messages=MESSAGES)
            assert ["396" in a.choices[0].message.content for a in (small, big)] == [False, True]
            with pytest.raises(openai.NotFoundError) as caught:
                await create(model="huge", messages=MESSAGES)
            assert caught.value.code == "model_not_found"

    asyncio.run(run())


def test_a_wrong_key_is_refused_and_a_right_one_never_logged() -> None:
    async def run() -> None:
        async with connected(api_key="sk-right") as (sim, client):
            await client.chat.completions.create(model="m", messages=MESSAGES)
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").models.list()
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").chat.completions.create(
                    model="m", messages=MESSAGES
                )
            first = sim.log.records[0]
            assert first.headers["authorization"] == "present"
            assert "sk-right" not in repr(sim.log.records)
            assert sim.log.records[1].status == 401

    asyncio.run(run())


def test_both_paths_health_and_unknown_ones() -> None:
    async def run() -> None:
        body = {"model": "m", "messages": MESSAGES}
        async with connected() as (sim, _), aiohttp.ClientSession() as http:
            root = sim.url.removesuffix("/v1")
            for method, path, status in [
                ("POST", "/chat/completions", 200),
                ("POST", "/v1/chat/completions", 200),
                ("GET", "/models", 200),
                ("GET", "/health", 200),
                ("GET", "/v1/chat/completions", 404),
                ("POST", "/v1/nothing", 404),
            ]:
                data = body if method == "POST" else None
                async with http.request(method, root + path, json=data) as response:
                    assert response.status == status, path
                    await response.read()

    asyncio.run(run())


def test_a_tool_call_is_whole_in_json_and_in_a_stream() -> None:
    async def run() -> None:
        async with connected(Behaviour(chunk_chars=4)) as (_, client):
            create: Callable[..., Awaitable[Any]] = client.chat.completions.create
            options: Any = {"model": "m", "messages": MESSAGES, "tools": TOOLS, "seed": 1}
            answer = await create(**options)
            chunks = [chunk async for chunk in await create(**options, stream=True)]
        [call] = answer.choices[0].message.tool_calls
        parts = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
        assert (parts[0].id, parts[0].function.name) == (call.id, "look")
        assert all(part.id is None for part in parts[1:])
        assert "".join(part.function.arguments for part in parts) == call.function.arguments
        assert len(parts) > 2
        finishes = [answer.choices[0].finish_reason, chunks[-1].choices[0].finish_reason]
        assert finishes == ["tool_calls", "tool_calls"]

    asyncio.run(run())


def test_logprobs_cover_the_content_and_tell_right_from_wrong() -> None:
    async def run() -> None:
        models = {"right": Behaviour(tokens=400), "wrong": Behaviour(tokens=400, probability=0)}
        sure: dict[str, float] = {}
        async with connected(models=models) as (_, client):
            create: Callable[..., Awaitable[Any]] = client.chat.completions.create
            for model in models:
                options: Any = {"model": model, "messages": MESSAGES, "seed": 1}
                answer = await create(**options, logprobs=True, top_logprobs=3)
                stream = await create(**options, logprobs=True, top_logprobs=3, stream=True)
                chunks = [chunk.choices[0] async for chunk in stream]
                entries = answer.choices[0].logprobs.content
                streamed = [e for c in chunks if c.logprobs for e in c.logprobs.content]
                assert streamed == entries
                assert "".join(e.token for e in entries) == answer.choices[0].message.content
                assert all(len(e.top_logprobs) == 3 for e in entries)
                sure[model] = sum(e.logprob for e in entries) / len(entries)
        assert 0 > sure["right"] > sure["wrong"]

    asyncio.run(run())


def test_a_large_request_is_read() -> None:
    async def run() -> None:
        image = {"type": "image_url", "image_url": {"url": "data:," + "A" * 3_000_000}}
        parts: Any = [{"type": "text", "text": QUESTION}, image]
        async with connected() as (_, client):
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": parts}]
            )
        assert "396" in (answer.choices[0].message.content or "")

    asyncio.run(run())


def test_the_latency_is_waited_and_chunks_keep_their_interval() -> None:
    async def run() -> None:
        async with connected(Behaviour(latency=0.05, chunk_interval=0.01)) as (sim, client):
            await client.chat.completions.create(model="m", messages=MESSAGES)
            await events_of(sim)
            answer, stream = sim.log.records
        assert answer.end is not None
        assert answer.end - answer.start >= 0.05
        assert stream.end is not None
        assert stream.end - stream.start >= 0.05 + 5 * 0.01

    asyncio.run(run())


def test_a_thread_serves_synchronous_code() -> None:
    with (
        SimulatorThread(Behaviour(probability=0), models=("a", "b")) as sim,
        openai.OpenAI(base_url=sim.url, api_key="none", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == ["a", "b"]
        wrong = client.chat.completions.create(model="a", messages=MESSAGES)
        sim.behave(model="a", probability=1)
        right = client.chat.completions.create(model="a", messages=MESSAGES)
        still = client.chat.completions.create(model="b", messages=MESSAGES)
        answers = ["396" in (r.choices[0].message.content or "") for r in (wrong, right, still)]
        assert answers == [False, True, False]
        assert (sim.log.calls, sim.log.inflight) == (3, 0)
        sim.reset()
        assert sim.log.calls == 0


def test_a_port_in_use_is_an_error() -> None:
    with SimulatorThread() as sim:
        port = int(sim.url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(OSError, match="in use"), SimulatorThread(port=port):
            pass


def test_one_that_dies_comes_back_where_it_was() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "What is 2 * 3?"}]}
    with SimulatorThread() as sim, httpx.Client(base_url=sim.url) as http:
        assert http.post("/chat/completions", json=body).status_code == 200
        sim.stop()
        with pytest.raises(httpx.TransportError):
            http.post("/chat/completions", json=body)
        sim.start()
        assert http.post("/chat/completions", json=body).status_code == 200
        assert sim.log.calls == 2
