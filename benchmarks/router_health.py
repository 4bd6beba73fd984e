"""How fast /health is without a classifier, and with one: while it loads, and when it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from statistics import median

import httpx

from benchmarks.figures import ms, percentile
from benchmarks.processes import Proxy, Upstream

_PAUSE = 0.005
#: Seconds of a phase that does not end by itself.
_PHASE = 3.0
#: Questions between two looks at how far the classifier is.
_BATCH = 20

Row = tuple[str, str, str]

#: Seconds of one service: its start, and each /health before and after the classifier is ready.
_Seen = tuple[float, list[float], list[float]]


def rows(folder: Path, turns: int) -> Iterator[Row]:
    """Each figure without a router and with the one of ``folder``, of ``turns`` services each."""
    without, with_one = [], []
    with Upstream() as upstream:
        for _ in range(turns):
            without.append(_seen(upstream.url, "--no-router"))
            with_one.append(_seen(upstream.url, "--router-model", str(folder)))
    sides = [list(zip(*side, strict=True)) for side in (without, with_one)]
    yield "start to /health", *(ms(median(starts)) for starts, _, _ in sides)
    for phase, name in ((1, "while it loads"), (2, "once it is ready")):
        for share, told in ((0.5, "p50"), (0.95, "p95")):
            taken = (list(chain(*side[phase])) for side in sides)
            yield f"/health {name}, {told}", *(ms(percentile(each, share)) for each in taken)


def _seen(upstream: str, *flags: str) -> _Seen:
    with Proxy(upstream, *flags) as proxy, httpx.Client(base_url=proxy.url) as http:

        def loading() -> bool:
            phase: str = http.get("/health/ready").json()["router"]
            return phase == "loading"

        configured = loading()
        first = _asked(http, loading if configured else _for_a_while())
        return proxy.started_in, first, _asked(http, _for_a_while())


def _for_a_while() -> Callable[[], bool]:
    end = time.monotonic() + _PHASE
    return lambda: time.monotonic() < end


def _asked(http: httpx.Client, more: Callable[[], bool]) -> list[float]:
    """Seconds of each /health, as long as there are to be ``more``."""
    seconds = []
    while more():
        for _ in range(_BATCH):
            began = time.perf_counter()
            http.get("/health").raise_for_status()
            seconds.append(time.perf_counter() - began)
            time.sleep(_PAUSE)
    return seconds
