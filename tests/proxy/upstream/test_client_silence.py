"""How long a provider may be silent, in all the ways in which it can be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.web import BaseRequest, Server, ServerRunner, StreamResponse, TCPSite

from proxy.errors import UpstreamTimeout, UpstreamUnreachable
from proxy.settings import Settings
from proxy.upstream.client import Client, Network
from proxy.upstream.config import ProviderConfig
from proxy.upstream.port import Call

SILENCE = 1.0
LONG = 30.0
CALL = Call("m", {"messages": []})
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'

Write = Callable[[StreamResponse], Awaitable[None]]


async def streamed(write: Write) -> int:
    """How many chunks of a stream that is written so arrive."""

    async def handle(request: BaseRequest) -> StreamResponse:
        response = StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await write(response)
        return response

    runner = ServerRunner(Server(handle), shutdown_timeout=0.01)
    await runner.setup()
    await TCPSite(runner, "127.0.0.1", 0).start()
    _, port = runner.addresses[0]
    network = Network.of(Settings(base_url=""), LONG, SILENCE)
    client = Client(ProviderConfig("a", f"http://127.0.0.1:{port}/v1"), network)
    try:
        async with asyncio.timeout(LONG), client.stream(CALL) as batches:
            return sum([len(batch) async for batch in batches])
    finally:
        await client.close()
        await network.connector.close()
        await runner.cleanup()


def test_a_stream_that_comes_byte_by_byte_is_silent() -> None:
    async def write(response: StreamResponse) -> None:
        for byte in CHUNK * 100:
            await response.write(bytes([byte]))
            await asyncio.sleep(SILENCE / 20)

    with pytest.raises(UpstreamTimeout, match="silent"):
        asyncio.run(streamed(write))


def test_a_stream_that_says_to_wait_is_not_silent() -> None:
    async def write(response: StreamResponse) -> None:
        for _ in range(12):
            await response.write(b": still thinking\n\n")
            await asyncio.sleep(SILENCE / 8)
        await response.write(CHUNK + b"data: [DONE]\n\n")

    assert asyncio.run(streamed(write)) == 1


class Deaf(AbstractResolver):
    """A name server that does not answer."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        await asyncio.Event().wait()
        return []

    async def close(self) -> None:
        pass


def test_a_name_server_that_does_not_answer_is_part_of_connecting() -> None:
    async def ask() -> None:
        network = Network.of(Settings(base_url=""), SILENCE, LONG)
        network.connector._resolver = Deaf()
        client = Client(ProviderConfig("a", "http://provider.test/v1"), network)
        try:
            async with asyncio.timeout(LONG):
                await client.complete(CALL)
        finally:
            await client.close()
            await network.connector.close()

    with pytest.raises(UpstreamUnreachable) as caught:
        asyncio.run(ask())
    assert caught.value.refused
