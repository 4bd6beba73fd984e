"""Each fault as a client meets it, and which calls it meets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
import uvloop

from optictl.simulator import Behaviour, Fault, Simulator
from optictl.simulator.faults import ALWAYS, JSON_ONLY, STATUSES, STREAM_ONLY, FaultQueue

MESSAGES = [{"role": "user", "content": "What is 17 * 23 + 5?"}]


@asynccontextmanager
async def asked(
    *faults: Fault, stream: bool = False, timeout: float = 5, **more: Any
) -> AsyncIterator[tuple[Simulator, aiohttp.ClientResponse]]:
    body = {"model": "m", "messages": MESSAGES, "stream": stream, **more}
    limit = aiohttp.ClientTimeout(total=timeout)
    async with (
        Simulator(Behaviour(faults=faults)) as sim,
        aiohttp.ClientSession(timeout=limit) as http,
        http.post(f"{sim.url}/chat/completions", json=body) as response,
    ):
        yield sim, response


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_a_status_comes_with_an_error_object(status: int) -> None:
    async def run() -> None:
        async with asked(Fault(status, retry_after=2)) as (sim, response):
            assert response.status == status
            assert response.headers["Retry-After"] == "2"
            error = (await response.json())["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (sim.log.records[0].status, sim.log.choices) == (status, 0)

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["hang", "hang_after_headers"])
def test_a_hang_lasts_until_the_peer_leaves(kind: str, stream: bool) -> None:
    async def run() -> None:
        body = {"model": "m", "messages": MESSAGES, "stream": stream}
        heads: list[int] = []

        async def ask(http: aiohttp.ClientSession) -> None:
            async with http.post(f"{sim.url}/chat/completions", json=body) as response:
                heads.append(response.status)
                await response.read()

        async with (
            Simulator(Behaviour(faults=(Fault(kind),))) as sim,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.6)) as http,
        ):
            with pytest.raises(TimeoutError):
                await ask(http)
            assert heads == ([] if kind == "hang" else [200])
            await settled(sim)
            assert sim.log.dropped == 1

    asyncio.run(run())


async def settled(sim: Simulator) -> None:
    async with asyncio.timeout(2):
        while sim.log.inflight:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_is_a_tcp_reset(
    stream: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def run() -> None:
        body = orjson.dumps({"model": "m", "messages": MESSAGES, "stream": stream})
        async with Simulator(Behaviour(faults=(Fault("reset"),))) as sim:
            port = int(sim.url.rsplit(":", 1)[1].removesuffix("/v1"))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            writer.write(head.encode() + b"\r\n\r\n" + body)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            assert (sim.log.dropped, sim.log.inflight) == (0, 0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def test_a_truncated_answer_closes_before_its_content_length() -> None:
    async def run() -> None:
        async with asked(Fault("truncated")) as (sim, response):
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
            assert (sim.log.dropped, sim.log.inflight) == (0, 0)

    asyncio.run(run())


def test_malformed_json_is_complete_http() -> None:
    async def run() -> None:
        async with asked(Fault("malformed")) as (_, response):
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(await response.read())

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_html_is_a_page_with_status_200(stream: bool) -> None:
    async def run() -> None:
        async with asked(Fault("html"), stream=stream) as (_, response):
            assert (response.status, response.content_type) == (200, "text/html")
            assert "<html" in await response.text()

    asyncio.run(run())


def test_faults_of_content() -> None:
    async def run() -> dict[str, Any]:
        bodies = {}
        for kind in ("no_choices", "no_usage", "null_content", "length"):
            async with asked(Fault(kind)) as (_, response):
                bodies[kind] = await response.json()
        return bodies

    bodies = asyncio.run(run())
    assert bodies["no_choices"]["choices"] == []
    assert "usage" not in bodies["no_usage"]
    assert bodies["null_content"]["choices"][0]["message"]["content"] is None
    assert bodies["null_content"]["choices"][0]["finish_reason"] == "stop"
    assert bodies["length"]["choices"][0]["finish_reason"] == "length"
    assert "boxed" not in bodies["length"]["choices"][0]["message"]["content"]


def test_faults_of_content_in_a_stream() -> None:
    async def run() -> dict[str, str]:
        texts = {}
        for kind in ("no_choices", "no_usage", "null_content", "length", "malformed"):
            options = {"include_usage": True}
            async with asked(Fault(kind), stream=True, stream_options=options) as (_, response):
                texts[kind] = await response.text()
        return texts

    texts = asyncio.run(run())
    assert all(text.endswith("data: [DONE]\n\n") for text in texts.values())
    assert '"delta"' not in texts["no_choices"]
    assert ['"usage"' in texts[kind] for kind in ("no_usage", "null_content")] == [False, True]
    assert '"content":"A' not in texts["null_content"]
    assert '"finish_reason":"length"' in texts["length"]
    wrong = 0
    for event in texts["malformed"].removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        try:
            orjson.loads(event.removeprefix("data: "))
        except orjson.JSONDecodeError:
            wrong += 1
    assert wrong == 1


def test_a_cut_stream_breaks_off_without_finish() -> None:
    async def run() -> None:
        async with asked(Fault("stream_cut"), stream=True) as (sim, response):
            lines = []

            async def read() -> None:
                async for line in response.content:
                    lines.append(line.decode())

            with pytest.raises(aiohttp.ClientPayloadError):
                await read()
            text = "".join(lines)
            assert '"content":"Along' in text
            assert '"finish_reason":"stop"' not in text
            assert "[DONE]" not in text
            assert (sim.log.dropped, sim.log.inflight) == (0, 0)

    asyncio.run(run())


def test_a_stream_that_is_reset_has_begun_before() -> None:
    async def run() -> None:
        async with asked(Fault("stream_reset"), stream=True) as (sim, response):
            pieces = []

            async def read() -> None:
                async for piece in response.content.iter_any():
                    pieces.append(piece)

            with pytest.raises(aiohttp.ClientPayloadError, match="Connection reset"):
                await read()
            text = b"".join(pieces)
            assert b'"content":"Along' in text
            assert b'"finish_reason":"stop"' not in text
            assert (sim.log.dropped, sim.log.inflight) == (0, 0)
            assert sim.log.records[0].fault == "stream_reset"

    asyncio.run(run())


def test_a_stream_error_is_the_last_event() -> None:
    async def run() -> None:
        async with asked(Fault("stream_error"), stream=True) as (_, response):
            *_, last, end = (await response.text()).split("\n\n")
        assert end == ""
        assert orjson.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_loris_sends_single_bytes(stream: bool) -> None:
    async def run() -> None:
        async with asked(Fault("slow_loris"), stream=stream) as (sim, response):
            pieces = [await response.content.readany() for _ in range(3)]
            assert [len(piece) for piece in pieces] == [1, 1, 1]
            assert b"".join(pieces) == (b"dat" if stream else b'{"i')
            response.close()
            await settled(sim)
            assert sim.log.dropped == 1

    asyncio.run(run())


def test_a_fault_strikes_its_calls_only() -> None:
    queue = FaultQueue((Fault(429, times=2, model="a"), Fault("reset", role="judge")))

    def take(model: str, role: str = "solver") -> int | str | None:
        fault = queue.take(model=model, role=role, stream=False)
        return fault.kind if fault else None

    assert [take("b"), take("a"), take("a"), take("a")] == [None, 429, 429, None]
    assert [take("a", "judge"), take("b", "judge")] == ["reset", "reset"]


def test_faults_of_one_wire_shape_wait_for_it() -> None:
    queue = FaultQueue([Fault(kind, times=1) for kind in sorted(STREAM_ONLY | JSON_ONLY)])
    shapes = (False, False, True, True, True)
    taken = [queue.take(model="m", role="solver", stream=stream) for stream in shapes]
    kinds = [fault and fault.kind for fault in taken]
    assert kinds == ["truncated", None, "stream_cut", "stream_error", "stream_reset"]


def test_a_fault_strikes_with_its_probability() -> None:
    queue = FaultQueue((Fault(500, probability=0.25),), seed=3)
    hits = sum(bool(queue.take(model="m", role="x", stream=False)) for _ in range(2000))
    assert abs(hits - 500) <= 4 * (2000 * 0.25 * 0.75) ** 0.5


def test_an_unknown_fault_is_refused() -> None:
    assert len(ALWAYS | STREAM_ONLY | JSON_ONLY) == 14
    with pytest.raises(ValueError, match="earthquake"):
        Fault("earthquake")


def test_new_faults_count_from_the_start() -> None:
    async def run() -> list[int]:
        statuses = []
        body = {"model": "m", "messages": MESSAGES}
        async with (
            Simulator(Behaviour(faults=(Fault(500, times=1),))) as sim,
            aiohttp.ClientSession() as http,
        ):
            for step in range(5):
                if step == 2:
                    sim.behave(latency=0.001)
                if step == 3:
                    sim.behave(faults=(Fault(503, times=1),))
                async with http.post(f"{sim.url}/chat/completions", json=body) as response:
                    statuses.append(response.status)
        return statuses

    assert asyncio.run(run()) == [500, 200, 200, 503, 200]
