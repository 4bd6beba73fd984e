"""The pools of a service: where a request goes that names ``proxy``, and where any other goes."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.settings import Settings
from proxy.upstream.limits import DEFAULT, NAMED, pools_of
from proxy.upstream.pool import Connect, Pool
from proxy.upstream.slots import Slots


class Pools:
    """One pool, or two: the command line's upstream, and the providers of proxy_config.yaml.

    Where there is but one of them, it serves every request. Built on the loop that uses it.
    """

    def __init__(self, settings: Settings, slots: Slots, connect: Connect | None = None) -> None:
        self._pools = {
            name: Pool(config, settings, slots, name, connect)
            for name, config in pools_of(settings).items()
        }
        self.default = self._pools.get(DEFAULT) or self._pools[NAMED]
        self.named = self._pools.get(NAMED) or self.default

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    @property
    def waiting(self) -> int:
        """Calls that wait for room at a provider."""
        return sum(pool.waiting for pool in self)

    @property
    def under_way(self) -> int:
        """Calls that providers are answering."""
        return sum(pool.under_way for pool in self)

    async def close(self) -> None:
        for pool in self:
            await pool.close()
