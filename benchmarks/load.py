"""The load generator: raw HTTP/1.1 over asyncio sockets, in a process of its own.

``python -m benchmarks.load`` reads a `Load` as JSON from stdin and writes a `Measured` to stdout. A
request is one write of bytes made beforehand and an answer is only looked at as far as its end has
to be found, so that the generator stays far from being what is measured.
"""

from __future__ import annotations

import asyncio
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.figures import percentile

QUESTION = "What is 17 * 23 + 5?"
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
#: The first delta that says something; the one that opens a choice is empty.
CONTENT = re.compile(rb'"content":"[^"]')
_LAST_CHUNK = b"0\r\n\r\n"
#: In the head of an answer behind which the server hangs up.
_CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """Which requests, on how many connections, for how long.

    With ``seconds`` each connection asks again as soon as it has an answer, and what comes within
    the first ``warm_up`` seconds does not count. Without, each asks once.
    """

    url: str
    connections: int
    seconds: float = 0.0
    warm_up: float = 0.3
    #: Over how many seconds the connections begin: clients that keep step would come in bursts.
    stagger: float = 0.0
    #: Bodies of chat completion requests, taken in turn.
    bodies: Sequence[Mapping[str, Any]] = field(default_factory=lambda: [chat()])


@dataclass(slots=True)
class Measured:
    """Seconds; ``requests`` and the percentiles are of the counted span, ``total`` is all."""

    total: int = 0
    requests: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    #: Time to the first content of streamed answers.
    first_p50: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class Running:
    """A load on its way in its own process."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(asdict(load)))
        self._process.stdin.close()
        self._process.stdin = None

    def result(self) -> Measured:
        """Wait for its end."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the load generator ended with {self._process.returncode}")
        return Measured(**orjson.loads(out))


def measure(load: Load) -> Measured:
    """Run a load to its end."""
    return Running(load).result()


def chat(model: str = "sim", **members: Any) -> dict[str, Any]:
    """The body of a small request."""
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], **members}


def raise_descriptor_limit() -> None:
    """A thousand connections and more: the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Tally:
    """What all connections have seen."""

    def __init__(self, load: Load) -> None:
        self._requests = cycle(request_bytes(load))
        self.again = bool(load.seconds)
        self.counting = not load.seconds
        self.over = False
        self.total = 0
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.errors: Counter[str] = Counter()

    def next_request(self) -> bytes:
        return next(self._requests)

    def answered(self, status: bytes, seconds: float, first: float | None) -> None:
        self.total += 1
        if status != b"200":
            self.errors[f"HTTP {status.decode()}"] += 1
        elif self.counting:
            self.latencies.append(seconds)
            if first is not None:
                self.firsts.append(first)

    def measured(self, seconds: float) -> Measured:
        return Measured(
            total=self.total,
            requests=len(self.latencies),
            seconds=seconds,
            p50=percentile(self.latencies, 0.5),
            p99=percentile(self.latencies, 0.99),
            first_p50=percentile(self.firsts, 0.5),
            errors=dict(self.errors),
        )


class _Connection(asyncio.Protocol):
    """Asks, waits for the whole answer, and asks again where that is wanted.

    A server that announces to hang up after each answer is called again for each.
    """

    def __init__(self, tally: _Tally, host: str, port: int) -> None:
        self._tally = tally
        self._address = host, port
        self._redialling: asyncio.Task[bool] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._sent_at = 0.0
        self._first: float | None = None
        #: Where the answer ends; 0 where its last chunk says that, None before its head is here.
        self._length: int | None = None
        self.lost = asyncio.get_running_loop().create_future()

    async def dial(self) -> bool:
        """Whether somebody is there."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, *self._address)
        except OSError as error:
            self._tally.errors[type(error).__name__] += 1
            if self._redialling is not None:
                self.lost.set_result(None)
            return False
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has the methods and is no subclass.
        self._transport = cast(asyncio.WriteTransport, transport)
        if self._tally.over:
            self._transport.abort()
        else:
            self._ask(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        if self._length is None:
            self._length = _length(received)
            if self._length is None:
                return
        if self._length:
            complete = len(received) >= self._length
        else:
            complete = received.endswith(_LAST_CHUNK)
            if self._first is None and CONTENT.search(received):
                self._first = time.perf_counter() - self._sent_at
        if complete and self._transport is not None:
            status = received[9:12]
            self._tally.answered(status, time.perf_counter() - self._sent_at, self._first)
            head = received.find(_HEAD_END) + 2
            if self._tally.again and not _CLOSES.search(received, 0, head):
                self._ask(self._transport)
            else:
                self._sent_at = 0.0
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        answered = not self._sent_at
        if answered and self._tally.again and not self._tally.over:
            self._redialling = asyncio.create_task(self.dial())
            return
        if not answered and not self._tally.over:
            self._tally.errors["connection lost"] += 1
        self.lost.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ask(self, transport: asyncio.WriteTransport) -> None:
        self._received, self._length, self._first = b"", None, None
        self._sent_at = time.perf_counter()
        transport.write(self._tally.next_request())


async def run(load: Load) -> Measured:
    """Put the load on and measure."""
    tally = _Tally(load)
    began = time.perf_counter()
    opened = await asyncio.gather(*(_open(load, tally, nth) for nth in range(load.connections)))
    connections = [connection for connection in opened if connection is not None]
    if load.seconds:
        await asyncio.sleep(load.warm_up)
        tally.counting, began = True, time.perf_counter()
        await asyncio.sleep(load.seconds)
        seconds = time.perf_counter() - began
        tally.over = True
        for connection in connections:
            connection.close()
    for connection in connections:
        await connection.lost
    if not load.seconds:
        seconds = time.perf_counter() - began
    return tally.measured(seconds)


async def _open(load: Load, tally: _Tally, nth: int) -> _Connection | None:
    await asyncio.sleep(load.stagger * nth / load.connections)
    address = urlsplit(load.url)
    connection = _Connection(tally, address.hostname or "", address.port or 80)
    return connection if await connection.dial() else None


def request_bytes(load: Load) -> list[bytes]:
    """The bytes on the wire of each of a load's requests."""
    address = urlsplit(load.url)
    head = (
        f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        "Authorization: Bearer none\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    bodies = [orjson.dumps(body) for body in load.bodies]
    return [head.encode() % len(body) + body for body in bodies]


def _length(received: bytes) -> int | None:
    """Of an answer, head included; 0 for a chunked one, None before the head is complete."""
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    stated = _LENGTH.search(received, 0, end + 2)
    return end + len(_HEAD_END) + int(stated[1]) if stated else 0


def main() -> None:
    """Read a `Load` from stdin, write a `Measured` to stdout."""
    raise_descriptor_limit()
    load = Load(**orjson.loads(sys.stdin.buffer.read()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(run(load))
    sys.stdout.buffer.write(orjson.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
