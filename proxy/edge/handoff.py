"""The one object that crosses from a request's thread to the loop and back.

    with engine.submit(plan, tenant) as job:
        first = job.first(client)

Leaving the block always cancels what still runs; a streamed response takes the job along and
leaves the block later, when its body is closed.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any

from proxy.edge.client import ClientGone, ClientSocket
from proxy.errors import ShuttingDown
from proxy.run.engine import Outcome

#: How often a waiting thread looks whether its client is still there.
_WATCH_EVERY = 0.2
#: Bytes handed over and not yet taken: above the first the loop waits, below the second it goes on.
_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024


class Job:
    """One run, seen from both sides. Also the `Sink` that the run writes its stream to."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[Job], Coroutine[Any, Any, Outcome]],
    ) -> None:
        self._loop = loop
        self._start = start
        self._inbox: queue.SimpleQueue[bytes | asyncio.Task[Outcome]] = queue.SimpleQueue()
        self._task: asyncio.Task[Outcome] | None = None
        self._over = False
        # Each counter has one writer, so that no lock is needed: put by the loop, taken by the
        # thread.
        self._put = 0
        self._taken = 0
        # Several choices may wait for it. Set by the thread that reads it as clear.
        self._room = asyncio.Event()

    # The loop's side.

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._start(self))
        self._task.add_done_callback(self._inbox.put)

    def put(self, data: bytes) -> None:
        self._put += len(data)
        self._inbox.put(data)

    async def room(self) -> None:
        if self._put - self._taken <= _HIGH_WATER:
            return
        self._room.clear()
        # Looked at again once it is clear: the thread may have caught up in between.
        if self._put - self._taken > _LOW_WATER:
            await self._room.wait()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # The thread's side.

    def __enter__(self) -> Job:
        # In a context of its own: what the run leaves behind, a connection in the pool or a child,
        # keeps its context, and Flask's holds the whole request.
        self._loop.call_soon_threadsafe(self._begin, context=Context())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._over:
            self._over = True
            self._loop.call_soon_threadsafe(self._cancel)

    def take(self, client: ClientSocket) -> bytes | Outcome:
        """All bytes that are ready, or how the run ended; blocks until there is either.

        Raises `ClientGone` once the client has hung up, and what the run raised.
        """
        while True:
            try:
                item = self._inbox.get(timeout=_WATCH_EVERY)
            except queue.Empty:
                if client.gone():
                    raise ClientGone from None
                continue
            if not isinstance(item, bytes):
                return self._ended(item)
            pieces = [item]
            while not self._over:
                try:
                    following = self._inbox.get_nowait()
                except queue.Empty:
                    break
                if not isinstance(following, bytes):
                    # Comes after the bytes; seen again by the next call.
                    self._inbox.put(following)
                    break
                pieces.append(following)
            return self._caught_up(b"".join(pieces))

    def _ended(self, task: asyncio.Task[Outcome]) -> Outcome:
        self._over = True
        if task.cancelled():
            # Only the engine's own end cancels a run that is still waited for.
            raise ShuttingDown("The proxy is shutting down; try again.", retry_after=1.0)
        return task.result()

    def _caught_up(self, data: bytes) -> bytes:
        self._taken += len(data)
        if not self._room.is_set() and self._put - self._taken <= _LOW_WATER:
            self._loop.call_soon_threadsafe(self._room.set)
        return data
