"""Wall time of the approaches against their critical path, at an upstream of a known latency."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.figures import Figure, counted, ms
from benchmarks.load import chat
from benchmarks.processes import Proxy, Upstream
from optictl.client import ProxyClient

LATENCY = 0.2
_REPEATS = 5
_CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", {}),
    ("re2", {}),
    ("cot_reflection", {}),
    ("bon", {}),
    ("moa", {}),
    ("self_consistency", {}),
    ("bon&moa", {}),
    ("bon|moa", {}),
    ("moa", {"n": 3}),
)


def rounds(seconds: float) -> Iterator[Figure]:
    """wall / (rounds · L); rounds are those that the proxy counted. ``seconds`` is not used."""
    with (
        Upstream(latency=LATENCY) as upstream,
        Proxy(upstream.url) as proxy,
        ProxyClient(proxy.url) as client,
    ):
        client.chat(chat("moa-sim"))
        for slug, members in _CASES:
            walls: list[float] = []
            for _ in range(_REPEATS):
                began = time.perf_counter()
                answer = client.chat(chat(f"{slug}-sim", **members))
                walls.append(time.perf_counter() - began)
            yield _figure(slug, members, median(walls), answer["optillm"])


def _figure(slug: str, members: dict[str, Any], wall: float, optillm: dict[str, Any]) -> Figure:
    made, calls = optillm["rounds"], optillm["calls"]
    ideal = made * LATENCY
    name = ", ".join([slug, *(f"{key}={value}" for key, value in members.items())])
    cost = f"{counted(made, 'round')}, {counted(calls, 'call')}"
    return Figure(
        f"wall of {name} ({cost})",
        f"{ms(wall)}, {wall / ideal:.3f} · rounds · L",
        f"≤ {ms(1.05 * ideal + 0.02)}",
        {"wall_ms": 1000 * wall, "ratio": wall / ideal, "rounds": made, "calls": calls},
    )
