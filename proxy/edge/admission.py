"""How much a worker takes on at once: so many chats, with so many bytes of body."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proxy.errors import Overloaded, ShuttingDown

_RETRY_AFTER = 1.0


@dataclass(slots=True)
class Slot:
    """What one chat holds: the bytes of its body."""

    size: int


class Admission:
    """Refuses at once what would have to queue for a thread: /health must never wait behind it."""

    def __init__(self, limit: int, memory: float = math.inf) -> None:
        self._limit = limit
        self._memory = memory
        self._lock = threading.Lock()
        self.in_flight = 0
        #: Bytes of all bodies that are held, or that are on their way.
        self.held = 0
        #: Set when this process is about to end.
        self.closed = False
        #: Told how many are in flight, whenever that changes, in order.
        self.on_change: Callable[[int], None] | None = None

    @contextmanager
    def slot(self, size: int = 0) -> Iterator[Slot]:
        """Hold one of the slots, and room for a body of ``size`` bytes.

        Raises `Overloaded` or `ShuttingDown`.
        """
        if self.closed:
            raise ShuttingDown("The proxy is shutting down; try again.", retry_after=_RETRY_AFTER)
        with self._lock:
            if self.in_flight >= self._limit:
                raise Overloaded(
                    f"{self.in_flight} requests are in flight, as many as this worker takes on "
                    "(--threads).",
                    retry_after=_RETRY_AFTER,
                )
            if self.held + size > self._memory:
                raise Overloaded(
                    f"The requests in flight hold {self.held} bytes of body, and {size} more are "
                    "too many for this worker.",
                    retry_after=_RETRY_AFTER,
                )
            slot = Slot(size)
            self.held += size
            self._count(1)
        try:
            yield slot
        finally:
            with self._lock:
                self.held -= slot.size
                self._count(-1)

    def settle(self, slot: Slot, size: int) -> None:
        """The body of ``slot`` is here and has ``size`` bytes, no more than it was given."""
        with self._lock:
            self.held += size - slot.size
            slot.size = size

    def _count(self, more: int) -> None:
        self.in_flight += more
        if self.on_change is not None:
            self.on_change(self.in_flight)
