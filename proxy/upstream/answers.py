"""Answers that are kept for a while: the store behind ``--cache-ttl``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: What an entry takes besides its answer: its key, and what holds it. Bytes.
_OVERHEAD = 512


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer's batches as JSON, and what clients were told about it."""

    answer: bytes
    notes: tuple[str, ...] = ()


class Answers:
    """For ``ttl`` seconds on ``clock``, ``size`` bytes altogether; the oldest make room."""

    def __init__(self, ttl: float, size: int, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._size = size
        self._clock = clock
        #: In the order in which they expire.
        self._kept: dict[bytes, tuple[float, Kept]] = {}
        self.held = 0

    def get(self, key: bytes) -> Kept | None:
        expires, kept = self._kept.get(key, (0.0, None))
        return kept if self._clock() < expires else None

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep an answer; one that is larger than everything together may be is not kept."""
        self._drop(key)
        size = _size(kept)
        if size > self._size:
            return
        now = self._clock()
        while self._kept:
            oldest, (expires, _) = next(iter(self._kept.items()))
            if now < expires and self.held + size <= self._size:
                break
            self._drop(oldest)
        self._kept[key] = (now + self._ttl, kept)
        self.held += size

    def _drop(self, key: bytes) -> None:
        _, kept = self._kept.pop(key, (0.0, None))
        if kept is not None:
            self.held -= _size(kept)


def _size(kept: Kept) -> int:
    return _OVERHEAD + len(kept.answer)
