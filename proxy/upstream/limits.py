"""What is limited, and where in the table of slots each limit has its place.

Kept apart from the pools themselves: the master gives out the places, and needs no HTTP client.
"""

from __future__ import annotations

from proxy.settings import Settings
from proxy.upstream.config import PoolConfig, alone
from proxy.upstream.slots import Slots

#: The limit on all calls of a pool, and the counter of turns that its strategy takes.
QUEUE, TURNS = "queue", "turns"
#: The pools of a service, by the name under which their limits are kept.
DEFAULT, NAMED = "upstream", "pool"


def pools_of(settings: Settings) -> dict[str, PoolConfig]:
    """The command line's upstream and the providers of proxy_config.yaml, as far as they exist.

    Where the file has one provider and that is the command line's upstream, what it says of it
    holds for every request: the names of its models, and its limits.
    """
    configs = {}
    if settings.base_url and not _is_only_provider(settings):
        configs[DEFAULT] = alone(settings)
    if settings.pool is not None:
        configs[NAMED] = settings.pool
    return configs


def _is_only_provider(settings: Settings) -> bool:
    providers = () if settings.pool is None else settings.pool.providers
    return [each.base_url for each in providers] == [settings.base_url.rstrip("/")]


def limits(pool: PoolConfig) -> dict[str, int]:
    """Every limit of a pool by its name."""
    found = {} if pool.queue.max_concurrent is None else {QUEUE: pool.queue.max_concurrent}
    for provider in pool.providers:
        if provider.max_concurrent is not None:
            found[f"provider {provider.name}"] = provider.max_concurrent
        for host in provider.hosts.values():
            found[f"host {host}"] = pool.hosts[host]
    return found


def register(settings: Settings, slots: Slots) -> None:
    """Give the limits of all pools their places in the table; before the fork."""
    for name, config in pools_of(settings).items():
        slots.register(f"{name} {each}" for each in (TURNS, *limits(config)))
