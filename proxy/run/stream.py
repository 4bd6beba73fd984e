"""One streamed response: when its head leaves, what keeps it alive, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from proxy.chat import Reply
from proxy.run.ledger import Ledger
from proxy.wire.assemble import Assembler, deltas_of
from proxy.wire.response import Envelope
from proxy.wire.sse import DONE, KEEP_ALIVE, comment

#: How long the head waits for the first upstream reply: an error until then still gets its status.
HOLD_HEAD = 1.0
#: And for the router, which may draw samples: its choice stands in a header.
HOLD_ROUTED = 15.0
KEEP_ALIVE_EVERY = 15.0


class Sink(Protocol):
    """The way to the client's thread, which belongs to the edge."""

    def put(self, data: bytes) -> None:
        """Hand over bytes; never blocks."""
        ...

    async def room(self) -> None:
        """Wait while the client is behind with reading."""
        ...


class Stream:
    """All choices of a streamed response share one. ``routed`` where the router is asked."""

    def __init__(
        self, sink: Sink, envelope: Envelope, choices: int, ledger: Ledger, *, routed: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self.envelope = envelope
        self._choices = choices
        self._ledger = ledger
        self._routed = routed
        #: What was told while the head was held.
        self._early = b""
        self.opened = False
        self._wrote_at = self._loop.time()
        self._timer = self._loop.call_later(HOLD_HEAD, self._held)

    def open(self) -> None:
        """Send the head and each choice's role chunk, once."""
        if not self.opened:
            self._opening()
            self.put(b"".join(map(self.envelope.role, range(self._choices))) + self._early)

    def replied(self) -> None:
        """The first bytes of an upstream's reply are here: only the router still holds the head."""
        if not self._routed or self._ledger.routes:
            self.open()

    def _held(self) -> None:
        self.replied()
        if not self.opened:
            if self._loop.time() - self._wrote_at >= HOLD_ROUTED:
                self.open()
            else:
                self._timer = self._loop.call_later(HOLD_HEAD, self._held)

    def _opening(self) -> None:
        self.opened = True
        self._timer.cancel()
        self._timer = self._loop.call_later(KEEP_ALIVE_EVERY, self._keep_alive)

    def put(self, data: bytes) -> None:
        self._wrote_at = self._loop.time()
        self._sink.put(data)

    async def write(self, data: bytes, *, opens: bool = False) -> None:
        """Send ``data`` and wait while the client is behind; ``opens`` where it brings a role."""
        if opens and not self.opened and not self._early:
            self._opening()
        self.open()
        if self._ledger.spoken is None:
            self._ledger.spoken = self._ledger.now()
        self.put(data)
        await self._sink.room()

    def note(self, text: str) -> None:
        """A comment."""
        self.tell(comment(text))

    def tell(self, data: bytes) -> None:
        """Send what is told ahead of content. It is no reply, and waits for the head."""
        if self.opened:
            self.put(data)
        else:
            self._early += data

    def finish(self, last: bytes) -> None:
        self.open()
        self.put(last + DONE)
        self.close()

    def fail(self, event: bytes) -> None:
        self.put(event)
        self.close()

    def close(self) -> None:
        self._timer.cancel()

    def _keep_alive(self) -> None:
        silent = self._loop.time() - self._wrote_at
        if silent >= KEEP_ALIVE_EVERY:
            self.put(KEEP_ALIVE)
            silent = 0.0
        self._timer = self._loop.call_later(KEEP_ALIVE_EVERY - silent, self._keep_alive)


class Streamed:
    """One choice of a `Stream`; implements `proxy.run.outlet.Outlet`."""

    live = True

    def __init__(
        self,
        stream: Stream,
        index: int,
        *,
        progress: bool = False,
        told: Assembler | None = None,
    ) -> None:
        self._stream = stream
        self._index = index
        self._progress = progress
        self._told = told
        self.begun = False

    async def delta(self, delta: Mapping[str, Any], logprobs: Any = None) -> None:
        self.begun = True
        if self._told is not None:
            self._told.delta(delta)
        await self._stream.write(self._stream.envelope.chunk(self._index, delta, logprobs))

    async def reply(self, reply: Reply) -> None:
        delta = deltas_of(reply.message)
        if delta:
            await self.delta(delta, reply.logprobs)

    async def flush(self) -> None:
        pass

    def note(self, text: str) -> None:
        """A comment, or where progress was asked for, thought aloud: gateways drop comments."""
        if not self._progress:
            self._stream.note(text)
        elif not self.begun:
            delta = {"reasoning_content": f"{text}\n"}
            self._stream.tell(self._stream.envelope.chunk(self._index, delta))
