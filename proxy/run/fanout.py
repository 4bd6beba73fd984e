"""How many calls of one request may be under way at once."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType

#: Whether the running code is inside a call that has a slot.
_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Fanout:
    """``async with fanout.slot(): ...`` around each call.

    A call that is made while another one's stream is being read goes without: two that wait for
    each other's slots would never end.
    """

    __slots__ = ("_slots",)

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)

    def slot(self) -> _Slot:
        return _Slot(self._slots)


class _Slot:
    __slots__ = ("_nested", "_slots")

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._nested = True

    async def __aenter__(self) -> None:
        if not _inside.get():
            await self._slots.acquire()
            self._nested = False
            _inside.set(True)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._nested:
            _inside.set(False)
            self._slots.release()
