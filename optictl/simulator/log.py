"""What reached a simulated upstream: which calls, how many at once, in how many rounds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

#: A client may start its next round before we have seen it hang up on the last one.
EPSILON = 0.005


@dataclass(slots=True)
class Call:
    """One chat completion as the upstream saw it; times in seconds of `time.monotonic`."""

    index: int
    start: float
    concurrency: int
    end: float | None = None
    model: str = ""
    role: str = ""
    stream: bool = False
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    peer_left: bool = False
    status: int = 200
    #: The kind of `optictl.simulator.Fault` that struck it.
    fault: int | str | None = None
    choices: int = 0
    completion_tokens: int = 0
    content: str | None = None


class CallLog:
    """The calls so far. Readable and clearable from any thread.

    Records are bounded (`limit`, the oldest go first); `calls`, `choices`, `dropped` and `peak`
    count all of them. Without `keep_bodies` the records carry no body, headers and content.
    """

    def __init__(self, *, limit: int = 10_000, keep_bodies: bool = True) -> None:
        self.keep_bodies = keep_bodies
        self._lock = Lock()
        self._records: deque[Call] = deque(maxlen=limit)
        self._open: dict[int, Call] = {}
        self._next = 0
        self._first = 0
        self._choices = 0
        self._dropped = 0
        self._peak = 0

    @property
    def records(self) -> list[Call]:
        """The calls in the order in which they came."""
        with self._lock:
            return list(self._records)

    @property
    def calls(self) -> int:
        """How many calls came."""
        return self._next - self._first

    @property
    def choices(self) -> int:
        """How many answers were set about: an honoured n = 5 counts five, a refused one none."""
        return self._choices

    @property
    def peak(self) -> int:
        """The most calls in flight at one time."""
        return self._peak

    @property
    def inflight(self) -> int:
        """Calls in flight now."""
        return len(self._open)

    @property
    def dropped(self) -> int:
        """Calls whose peer hung up before the whole answer was sent."""
        return self._dropped

    @property
    def rounds(self) -> int:
        """The longest chain of recorded calls, each begun when the one before had ended.

        Meaningful where the latency is well above 5 ms.
        """
        now = time.monotonic()
        spans = []
        for call in self.records:
            end = now if call.end is None else call.end
            spans.append((end - min(EPSILON, (end - call.start) / 2), call.start))
        rounds, last = 0, float("-inf")
        for end, start in sorted(spans):
            if start >= last:
                rounds, last = rounds + 1, end
        return rounds

    def clear(self) -> None:
        """Forget the calls; those in flight go on and count as `inflight`, nowhere else."""
        with self._lock:
            self._records.clear()
            self._first = self._next
            self._choices = self._dropped = 0
            self._peak = len(self._open)

    def begin(self, headers: Mapping[str, str]) -> Call:
        """A call has come."""
        with self._lock:
            call = Call(self._next, time.monotonic(), len(self._open) + 1)
            self._next += 1
            self._open[call.index] = call
            self._peak = max(self._peak, call.concurrency)
            self._records.append(call)
        if self.keep_bodies:
            call.headers = {
                name: "present" if name in ("authorization", "x-api-key", "api-key") else value
                for name, value in ((key.lower(), value) for key, value in headers.items())
            }
        return call

    def answering(self, call: Call, choices: int) -> None:
        """It is being answered with so many choices."""
        with self._lock:
            call.choices = choices
            if call.index >= self._first:
                self._choices += choices

    def finish(self, call: Call, *, peer_left: bool = False) -> None:
        """It is answered, or its peer has left; the second time says nothing new."""
        with self._lock:
            if self._open.pop(call.index, None) is None:
                return
            call.end = time.monotonic()
            call.peer_left = peer_left
            if call.index >= self._first:
                self._dropped += peer_left
