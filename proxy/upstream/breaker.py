"""When to leave a provider alone, and when to try it again.

Closed until it has failed; then open for a while that doubles with each failed trial; then half
open: one call goes through, and its outcome decides (Nygard, "Release It!", 2007).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

#: Failures in a row that open it; one that is certain (nobody listens) is enough.
_THRESHOLD = 3
_FIRST = 1.0
#: Workers and providers that fail together should not come back together.
_JITTER = 0.2


class Breaker:
    """Seconds on the clock that it is given."""

    __slots__ = ("_clock", "_failures", "_longest", "_opened", "_pause", "_trying", "retry_at")

    def __init__(self, clock: Callable[[], float], longest: float) -> None:
        self._clock = clock
        self._longest = longest
        self._failures = 0
        self._opened = False
        self._pause = 0.0
        self._trying = False
        #: When it is half open; only while it is open.
        self.retry_at = 0.0

    @property
    def state(self) -> State:
        if not self._opened:
            return "closed"
        return "half-open" if self._clock() >= self.retry_at else "open"

    @property
    def permits(self) -> bool:
        """Whether a call may go through now."""
        return not self._opened or (not self._trying and self._clock() >= self.retry_at)

    def begin(self) -> None:
        """A call that it permitted is on its way."""
        self._trying = self._opened

    def succeeded(self) -> None:
        self._opened = self._trying = False
        self._failures = 0
        self._pause = 0.0

    def failed(self, *, certain: bool = False) -> None:
        self._failures += 1
        if self.state == "open" and not self._trying:
            # Sent before it was opened: tells nothing new.
            return
        if self._opened or certain or self._failures >= _THRESHOLD:
            self._pause = min(self._longest, 2 * self._pause or _FIRST)
            spread = random.uniform(1 - _JITTER, 1)
            self.retry_at = self._clock() + self._pause * spread
            self._opened, self._trying = True, False

    def undecided(self) -> None:
        """The call ended before it told anything."""
        self._trying = False
