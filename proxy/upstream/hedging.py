"""A second try for a call that takes longer than usual.

Hedged requests, deferred until the 95th percentile: Dean and Barroso, "The Tail at Scale", CACM
2013.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from proxy.errors import UpstreamError
from proxy.upstream.port import Json

if TYPE_CHECKING:
    from proxy.upstream.turn import Tries, Turn

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
        self._seconds: dict[tuple[str, str], deque[float]] = {}

    async def answer(
        self, turn: Turn, attempt: Callable[[Tries], Coroutine[Any, Any, Json]]
    ) -> Json:
        """The answer of ``turn``, or that of an ``attempt`` beside it where that one is sooner.

        Raises what ``turn`` raises.
        """
        if turn.second:
            return await self._timed(turn)
        self._tokens = min(_MOST, self._tokens + _SHARE)
        usual = self._usual(turn.name)
        if usual is None:
            return await self._timed(turn)
        first = asyncio.create_task(self._timed(turn))
        try:
            await asyncio.wait([first], timeout=usual)
            if first.done() or self._tokens < 1:
                return await first
            return await self._raced(turn, first, usual, attempt)
        finally:
            await _ended(first)

    async def _raced(
        self,
        turn: Turn,
        first: asyncio.Task[Json],
        usual: float,
        attempt: Callable[[Tries], Coroutine[Any, Any, Json]],
    ) -> Json:
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
            return first.result()
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
        return second.result()

    async def _timed(self, turn: Turn) -> Json:
        began = self._clock()
        answer = await turn.answer()
        self._took(turn.name, self._clock() - began)
        return answer

    def _took(self, name: tuple[str, str], seconds: float) -> None:
        if name not in self._seconds:
            if len(self._seconds) >= _MODELS:
                del self._seconds[next(iter(self._seconds))]
            self._seconds[name] = deque(maxlen=_WINDOW)
        self._seconds[name].append(seconds)

    def _usual(self, name: tuple[str, str]) -> float | None:
        """How long 95 of 100 calls took at most; None where too few are known."""
        known = self._seconds.get(name, ())
        if len(known) < _LEAST:
            return None
        return sorted(known)[math.ceil(_PERCENTILE * len(known)) - 1]


async def _winner(first: asyncio.Task[Json], second: asyncio.Task[Json]) -> asyncio.Task[Json]:
    """Which of both is answered first; ``first`` where neither is."""
    running = {first, second}
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in (first, second):
            if task in done and _failure(task) is None:
                return task
    return first


def _failure(task: asyncio.Task[Json]) -> UpstreamError | None:
    """Why it has no answer; None where it has one, or none yet, or where the reason is a bug."""
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    return error if isinstance(error, UpstreamError) else None


async def _ended(task: asyncio.Task[Json]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
