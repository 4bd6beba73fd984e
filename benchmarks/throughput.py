"""What the proxy adds to an upstream that answers at once: requests a second, latency, CPU."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.figures import Figure, counted, ms
from benchmarks.load import Load, Measured, chat, measure
from benchmarks.proc import cpu_seconds
from benchmarks.processes import Proxy, Upstream

_ROUNDS = 5
_CONNECTIONS = (1, 16, 64)
_STREAMS = (1, 16)
#: About how long one streamed answer takes: the streams begin spread over it, and stay so.
_CYCLE = 0.18


def passthrough(seconds: float) -> Iterator[Figure]:
    """``none`` against the upstream itself, in turns, so that both see the same machine."""
    with Upstream() as upstream, Proxy(upstream.url) as proxy:
        for connections in _CONNECTIONS:
            direct: list[Measured] = []
            proxied: list[Measured] = []
            costs: list[float] = []
            for _ in range(_ROUNDS):
                direct.append(measure(Load(upstream.url, connections, seconds)))
                spent = cpu_seconds(proxy.pids)
                proxied.append(measure(Load(f"{proxy.url}/v1", connections, seconds)))
                costs.append((cpu_seconds(proxy.pids) - spent) / proxied[-1].total)
            yield from _passthrough(connections, direct, proxied, median(costs))


def _passthrough(
    connections: int, direct: list[Measured], proxied: list[Measured], cost: float
) -> Iterator[Figure]:
    name = f"passthrough, {counted(connections, 'connection')}"
    rate, bare = median(m.rate for m in proxied), median(m.rate for m in direct)
    yield Figure(
        f"{name}: rate",
        f"{rate:,.0f}/s, directly {bare:,.0f}/s, ratio {rate / bare:.2f}{_errors(proxied)}",
        "≥ 900/s" if connections == 64 else "",
        {"proxy_per_s": rate, "direct_per_s": bare, "ratio": rate / bare},
    )
    added = median(p.p50 - d.p50 for p, d in zip(proxied, direct, strict=True))
    yield Figure(
        f"{name}: added latency",
        f"{ms(added)} median",
        "≤ 1.5 ms" if connections == 1 else "",
        {"added_ms": 1000 * added},
    )
    p50, p99 = median(m.p50 for m in proxied), median(m.p99 for m in proxied)
    bare50, bare99 = median(m.p50 for m in direct), median(m.p99 for m in direct)
    yield Figure(
        f"{name}: latency",
        f"p50 {ms(p50)}, p99 {ms(p99)}, directly {ms(bare50)} and {ms(bare99)}",
        "",
        {
            "proxy_p50_ms": 1000 * p50,
            "proxy_p99_ms": 1000 * p99,
            "direct_p50_ms": 1000 * bare50,
            "direct_p99_ms": 1000 * bare99,
        },
    )
    yield Figure(f"{name}: CPU", f"{ms(cost)} a request", "≤ 1.1 ms", {"cpu_ms": 1000 * cost})


def first_token(seconds: float) -> Iterator[Figure]:
    """Time to the first content of a stream, through the proxy less directly."""
    with Upstream(latency=0.05, chunk_interval=0.01) as upstream, Proxy(upstream.url) as proxy:
        for connections in _STREAMS:
            added: list[float] = []
            bare: list[float] = []
            for _ in range(_ROUNDS):
                direct = measure(_streams(upstream.url, connections, seconds))
                proxied = measure(_streams(f"{proxy.url}/v1", connections, seconds))
                added.append(proxied.first_p50 - direct.first_p50)
                bare.append(direct.first_p50)
            yield Figure(
                f"first token, {counted(connections, 'stream')}",
                f"{ms(median(added))} over the upstream's own {ms(median(bare))}",
                "≤ 5 ms over",
                {"added_ms": 1000 * median(added), "direct_ms": 1000 * median(bare)},
            )


def _streams(url: str, connections: int, seconds: float) -> Load:
    return Load(url, connections, seconds, stagger=_CYCLE, bodies=[chat(stream=True)])


def _errors(measured: list[Measured]) -> str:
    count = sum(sum(m.errors.values()) for m in measured)
    return f", {count} errors" if count else ""
