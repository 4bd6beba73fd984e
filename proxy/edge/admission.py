"""How many chats a worker takes on at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.errors import Overloaded, ShuttingDown

_RETRY_AFTER = 1.0


class Admission:
    """Refuses at once what would have to queue for a thread: /health must never wait behind it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.in_flight = 0
        #: Set when this process is about to end.
        self.closed = False

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the slots; raises `Overloaded` or `ShuttingDown`."""
        if self.closed:
            raise ShuttingDown("The proxy is shutting down; try again.", retry_after=_RETRY_AFTER)
        with self._lock:
            if self.in_flight >= self._limit:
                raise Overloaded(
                    f"{self.in_flight} requests are in flight, as many as this worker takes on "
                    "(--threads).",
                    retry_after=_RETRY_AFTER,
                )
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
