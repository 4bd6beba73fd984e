"""An upstream that says the same bytes to everybody, and the client in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from proxy.errors import UpstreamError
from proxy.settings import Secret, Settings
from proxy.upstream.client import Client, Network
from proxy.upstream.config import alone
from proxy.upstream.port import Call

KEY = "sk-our-own-secret-key"
CALL = Call("m", {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5})
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}]}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "hel"}}]}
DONE = b"data: [DONE]\n\n"


def reply(
    body: bytes | Any, status: str = "200 OK", kind: str = "application/json", **headers: str
) -> bytes:
    """An HTTP response with its length told."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"Content-Type": kind, "Content-Length": str(len(raw)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + raw


def refusal(status: str, error: Any, **headers: str) -> bytes:
    return reply({"error": error}, status, **headers)


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


class Canned:
    """An upstream that answers the same bytes to all, and remembers what it was asked."""

    def __init__(self, answer: bytes, hang: bool = False) -> None:
        self._answer = answer
        self._hang = hang
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode().strip().split("\r\n")
                headers = dict(entry.lower().split(": ", 1) for entry in rest)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((line, headers, json.loads(body) if body else None))
                writer.write(self._answer)
                await writer.drain()
                if self._hang:
                    await reader.read()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


def lone_client(settings: Settings) -> tuple[Client, Network]:
    """The client of the upstream that the command line names."""
    config = alone(settings)
    network = Network.of(settings, config.connect_timeout, config.request_timeout)
    return Client(config.providers[0], network), network


@asynccontextmanager
async def provider(
    answer: bytes, *, hang: bool = False, key: str | None = KEY, **settings: Any
) -> AsyncIterator[tuple[Client, Canned]]:
    canned = Canned(answer, hang)
    server = await asyncio.start_server(canned.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client, network = lone_client(
        Settings(
            base_url=f"http://127.0.0.1:{port}/v1/",
            upstream_key=None if key is None else Secret(key),
            **settings,
        )
    )
    try:
        yield client, canned
    finally:
        await client.close()
        await network.connector.close()
        server.close()
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def failure(answer: bytes, *, stream: bool = False, **options: Any) -> UpstreamError:
    """The error that a call ends with."""
    caught: list[UpstreamError] = []

    async def test() -> None:
        async with provider(answer, **options) as (client, _):
            try:
                if stream:
                    async with client.stream(CALL) as batches:
                        async for _ in batches:
                            pass
                else:
                    await client.complete(CALL)
            except UpstreamError as error:
                caught.append(error)

    run(test)
    return caught[0]
