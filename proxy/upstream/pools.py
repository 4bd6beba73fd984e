"""The pools of a service: where a request goes that names ``proxy``, and where any other goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from proxy.settings import Settings, Sharing
from proxy.upstream.answers import Answers
from proxy.upstream.batching import Batched
from proxy.upstream.breaker import State
from proxy.upstream.limits import DEFAULT, NAMED, pools_of
from proxy.upstream.pool import Connect, Pool
from proxy.upstream.port import Upstream
from proxy.upstream.sharing import Shared
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
        layered = _layered(self._pools, settings.sharing)
        #: What serves a request's calls.
        self.default: Upstream = layered.get(DEFAULT) or layered[NAMED]
        self.named: Upstream = layered.get(NAMED) or self.default

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

    def states(self) -> Iterator[tuple[str, State]]:
        """Each provider, and its breaker's state."""
        for pool in self:
            yield from pool.states()

    async def close(self) -> None:
        for pool in self:
            await pool.close()


def _layered(pools: Mapping[str, Pool], sharing: Sharing) -> dict[str, Upstream]:
    """Each pool behind what the operator asked for; as it is where that is nothing."""
    layered: dict[str, Upstream] = dict(pools)
    if sharing.batch_size is not None:
        for name, pool in layered.items():
            layered[name] = Batched(pool, sharing.batch_size, sharing.batch_wait)
    answers = None
    if sharing.cache_ttl is not None:
        clock = asyncio.get_running_loop().time
        answers = Answers(sharing.cache_ttl, sharing.cache_bytes, clock)
    if sharing.single_flight or answers is not None:
        for name, pool in layered.items():
            layered[name] = Shared(pool, name, answers)
    return layered
