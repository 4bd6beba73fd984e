"""How many second attempts the service allows itself: a fifth of its calls, and a few besides.

When every provider is in trouble, retries are what keeps it there (the retry budget of Finagle).
"""

from __future__ import annotations

from collections.abc import Callable

_SHARE = 0.2
_A_SECOND = 5.0
_MOST = 50.0


class RetryBudget:
    """Tokens: a call brings a fifth of one, a second some more, an attempt costs one."""

    __slots__ = ("_at", "_clock", "_tokens")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._tokens = _MOST

    def called(self) -> None:
        """A first attempt was made."""
        self._tokens = min(_MOST, self._tokens + _SHARE)

    def take(self) -> bool:
        """Whether another attempt may be made."""
        now = self._clock()
        self._tokens = min(_MOST, self._tokens + _A_SECOND * (now - self._at))
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
