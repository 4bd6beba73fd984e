"""How fast /health is without a classifier, and with one: while it loads, and when it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from statistics import median

import httpx

from benchmarks.figures import ms, percentile
from benchmarks.processes import Proxy, Upstream

_PAUSE = 0.005
#: Seconds of a phase that does not end by itself.
_PHASE = 3.0
#: Questions to each service between two looks at how far the classifier is.
_BATCH = 20

Row = tuple[str, str, str]

#: Seconds of each /health of a service.
_Times = list[float]


def rows(folder: Path, turns: int) -> Iterator[Row]:
    """Each figure without a router and with the one of ``folder``, of ``turns`` services each.

    A load slows down all that run beside it, so the one is asked before the other loads; after
    that they are asked in turns, so that both see the same machine.
    """
    turned = [_turn(folder) for _ in range(turns)]
    starts, loading, ready = zip(*turned, strict=True)
    yield "start to /health", *(ms(median(each)) for each in zip(*starts, strict=True))
    for name, phase in (("while it loads", loading), ("once it is ready", ready)):
        sides = [list(chain(*side)) for side in zip(*phase, strict=True)]
        for share, told in ((0.5, "p50"), (0.95, "p95")):
            yield f"/health {name}, {told}", *(ms(percentile(side, share)) for side in sides)


def _turn(folder: Path) -> tuple[tuple[float, float], list[_Times], list[_Times]]:
    """How long the two took to start, and each /health before and after the classifier is ready."""
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        without = running.enter_context(Proxy(upstream.url, "--no-router"))
        first = running.enter_context(httpx.Client(base_url=without.url))
        before = _asked([first], _for_a_while())
        with_one = running.enter_context(Proxy(upstream.url, "--router-model", str(folder)))
        second = running.enter_context(httpx.Client(base_url=with_one.url))

        def loading() -> bool:
            phase: str = second.get("/health/ready").json()["router"]
            return phase == "loading"

        starts = without.started_in, with_one.started_in
        during = _asked([second], loading)
        return starts, [*before, *during], _asked([first, second], _for_a_while())


def _for_a_while() -> Callable[[], bool]:
    end = time.monotonic() + _PHASE
    return lambda: time.monotonic() < end


def _asked(clients: list[httpx.Client], more: Callable[[], bool]) -> list[_Times]:
    """Ask all of them in turns, as long as there is to be ``more``."""
    asked: list[_Times] = [[] for _ in clients]
    while more():
        for _ in range(_BATCH):
            for client, times in zip(clients, asked, strict=True):
                began = time.perf_counter()
                client.get("/health").raise_for_status()
                times.append(time.perf_counter() - began)
                time.sleep(_PAUSE)
    return asked
