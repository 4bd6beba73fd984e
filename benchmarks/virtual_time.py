"""An event loop whose clock goes on only when there is nothing to do."""

from __future__ import annotations

import asyncio
import selectors


class _Unwaiting(selectors.DefaultSelector):
    """Does not wait, but says how long it would have waited."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        assert timeout is not None, "everybody waits for something that will not happen"
        self.waited += timeout
        return found


class VirtualTime(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer; no other thread or socket may wake it."""

    def __init__(self) -> None:
        self._unwaiting = _Unwaiting()
        super().__init__(self._unwaiting)

    def time(self) -> float:
        return 1000.0 + self._unwaiting.waited
