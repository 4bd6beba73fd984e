"""A bounded cache whose values are made once, however many ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from proxy.run.fan import depth


class Cache:
    """Least recently used first out; single flight per key. Lives on one loop."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._making: dict[Hashable, asyncio.Future[int]] = {}

    async def once(self, key: Hashable, make: Callable[[], Awaitable[Any]], ttl: float) -> Any:
        """The cached value of ``key``, else what ``make`` returns, kept for ``ttl`` seconds.

        Concurrent callers share one ``make``. If it fails or its caller is cancelled, the next
        waiter makes its own: one request's end is never another's.
        """
        while True:
            expires, value = self._values.get(key, (0.0, None))
            if time.monotonic() < expires:
                self._values.move_to_end(key)
                return value
            making = self._making.get(key)
            if making is None:
                return await self._make(key, make, ttl)
            await asyncio.wait([making])
            depth.set(max(depth.get(), making.result()))

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[Any]], ttl: float) -> Any:
        # Brings how many calls whoever waits has waited for.
        made: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._making[key] = made
        try:
            value = await make()
            self._values[key] = (time.monotonic() + ttl, value)
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
            return value
        finally:
            del self._making[key]
            made.set_result(depth.get())
