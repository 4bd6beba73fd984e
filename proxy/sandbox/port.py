"""What runs code that a model wrote."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    #: What it printed, both ends trimmed; cut off behind the most that is read.
    output: str
    #: Why it failed, in words that its author can act on; None where it ended well.
    error: str | None = None


class Sandbox(Protocol):
    """Runs Python programs, one at a time each in a place of its own."""

    @property
    def runs(self) -> bool:
        """Whether it runs programs at all."""
        ...

    @property
    def libraries(self) -> Sequence[str]:
        """What programs can import besides the standard library."""
        ...

    async def run(self, program: str, seconds: float) -> Ran:
        """Run ``program`` for at most so many seconds; leaves nothing running, even cancelled."""
        ...

    def ready(self, seconds: float) -> AbstractAsyncContextManager[Callable[[str], Awaitable[Ran]]]:
        """`run`, to be called once at most, with its process started ahead while nobody waits."""
        ...
