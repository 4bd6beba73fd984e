"""What the pool of providers costs: CPU for each call, and throughput through three of them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
import yaml

from benchmarks.figures import Figure
from benchmarks.load import QUESTION, Load, measure
from benchmarks.processes import Proxy, Upstream
from proxy.settings import Settings
from proxy.upstream.client import Client, Network
from proxy.upstream.config import PoolConfig, ProviderConfig, QueueConfig
from proxy.upstream.limits import register
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call, Endpoint
from proxy.upstream.slots import Slots

_ROUNDS = 9
_CALLS = 500
_CONNECTIONS = 64
_PROVIDERS = 3


def pool(seconds: float) -> Iterator[Figure]:
    """A call through a pool against the same call by its client alone; three providers or one."""
    yield _overhead()
    yield _throughput(seconds)


def _overhead() -> Figure:
    with Upstream() as upstream:
        added = uvloop.run(_added(upstream.url))
    return Figure(
        f"CPU that a pool of {_PROVIDERS} adds to a call",
        f"{1e6 * added:.0f} µs over a bare client",
        "≤ 100 µs",
        {"added_us": 1e6 * added},
    )


async def _added(url: str) -> float:
    """Seconds of CPU a call: every limit there is, so that none of the work is left out."""
    providers = tuple(
        ProviderConfig(f"p{number}", url, max_concurrent=100, hosts={"*": "box"})
        for number in range(_PROVIDERS)
    )
    config = PoolConfig(providers, queue=QueueConfig(), hosts={"box": 100})
    settings = Settings(base_url="", pool=config)
    slots = Slots()
    register(settings, slots)
    slots.claim()
    shared = Pool(config, settings, slots)
    network = Network.of(settings, config.connect_timeout, config.request_timeout)
    bare = Client(providers[0], network)
    costs: list[float] = []
    for _ in range(_ROUNDS):
        costs.append(-await _cost(bare) + await _cost(shared))
    await shared.close()
    await bare.close()
    await network.connector.close()
    return median(costs)


async def _cost(endpoint: Endpoint) -> float:
    call = Call("sim", {"messages": [{"role": "user", "content": QUESTION}]})
    await asyncio.gather(*(endpoint.complete(call) for _ in range(3)))
    began = time.process_time()
    for _ in range(_CALLS):
        await endpoint.complete(call)
    return (time.process_time() - began) / _CALLS


def _throughput(seconds: float) -> Figure:
    with ExitStack() as running:
        # One process for all three: two cores have no more to give.
        upstream = running.enter_context(Upstream())
        proxies = []
        for count in (1, _PROVIDERS):
            file = running.enter_context(config_file([upstream.url] * count))
            proxies.append(running.enter_context(Proxy("", "--proxy-config", str(file))))
        rates: list[list[float]] = [[], []]
        for _ in range(_ROUNDS // 2):
            for proxy, found in zip(proxies, rates, strict=True):
                found.append(measure(Load(f"{proxy.url}/v1", _CONNECTIONS, seconds)).rate)
    one, three = map(median, rates)
    return Figure(
        f"throughput through {_PROVIDERS} providers, {_CONNECTIONS} connections",
        f"{three:,.0f}/s, through one {one:,.0f}/s, ratio {three / one:.2f}",
        "≥ 0.9 of one",
        {"three_per_s": three, "one_per_s": one, "ratio": three / one},
    )


@contextmanager
def config_file(urls: list[str], **members: Any) -> Iterator[Path]:
    """A proxy_config.yaml for providers that are alike, while the block lasts."""
    providers = [
        {"name": f"p{number}", "base_url": url, "api_key": "", "max_concurrent": 100}
        for number, url in enumerate(urls)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proxy_config.yaml"
        path.write_text(yaml.safe_dump({"providers": providers, **members}))
        yield path
