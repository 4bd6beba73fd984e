"""What ends on the threads of requests, written in batches by a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxy.run.ledger import CallRecord

T = TypeVar("T")

_log = logging.getLogger("optillm.telemetry")

#: Seconds between two batches: how long something waits to be written.
_EVERY = 0.1
#: Seconds that a request waits for calls of it that are being cancelled, and a process for the
#: last batch.
_PATIENCE = 2.0
#: Requests that wait; more are lost, and told.
_MOST = 4_096


@dataclass(frozen=True, slots=True)
class _Ended(Generic[T]):
    item: T
    calls: Sequence[CallRecord]
    at: float = field(default_factory=time.monotonic)

    @property
    def settled(self) -> bool:
        """Whether no call is under way: those of a client that has gone end soon after it."""
        return all(call.end is not None for call in list(self.calls))


class Batches(Generic[T]):
    """``write`` gets what was put, on one thread, which begins with the first: after the fork."""

    def __init__(self, name: str, write: Callable[[Sequence[T]], None]) -> None:
        self._name = name
        self._write = write
        self._waiting: queue.SimpleQueue[_Ended[T] | None] = queue.SimpleQueue()
        self._lost = 0
        self._closed = threading.Event()
        self._beginning = threading.Lock()
        self._writer: threading.Thread | None = None

    def put(self, item: T, calls: Sequence[CallRecord]) -> None:
        """Put ``item`` aside until its ``calls`` have ended. Never blocks."""
        if self._waiting.qsize() >= _MOST:
            self._lost += 1
            return
        self._waiting.put(_Ended(item, calls))
        if self._writer is None:
            self._begin()

    def close(self) -> None:
        """Write what waits, and end."""
        self._closed.set()
        if self._writer is not None:
            self._waiting.put(None)
            self._writer.join(_PATIENCE)

    def _begin(self) -> None:
        with self._beginning:
            if self._writer is None:
                writer = threading.Thread(target=self._run, name=self._name, daemon=True)
                writer.start()
                # Not before it runs: another thread may be closing, and would join it.
                self._writer = writer

    def _run(self) -> None:
        held: list[_Ended[T]] = []
        while not self._closed.is_set():
            if not held and (first := self._waiting.get()) is not None:
                held.append(first)
            # What else ends meanwhile is written with it, and wakes nobody.
            self._closed.wait(_EVERY)
            held += self._taken()
            ready, held = self._parted(held)
            if ready:
                self._write([each.item for each in ready])
            if self._lost:
                _log.warning("%s: %d requests are lost, they came too fast", self._name, self._lost)
                self._lost = 0
        # What came while the last batch was being written.
        if rest := [*held, *self._taken()]:
            self._write([each.item for each in rest])

    def _taken(self) -> list[_Ended[T]]:
        taken = (self._waiting.get() for _ in range(self._waiting.qsize()))
        return [each for each in taken if each is not None]

    def _parted(self, held: Sequence[_Ended[T]]) -> tuple[list[_Ended[T]], list[_Ended[T]]]:
        """Those that are settled, or had the time to; and the others."""
        parts: tuple[list[_Ended[T]], list[_Ended[T]]] = [], []
        late = time.monotonic() - _PATIENCE
        for each in held:
            waits = each.at > late and not each.settled and not self._closed.is_set()
            parts[waits].append(each)
        return parts
