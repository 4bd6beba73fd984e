"""The line of calls that wait for room at a provider.

Requests share what there is, not calls: whose request has the fewest calls under way goes first,
and among equals whose turn it is, so that one of 48 calls cannot starve one of 1. Turns are counted
as in self-clocked fair queueing (Golestani, INFOCOM 1994): each call of a request is due one turn
after the one before it, a new request's first call one turn after what was served last. A request
that comes to a later stage is due at once: it is nearest to giving back all that it holds.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.errors import QueueFull
from proxy.upstream.config import QueueConfig
from proxy.upstream.port import Call
from proxy.upstream.slots import Slots, Wanted
from proxy.upstream.window import Window

#: How long a call waits for the provider that was chosen, before any other will do.
_FIRST_CHOICE = 0.5
#: How often the clock is looked at, and, with other workers, the table.
_TICK = 0.05
_TICK_SHARED = 0.005
#: How quickly the measured pace of the line follows.
_ALPHA = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Where a call may go: a provider's limits for one model, and the window it has left open."""

    provider: str
    wanted: tuple[Wanted, ...]
    window: Window


@dataclass(slots=True)
class _Request:
    """A request that has calls here: how many wait and are under way, and when one more is due."""

    waiting: int = 0
    held: int = 0
    #: Its latest stage, its calls since it came there, and the turn that the last one is due in.
    stage: int = 0
    calls: int = 0
    due: int = 0


@dataclass(slots=True, eq=False)
class _Waiter:
    call: Call
    lanes: Sequence[Lane]
    since: float
    until: float
    number: int
    #: The turn it is due in, and how many calls of its request were due before in this stage.
    due: int
    behind: int
    given: asyncio.Future[Lane] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Line:
    """One for each worker and pool; the limits are those of the whole service."""

    def __init__(self, slots: Slots, queue: QueueConfig, *, shared: bool) -> None:
        self._slots = slots
        self._queue = queue
        self._tick = _TICK_SHARED if shared else _TICK
        self._waiters: dict[int, _Waiter] = {}
        self._numbers = itertools.count()
        self._requests: dict[object, _Request] = {}
        #: The turn that was served last.
        self._turn = 0
        self._ticking: asyncio.Task[None] | None = None
        #: Seconds between two calls that leave, while others wait; None before it was measured.
        self._pace: float | None = None
        self._left_at: float | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    @property
    def under_way(self) -> int:
        return sum(request.held for request in self._requests.values())

    def entered(self, call: Call, lane: Lane) -> bool:
        """Take a slot in ``lane`` where there is one at once; whether there was."""
        # What is not limited is not shared with other workers either.
        before = self._slots.waiting if lane.wanted else len(self._waiters)
        if before or not self._take(call, lane):
            return False
        self._turn = max(self._turn, self._due(call).due)
        return True

    async def enter(self, call: Call, lanes: Sequence[Lane]) -> Lane:
        """Wait for a slot in one of ``lanes``; the first is preferred for half a second.

        Raises `QueueFull` where the call may not wait, has waited too long, or could not be
        answered before its deadline any more.
        """
        if self.entered(call, lanes[0]):
            return lanes[0]
        now = asyncio.get_running_loop().time()
        self._check(call, now)
        request = self._due(call)
        request.waiting += 1
        waiter = _Waiter(
            call,
            lanes,
            since=now,
            until=now + self._queue.timeout,
            number=next(self._numbers),
            due=request.due,
            behind=request.calls,
        )
        self._waiters[waiter.number] = waiter
        self._slots.wait(1)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._keep_ticking())
        self._serve_share()
        try:
            return await waiter.given
        except asyncio.CancelledError:
            given = waiter.given
            if given.done() and not given.cancelled() and given.exception() is None:
                # It was served in the very moment in which it gave up.
                self.leave(call, given.result())
            raise
        finally:
            self._forget(waiter)

    def leave(self, call: Call, lane: Lane) -> None:
        """Give the slot back, to whoever comes next."""
        lane.window.under_way -= 1
        if lane.wanted:
            self._slots.give(lane.wanted)
        request = self._requests[call.owner]
        request.held -= 1
        self._tidy(call.owner, request)
        if self._waiters:
            self._measure()
            self._serve_share()

    async def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    def _take(self, call: Call, lane: Lane) -> bool:
        if lane.window.full or (lane.wanted and not self._slots.take(lane.wanted)):
            return False
        lane.window.under_way += 1
        self._requests.setdefault(call.owner, _Request()).held += 1
        return True

    def _serve_share(self) -> None:
        """Serve, or leave it to another worker: each as often as it has calls that wait."""
        if random.random() * self._slots.waiting < len(self._waiters):
            self._serve()

    def _serve(self) -> None:
        """Give what is free to those who come first."""
        now = asyncio.get_running_loop().time()
        line = [(self._rank(waiter), waiter) for waiter in self._waiters.values()]
        heapq.heapify(line)
        full: set[Lane] = set()
        while line:
            rank, waiter = heapq.heappop(line)
            if waiter.given.done():
                continue  # cancelled, and not awake yet
            if rank != (current := self._rank(waiter)):
                # Another call of its request was served: others may come first now.
                heapq.heappush(line, (current, waiter))
                continue
            for lane in waiter.lanes if now - waiter.since >= _FIRST_CHOICE else waiter.lanes[:1]:
                if lane in full:
                    continue
                if self._take(waiter.call, lane):
                    self._turn = max(self._turn, waiter.due)
                    self._forget(waiter)
                    waiter.given.set_result(lane)
                    break
                full.add(lane)

    def _forget(self, waiter: _Waiter) -> None:
        if self._waiters.pop(waiter.number, None) is not None:
            self._slots.wait(-1)
            owner = waiter.call.owner
            request = self._requests[owner]
            request.waiting -= 1
            self._tidy(owner, request)

    def _tidy(self, owner: object, request: _Request) -> None:
        if not request.waiting and not request.held:
            del self._requests[owner]

    def _rank(self, waiter: _Waiter) -> tuple[int, ...]:
        held = self._requests[waiter.call.owner].held
        return held, waiter.due, -waiter.call.stage, waiter.behind, waiter.number

    def _due(self, call: Call) -> _Request:
        """The request of a call, with the turn that this one is due in."""
        request = self._requests.setdefault(call.owner, _Request())
        earliest = self._turn if call.stage == 1 else self._turn - 1
        if call.stage > request.stage:
            request.stage, request.calls, request.due = call.stage, 0, earliest
        request.calls += 1
        request.due = max(request.due, earliest) + 1
        return request

    def _check(self, call: Call, now: float) -> None:
        """Refuse at once what would only wait in vain."""
        ahead = self._ahead(call)
        wait = None if self._pace is None else self._pace * (ahead + 1)
        if len(self._waiters) >= self._queue.size and call.stage == 1:
            raise QueueFull(
                f"{len(self._waiters)} calls are waiting for a provider, as many as may "
                "(queue.size).",
                retry_after=wait or 1.0,
            )
        if wait is not None and now + wait > call.deadline:
            raise QueueFull(
                f"The call would wait about {wait:.1f} s for a provider, and its deadline is in "
                f"{max(0.0, call.deadline - now):.1f} s.",
                retry_after=wait,
            )

    def _ahead(self, call: Call) -> int:
        """How many calls go before one more of this request: of each other its fair share."""
        own = self._requests.get(call.owner, _Request())
        mine = own.held + own.waiting
        others = (other for other in self._requests.values() if other is not own)
        return mine + sum(min(other.waiting, mine + 1) for other in others)

    def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._left_at is not None:
            gap = now - self._left_at
            self._pace = gap if self._pace is None else self._pace + _ALPHA * (gap - self._pace)
        self._left_at = now

    async def _keep_ticking(self) -> None:
        """While calls wait: mind the clock, and what other workers give back."""
        while self._waiters:
            await asyncio.sleep(self._tick)
            now = asyncio.get_running_loop().time()
            for waiter in list(self._waiters.values()):
                if now >= waiter.until and not waiter.given.done():
                    self._forget(waiter)
                    waiter.given.set_exception(self._timed_out())
            self._serve()
        self._ticking = None
        # A pace that was measured in another rush says nothing about the next one.
        self._pace = self._left_at = None

    def _timed_out(self) -> QueueFull:
        return QueueFull(
            f"No provider had room for the call within {self._queue.timeout:g} s (queue.timeout).",
            code="queue_timeout",
            retry_after=self._pace or 1.0,
        )
