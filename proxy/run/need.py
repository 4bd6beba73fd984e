"""What may come to be needed: a call that is only made once another has failed, or is late."""

from __future__ import annotations

import asyncio

from proxy.run.fan import depth


class Need:
    """Arises when somebody says so; by itself after ``seconds``, as what it waits for is late."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._arisen = asyncio.Event()
        #: How many calls whoever said so had waited for.
        self._depth = 0

    def __bool__(self) -> bool:
        """Whether it has arisen."""
        return self._arisen.is_set()

    def arise(self) -> None:
        """Say that it is there; again is no harm."""
        if not self._arisen.is_set():
            self._depth = depth.get()
            self._arisen.set()

    async def arisen(self) -> None:
        """Wait for it."""
        late = asyncio.get_running_loop().call_later(self._seconds, self.arise)
        try:
            await self._arisen.wait()
        finally:
            late.cancel()
        depth.set(max(depth.get(), self._depth))
