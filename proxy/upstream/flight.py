"""Single flight: those who ask the same at the same time wait for one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from proxy.errors import UpstreamError
from proxy.upstream.port import Rival, Watch

T = TypeVar("T")


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

    def leave(self, waiter: _Waiter) -> None:
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
        return self._leading.beside()

    @property
    def _leading(self) -> Watch:
        assert self.lead is not None
        return self.lead.watch


@dataclass(frozen=True, slots=True)
class _Flight(Generic[T]):
    relay: Relay
    task: asyncio.Task[T]


class Flights(Generic[T]):
    """Calls under way by what they ask. On one loop: each worker has its own."""

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[T]] = {}

    async def join(
        self, key: bytes, watch: Watch, make: Callable[[Relay], Coroutine[Any, Any, T]]
    ) -> tuple[T, bool]:
        """What ``make`` returns to whoever asks for ``key``, and whether ``watch`` has led.

        Who is cancelled takes only itself away, the last one the call. Raises what ``make`` raises,
        each waiter an error of its own.
        """
        flight = self._flights.get(key)
        if flight is None:
            relay = Relay()
            task = asyncio.create_task(self._fly(key, make, relay))
            flight = self._flights[key] = _Flight(relay, task)
        relay, task = flight.relay, flight.task
        waiter = relay.join(watch)
        try:
            return await asyncio.shield(task), relay.lead is waiter
        except UpstreamError as error:
            raise _own(error) from error.__cause__
        finally:
            if not task.done():
                relay.leave(waiter)
                if not relay.waiters:
                    # Who comes from now on is not to wait for what is being cancelled.
                    self._flights.pop(key)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def _fly(
        self, key: bytes, make: Callable[[Relay], Coroutine[Any, Any, T]], relay: Relay
    ) -> T:
        try:
            return await make(relay)
        finally:
            # Another one may be under way by now, where this one was cancelled.
            flight = self._flights.get(key)
            if flight is not None and flight.relay is relay:
                del self._flights[key]


def _own(error: UpstreamError) -> UpstreamError:
    """The same error as another object: each request writes on its own what it had done by then."""
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    return own
