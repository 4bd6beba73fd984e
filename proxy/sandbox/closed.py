"""A sandbox that runs nothing: where a prompt has chosen the approach, its text is not trusted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from proxy.sandbox.port import Ran


class Closed:
    """Implements `proxy.sandbox.port.Sandbox`."""

    runs = False
    libraries: Sequence[str] = ()

    async def run(self, program: str, seconds: float) -> Ran:
        return Ran("", "Programs are not run for this request.")

    @asynccontextmanager
    async def ready(self, seconds: float) -> AsyncIterator[Callable[[str], Awaitable[Ran]]]:
        yield partial(self.run, seconds=seconds)
