"""A second try for a call that takes longer than usual.

Hedged requests, deferred until the 95th percentile: Dean and Barroso, "The Tail at Scale", CACM
2013.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.errors import UpstreamError
from proxy.upstream.port import Batches, Json

if TYPE_CHECKING:
    from proxy.upstream.turn import Tries, Turn

T = TypeVar("T")

_PERCENTILE = 0.95
#: Answers by which the usual is known, those that it is told by, and the models (each of a
#: provider) of which it is.
_LEAST, _WINDOW, _MODELS = 20, 100, 256
#: Second attempts for each first one, and how many may be saved up.
_SHARE, _MOST = 0.05, 10.0


class NoSpare(UpstreamError):
    """Nobody has room for a second attempt; never told to a client."""


class Hedging:
    """How long is usual, and how many second attempts there may be. ``clock`` is the loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = 0.0
        self._seconds: dict[tuple[str, str, bool], deque[float]] = {}

    async def answer(
        self, turn: Turn, attempt: Callable[[Tries], Coroutine[Any, Any, Json]]
    ) -> Json:
        """The answer of ``turn``, or that of an ``attempt`` beside it where that one is sooner.

        Raises what ``turn`` raises.
        """
        answer, _ = await self._sooner(turn, turn.answer, attempt)
        return answer

    @asynccontextmanager
    async def stream(
        self, turn: Turn, attempt: Callable[[Tries], AbstractAsyncContextManager[Batches]]
    ) -> AsyncIterator[Batches]:
        """The same for a stream: sooner is whose first content is, and the other one is closed.

        Each is opened in a task of its own, but read and closed by the caller's.
        """
        async with AsyncExitStack() as first, AsyncExitStack() as second:
            chunks, overtaken = await self._sooner(
                turn,
                lambda: first.enter_async_context(turn.begun(hold=True)),
                lambda tries: second.enter_async_context(attempt(tries)),
            )
            await (first if overtaken else second).aclose()
            if overtaken:
                turn.leave()
            yield chunks

    async def _sooner(
        self,
        turn: Turn,
        begin: Callable[[], Coroutine[Any, Any, T]],
        attempt: Callable[[Tries], Coroutine[Any, Any, T]],
    ) -> tuple[T, bool]:
        """What ``begin`` or ``attempt`` returns, and whether it is the latter."""
        if turn.second:
            return await self._timed(turn, begin), False
        self._tokens = min(_MOST, self._tokens + _SHARE)
        usual = self._usual(turn.name)
        if usual is None:
            return await self._timed(turn, begin), False
        first = asyncio.create_task(self._timed(turn, begin))
        try:
            await asyncio.wait([first], timeout=usual)
            if first.done() or self._tokens < 1:
                return await first, False
            return await self._raced(turn, first, usual, attempt)
        finally:
            await _ended(first)

    async def _raced(
        self,
        turn: Turn,
        first: asyncio.Task[T],
        usual: float,
        attempt: Callable[[Tries], Coroutine[Any, Any, T]],
    ) -> tuple[T, bool]:
        self._tokens -= 1
        began, watch = self._clock(), turn.call.watch
        rival = None if watch is None else watch.beside()
        second = asyncio.create_task(attempt(turn.another(rival)))
        try:
            winner = await _winner(first, second)
        finally:
            for task in (first, second):
                await _ended(task)
        failure = _failure(second)
        if isinstance(failure, NoSpare):
            self._tokens += 1
        if winner is first:
            if rival is not None:
                rival.lost(failure)
            return first.result(), False
        failure = _failure(first)
        if failure is None:
            # It would have taken at least so long.
            self._took(turn.name, usual + self._clock() - began)
        else:
            turn.failed(failure)
            if watch is not None:
                watch.missed(failure)
        if rival is not None:
            rival.won()
        return second.result(), True

    async def _timed(self, turn: Turn, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        began = self._clock()
        begun = await begin()
        self._took(turn.name, self._clock() - began)
        return begun

    def _took(self, name: tuple[str, str, bool], seconds: float) -> None:
        if name not in self._seconds:
            if len(self._seconds) >= _MODELS:
                del self._seconds[next(iter(self._seconds))]
            self._seconds[name] = deque(maxlen=_WINDOW)
        self._seconds[name].append(seconds)

    def _usual(self, name: tuple[str, str, bool]) -> float | None:
        """How long 95 of 100 calls took at most; None where too few are known."""
        known = self._seconds.get(name, ())
        if len(known) < _LEAST:
            return None
        return sorted(known)[math.ceil(_PERCENTILE * len(known)) - 1]


async def _winner(first: asyncio.Task[T], second: asyncio.Task[T]) -> asyncio.Task[T]:
    """Which of both is answered first; ``first`` where neither is."""
    running = {first, second}
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in (first, second):
            if task in done and _failure(task) is None:
                return task
    return first


def _failure(task: asyncio.Task[Any]) -> UpstreamError | None:
    """Why it has no answer; None where it has one, or none yet, or where the reason is a bug."""
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    return error if isinstance(error, UpstreamError) else None


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
