"""Single flight: those who ask the same at the same time read one answer, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from proxy.errors import UpstreamError
from proxy.upstream.conversion import unpaid
from proxy.upstream.port import Batches, Json, Rival, Watch

#: Bytes of an answer that are held for whoever comes later; of more only what some have not read.
_MOST = 8 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    watch: Watch


class Relay:
    """Implements `proxy.upstream.port.Watch` for a call that several wait for.

    One of them, who leads, accounts for it; where that one leaves, the next takes over.
    """

    def __init__(self) -> None:
        self.waiters: list[_Waiter] = []
        self.lead: _Waiter | None = None
        self.notes: list[str] = []
        self._provider: str | None = None

    def join(self, watch: Watch) -> _Waiter:
        waiter = _Waiter(watch)
        self.waiters.append(waiter)
        self.lead = self.lead or waiter
        for note in self.notes:
            watch.note(note)
        return waiter

    def ended(self, waiter: _Waiter) -> None:
        """It has read all of it; one that led has accounted for it."""
        self.waiters.remove(waiter)

    def leave(self, waiter: _Waiter) -> None:
        """It reads no further."""
        self.waiters.remove(waiter)
        if waiter is self.lead and self.waiters:
            self.lead = self.waiters[0]
            if self._provider is not None:
                self.lead.watch.sent(self._provider)

    def sent(self, provider: str) -> None:
        self._provider = provider
        self._leading.sent(provider)

    def missed(self, error: UpstreamError) -> None:
        self._provider = None
        self._leading.missed(error)

    def needed(self) -> bool:
        return any(waiter.watch.needed() for waiter in self.waiters)

    def note(self, text: str) -> None:
        self.notes.append(text)
        for waiter in self.waiters:
            waiter.watch.note(text)

    def shared(self, source: str) -> None:
        self._leading.shared(source)

    def beside(self) -> Rival:
        return _Beside(self, self._leading)

    def answered(self, provider: str, accounts: Watch) -> None:
        """A second attempt, which ``accounts`` knows of, is the one that answers."""
        self._provider = provider
        if self._leading is not accounts:
            self._leading.sent(provider)

    @property
    def _leading(self) -> Watch:
        assert self.lead is not None
        return self.lead.watch


class _Beside:
    """A second attempt at a call that several wait for; implements `proxy.upstream.port.Rival`.

    It stays with the one who led when it began: who leads later hears of it if it wins.
    """

    def __init__(self, relay: Relay, began: Watch) -> None:
        self._relay = relay
        self._began = began
        self._rival = began.beside()
        self._provider = ""

    def sent(self, provider: str) -> None:
        self._provider = provider
        self._rival.sent(provider)

    def missed(self, error: UpstreamError) -> None:
        self._rival.missed(error)

    def needed(self) -> bool:
        return self._rival.needed()

    def note(self, text: str) -> None:
        self._relay.note(text)

    def shared(self, source: str) -> None:
        self._rival.shared(source)

    def beside(self) -> Rival:
        return self._rival.beside()

    def won(self) -> None:
        self._rival.won()
        self._relay.answered(self._provider, self._began)

    def lost(self, error: UpstreamError | None) -> None:
        self._rival.lost(error)


@dataclass(slots=True, eq=False)
class _Page:
    """A batch as JSON, and the one behind it: those that everybody has read are forgotten."""

    said: bytes
    following: _Page | None = None


class Flight:
    """One answer on its way, in batches of chunks. ``make`` writes it.

    Every reader gets chunks of its own, from the first one on, and waits for none of the others.
    """

    def __init__(self, make: Callable[[Flight], Coroutine[Any, Any, None]]) -> None:
        self.relay = Relay()
        self._last = _Page(b"")
        #: What readers begin behind; None where there is too much of it to begin any more.
        self.opening: _Page | None = self._last
        self._size = 0
        self._more, self._wanted = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(make(self))
        self.task.add_done_callback(lambda _: self._turn())

    async def write(self, batch: Sequence[Json]) -> None:
        """Hand on a batch; of a very long answer only once somebody has read it."""
        self._last.following = page = _Page(orjson.dumps(batch))
        self._last = page
        self._size += len(page.said)
        self._turn()
        if self._size > _MOST:
            self.opening = None
            self._wanted.clear()
            await self._wanted.wait()

    def whole(self) -> bytes | None:
        """All batches as JSON; None where they are not held any more."""
        if self.opening is None:
            return None
        return b"[%b]" % b",".join(page.said for page in _behind(self.opening))

    async def read(self, waiter: _Waiter, page: _Page) -> Batches:
        """The batches behind ``page``; raises what ``make`` raised, each reader an own error."""
        while True:
            while page.following is not None:
                page = page.following
                batch = orjson.loads(page.said)
                yield batch if waiter is self.relay.lead else unpaid(batch)
                # One who comes late has much to read: others have their turns.
                await asyncio.sleep(0)
            if self.task.done():
                break
            self._wanted.set()
            await self._more.wait()
        self.relay.ended(waiter)
        try:
            self.task.result()
        except UpstreamError as error:
            raise _own(error) from error.__cause__
        if waiter is not self.relay.lead:
            waiter.watch.shared("flight")

    def _turn(self) -> None:
        """Wake those who have read all that there was."""
        self._more.set()
        self._more.clear()


class Flights:
    """Answers under way by what they are asked for. On one loop: each worker has its own."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}

    @asynccontextmanager
    async def join(
        self, key: bytes, watch: Watch, make: Callable[[Flight], Coroutine[Any, Any, None]]
    ) -> AsyncIterator[Batches]:
        """What ``make`` writes, to whoever asks for ``key`` meanwhile.

        Who leaves takes only itself away, the last one the call. Usage is for the one who leads.
        """
        flight = self._flights.get(key)
        if flight is None or flight.opening is None:
            flight = self._flights[key] = Flight(make)
            flight.task.add_done_callback(partial(self._forget, key, flight))
        assert flight.opening is not None
        relay, task = flight.relay, flight.task
        waiter = relay.join(watch)
        try:
            yield flight.read(waiter, flight.opening)
        finally:
            if waiter in relay.waiters:
                relay.leave(waiter)
            if not relay.waiters:
                # Who comes from now on is not to wait for what is being cancelled.
                self._forget(key, flight)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _forget(self, key: bytes, flight: Flight, _: object = None) -> None:
        # Another one may be under way by now.
        if self._flights.get(key) is flight:
            del self._flights[key]


def _behind(page: _Page) -> Iterator[_Page]:
    while page.following is not None:
        page = page.following
        yield page


def _own(error: UpstreamError) -> UpstreamError:
    """The same error as another object: each request writes on its own what it had done by then."""
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    return own
