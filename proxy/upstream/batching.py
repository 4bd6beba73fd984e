"""Batch mode: calls for one model that arrive shortly after each other go out together.

A remote chat API has no call for several conversations, so nothing but the moment is shared: each
call goes its own way from there, streams or not, fails or not, and the next batch waits for none of
them. An engine in this process finds the calls of a batch in one turn of its loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.upstream.layer import Layer
from proxy.upstream.port import Batches, Call, Json, Upstream


@dataclass(slots=True, eq=False)
class _Batch:
    timer: asyncio.TimerHandle
    size: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Batched(Layer):
    """Holds a call back for ``wait`` seconds at most, or until ``size`` of its model are there."""

    def __init__(self, behind: Upstream, size: int, wait: float) -> None:
        super().__init__(behind)
        self._size = size
        self._wait = wait
        self._open: dict[str, _Batch] = {}

    async def complete(self, call: Call) -> Json:
        await self._together(call.model)
        return await self._behind.complete(call)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Batches]:
        await self._together(call.model)
        async with self._behind.stream(call) as chunks:
            yield chunks

    async def _together(self, model: str) -> None:
        batch = self._open.get(model)
        if batch is None:
            later = asyncio.get_running_loop().call_later
            batch = self._open[model] = _Batch(later(self._wait, self._release, model))
        batch.size += 1
        if batch.size >= self._size:
            batch.timer.cancel()
            self._release(model)
        try:
            await batch.gone.wait()
        except asyncio.CancelledError:
            # Others get the place.
            batch.size -= 1
            raise

    def _release(self, model: str) -> None:
        self._open.pop(model).gone.set()
