"""Which models the upstream has: the last good list, so that an outage renames nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from proxy.errors import UpstreamError
from proxy.upstream.pool import Pool
from proxy.upstream.pools import Pools

_RETRY_EVERY = 2.0


class Catalog:
    """Refreshed in the background; read from any thread (attributes are replaced, not changed)."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self.entries: Sequence[dict[str, Any]] = ()
        self.names: frozenset[str] = frozenset()
        #: Why the upstream is not usable, or None while it is.
        self.trouble: UpstreamError | None = UpstreamError("The upstream was not asked yet.")

    async def keep_fresh(self) -> None:
        """Ask for ever, or once where health checks are off; cancelled when the engine stops."""
        checks = [pool.config.health_check for pool in self._pools]
        every = min((check.interval for check in checks if check.enabled), default=None)
        while True:
            await self.refresh(max_age=0.0)
            if every is None:
                return
            await asyncio.sleep(every if self.trouble is None else min(every, _RETRY_EVERY))

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
            found = await asyncio.gather(*map(_models, self._pools))
        finally:
            self._asking = None
            self._asked_at = asyncio.get_running_loop().time()
        entries = {
            entry["id"]: entry
            for listed in reversed(found)
            if not isinstance(listed, UpstreamError)
            for entry in listed
        }
        if entries:
            self.entries = list(entries.values())
            self.names = frozenset(entries)
        # The first pool is the one that serves whoever asks for none.
        self.trouble = found[0] if isinstance(found[0], UpstreamError) else None


async def _models(pool: Pool) -> Sequence[dict[str, Any]] | UpstreamError:
    try:
        return await pool.models()
    except UpstreamError as error:
        return error
