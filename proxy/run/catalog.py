"""Which models the upstream has: the last good list, so that an outage renames nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from proxy.errors import UpstreamAuth, UpstreamError, UpstreamRejected
from proxy.upstream.port import Upstream

_REFRESH_EVERY = 30.0
_RETRY_EVERY = 2.0


class Catalog:
    """Refreshed in the background; read from any thread (attributes are replaced, not changed)."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self.entries: Sequence[dict[str, Any]] = ()
        self.names: frozenset[str] = frozenset()
        #: Why the upstream is not usable, or None while it is.
        self.trouble: UpstreamError | None = UpstreamError("The upstream was not asked yet.")

    async def keep_fresh(self) -> None:
        """Ask for ever; cancelled when the engine stops."""
        while True:
            await self.refresh(max_age=0.0)
            await asyncio.sleep(_REFRESH_EVERY if self.trouble is None else _RETRY_EVERY)

    async def refresh(self, max_age: float) -> None:
        """Ask the upstream unless it was asked within ``max_age`` seconds; callers share."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is not None and now - self._asked_at < max_age and not self._asking:
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        try:
            entries = await self._upstream.models()
        except UpstreamAuth as error:
            self.trouble = error
        except UpstreamError as error:
            # Whoever answers 404 to /models may still serve chats.
            self.trouble = None if _answered(error) else error
        else:
            self.entries = entries
            self.names = frozenset(entry["id"] for entry in entries)
            self.trouble = None
        finally:
            self._asking = None
            self._asked_at = asyncio.get_running_loop().time()


def _answered(error: UpstreamError) -> bool:
    return isinstance(error, UpstreamRejected) or error.code == "model_not_found"
