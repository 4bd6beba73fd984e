"""Independent calls side by side: taken as they land, and none left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, TypeVar

from proxy.errors import ProxyError, TooFewMembers

T = TypeVar("T")

#: How many calls the running code has waited for, one after another (techniques: "rounds").
depth: ContextVar[int] = ContextVar("depth", default=0)
#: The answer (`proxy.run.scope.Answer`) whose fan the running code is a member of.
speculating: ContextVar[object] = ContextVar("speculating", default=None)
#: What a cancellation says of a member that the others were not kept waiting for.
SLOW = "slow"


class Fan(Generic[T]):
    """``async with Fan(coros) as landed: async for result in landed: ...``

    Leaving the block cancels what is still running and waits until it has ended. A member that
    fails is dropped and its error kept in ``failed``; only when nothing landed at all is an error
    raised, the first one. Raised at once are `TooFewMembers`, which no other member can make good,
    and any exception that is no `ProxyError`, which is a bug.

    With ``patience`` the slowest are given up: once two thirds have landed, the rest get that many
    times as long again as these took, and then the iteration ends.

    Taking a result lifts the consumer's depth to the depth at which the result was known: rounds
    follow the flow of data, not the clock.
    """

    def __init__(
        self,
        members: Iterable[Coroutine[Any, Any, T]],
        owner: object = None,
        patience: float | None = None,
    ) -> None:
        self._members = list(members)
        self._owner = owner
        self._patience = patience
        self._began = 0.0
        #: When the rest is given up; None until two thirds are there.
        self._until: float | None = None
        self._gave_up = False
        self._landed: asyncio.Queue[asyncio.Task[tuple[T, int]]] = asyncio.Queue()
        self._running: dict[asyncio.Task[tuple[T, int]], Coroutine[Any, Any, T]] = {}
        self._outstanding = 0
        self._successes = 0
        self.failed: list[ProxyError] = []

    async def __aenter__(self) -> Fan[T]:
        self._began = asyncio.get_running_loop().time()
        members, self._members = self._members, []
        for member in members:
            self.add(member)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running = list(self._running)
        for task in running:
            task.cancel(SLOW if self._gave_up else None)
        # Errors of members that nobody took are of no interest any more.
        await asyncio.gather(*running, return_exceptions=True)
        while not self._landed.empty():
            task = self._landed.get_nowait()
            if not task.cancelled():
                task.exception()

    def add(self, member: Coroutine[Any, Any, T]) -> None:
        """Start one more member; allowed while the block is open."""
        task = asyncio.create_task(self._run(member))
        self._outstanding += 1
        self._running[task] = member
        task.add_done_callback(self._done)

    async def _run(self, member: Coroutine[Any, Any, T]) -> tuple[T, int]:
        if self._owner is not None:
            speculating.set(self._owner)
        return await member, depth.get()

    def _done(self, task: asyncio.Task[tuple[T, int]]) -> None:
        # One that is cancelled before its first step would complain that nobody awaited it.
        self._running.pop(task).close()
        self._landed.put_nowait(task)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while self._outstanding:
            task = await self._next()
            if task is None:
                self._gave_up = True
                break
            self._outstanding -= 1
            try:
                result, known_at = task.result()
            except TooFewMembers:
                raise
            except ProxyError as error:
                self.failed.append(error)
                continue
            self._successes += 1
            self._set_limit()
            depth.set(max(depth.get(), known_at))
            return result
        if self.failed and not self._successes:
            raise self.failed[0]
        raise StopAsyncIteration

    async def _next(self) -> asyncio.Task[tuple[T, int]] | None:
        """The next member that ends; None where the rest is given up."""
        if self._until is None:
            return await self._landed.get()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._until):
                return await self._landed.get()
        return None

    def _set_limit(self) -> None:
        if self._patience is None or self._until is not None:
            return
        started = self._successes + self._outstanding + len(self.failed)
        if 3 * self._successes >= 2 * started:
            now = asyncio.get_running_loop().time()
            self._until = now + self._patience * (now - self._began)
