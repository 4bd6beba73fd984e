"""What a provider that complains of too much is still sent.

429 and 503 close it for as long as the provider says (Retry-After; else ever longer, from the
second in a row), and halve the number of calls that it gets at once. A round of answers opens that
by one again (AIMD, as TCP's congestion window); two seconds without a complaint double it, so that
slow answers do not hold up the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from proxy.errors import UpstreamError

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
#: Seconds without a complaint after which twice as many calls go out.
_DOUBLING = 2.0
#: Wide enough to be forgotten.
_WIDE = 256.0


class Window:
    """Seconds on the clock that it is given."""

    __slots__ = ("_clock", "_in_a_row", "_width", "closed_until", "complaint", "under_way")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._width: float | None = None
        self._in_a_row = 0
        self.closed_until = 0.0
        #: What closed it, in the provider's words.
        self.complaint: UpstreamError | None = None
        self.under_way = 0

    @property
    def closed(self) -> bool:
        return self.closed_until > 0 and self._clock() < self.closed_until

    @property
    def full(self) -> bool:
        """Whether as many calls are under way as it takes at present."""
        return self._width is not None and self.under_way >= int(self._opened())

    def answered(self) -> None:
        self._in_a_row = 0
        if self._width is not None:
            # One more for each round of answers, not for each answer.
            self._width += 1 / self._width
            if self._width > _WIDE:
                self._width = None

    def overloaded(self, complaint: UpstreamError) -> None:
        """It has refused a call; ``retry_after`` says what it asks for."""
        now, retry_after = self._clock(), complaint.retry_after
        self.complaint = complaint
        if not self.closed:
            # Calls that were under way together complain together, and that counts once.
            self._in_a_row += 1
            self._width = max(1.0, (self._opened() or self.under_way) / 2)
        if retry_after is None:
            # One that names no pause and then answers again has asked for none.
            pause = _FIRST_PAUSE * 2 ** (self._in_a_row - 2) if self._in_a_row > 1 else 0.0
            retry_after = min(_LONGEST_PAUSE, pause) * random.uniform(0.8, 1.0)
        self.closed_until = max(self.closed_until, now + retry_after)

    def _opened(self) -> float:
        """The width with what time has added; 0 where there is no limit."""
        if self._width is None:
            return 0.0
        quiet = max(0.0, self._clock() - self.closed_until)
        width: float = self._width * 2 ** min(quiet / _DOUBLING, 10.0)
        if width > _WIDE:
            self._width = None
        return width
