"""Requests that wait for a slow model, and clients that do not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.figures import Figure, ms
from benchmarks.load import CONTENT, Load, Running, chat, request_bytes
from benchmarks.proc import rss
from benchmarks.processes import Proxy, Upstream

_REQUESTS = 1000
_WAIT = 2.0
_LEAVERS = 9
_PATIENCE = 10.0
_POLL = 0.002


def in_flight(seconds: float) -> Iterator[Figure]:
    """A thousand requests at once against a model that takes two seconds, on two workers.

    ``seconds`` is not used, neither here nor below.
    """
    # The kernel deals connections out unevenly: each worker has room for all of them.
    flags = ("--workers", "2", "--threads", "1100")
    with Upstream(latency=_WAIT) as upstream, Proxy(upstream.url, *flags) as proxy:
        Running(Load(f"{proxy.url}/v1", 8)).result()
        before = rss(proxy.pids)
        load = Running(Load(f"{proxy.url}/v1", _REQUESTS))
        most, end = before, time.monotonic() + _WAIT
        while time.monotonic() < end:
            most = max(most, rss(proxy.pids))
            time.sleep(0.1)
        measured = load.result()
    each = (most - before) / _REQUESTS
    failed = sum(measured.errors.values())
    yield Figure(
        f"{_REQUESTS:,} requests in flight, upstream of {_WAIT:g} s, 2 workers",
        f"all done in {measured.seconds:.2f} s, {failed} errors",
        "≤ 4 s, no error",
        {"wall_s": measured.seconds, "errors": failed},
    )
    yield Figure(
        "memory of a waiting request", f"{each / 1000:.0f} kB", "≤ 100 kB", {"kb": each / 1000}
    )


def hang_up(seconds: float) -> Iterator[Figure]:
    """From a client's end to an idle upstream, for JSON and for streams."""
    # The proxy looks after its clients at intervals: they leave at different moments of one.
    lingers = [0.03 * number for number in range(_LEAVERS)]
    with Upstream(latency=5.0) as upstream, Proxy(upstream.url) as proxy:
        body = chat("moa-sim")
        yield _left("JSON answer", [_leave(proxy, upstream, body, _called, s) for s in lingers])
    with Upstream(chunk_interval=0.03, tokens=2000) as upstream, Proxy(upstream.url) as proxy:
        body = chat("moa-sim", stream=True)
        yield _left("stream", [_leave(proxy, upstream, body, _spoken, s) for s in lingers])


def _leave(
    proxy: Proxy,
    upstream: Upstream,
    body: dict[str, Any],
    busy: Callable[[socket.socket, Upstream], bool],
    linger: float,
) -> float:
    """Ask, wait until the upstream is ``busy`` and ``linger`` longer, hang up, wait until idle."""
    address = urlsplit(proxy.url)
    with socket.create_connection((address.hostname, address.port), timeout=_PATIENCE) as client:
        client.sendall(request_bytes(Load(f"{proxy.url}/v1", 1, bodies=[body]))[0])
        _until(lambda: busy(client, upstream))
        time.sleep(linger)
    began = time.perf_counter()
    _until(lambda: not upstream.calls()["inflight"])
    return time.perf_counter() - began


def _called(client: socket.socket, upstream: Upstream) -> bool:
    return bool(upstream.calls()["inflight"])


def _spoken(client: socket.socket, upstream: Upstream) -> bool:
    return bool(CONTENT.search(client.recv(65536)))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {_PATIENCE:g} s")
        time.sleep(_POLL)


def _left(kind: str, times: list[float]) -> Figure:
    return Figure(
        f"upstream idle after the client of a {kind} leaves",
        f"{ms(median(times))} median, {ms(max(times))} at most",
        "≤ 300 ms",
        {"median_ms": 1000 * median(times), "most_ms": 1000 * max(times)},
    )
