"""Wall time of the approaches against their critical path, at an upstream of a known latency."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, counted, ms
from benchmarks.load import chat
from benchmarks.processes import Proxy, Upstream
from optictl.client import ProxyClient
from proxy.registry import discover

LATENCY = 0.2
_REPEATS = 5
#: Often wrong, so that samples differ and no stage is left out for their agreement.
_MODEL: Mapping[str, Any] = {
    "probability": 0.4, "distractors": [1.0] * 8, "judge_separation": 1.0,
}  # fmt: skip
#: What is measured besides every approach by itself.
_COMBINED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bon&moa", {}),
    ("bon|moa", {}),
    ("moa", {"n": 3}),
)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One request: seconds, and what the proxy says it took."""

    wall: float
    rounds: int
    calls: int

    @property
    def ratio(self) -> float:
        return self.wall / (self.rounds * LATENCY)


def rounds(seconds: float) -> Iterator[Figure]:
    """wall / (rounds · L); rounds are those that the proxy counted. ``seconds`` is not used."""
    cases = [*((entry.slug, dict[str, Any]()) for entry in discover()), *_COMBINED]
    with (
        Upstream(latency=LATENCY, **_MODEL) as upstream,
        Proxy(upstream.url) as proxy,
        ProxyClient(proxy.url) as client,
    ):
        client.chat(chat("moa-sim"))
        for slug, members in cases:
            walks = [_walk(client, slug, members) for _ in range(_REPEATS)]
            walks.sort(key=lambda walk: walk.ratio)
            yield _figure(slug, members, walks[_REPEATS // 2])


def _walk(client: ProxyClient, slug: str, members: Mapping[str, Any]) -> _Walk:
    began = time.perf_counter()
    answer = client.chat(chat(f"{slug}-sim", **members))
    wall = time.perf_counter() - began
    return _Walk(wall, answer["optillm"]["rounds"], answer["optillm"]["calls"])


def _figure(slug: str, members: Mapping[str, Any], walk: _Walk) -> Figure:
    name = ", ".join([slug, *(f"{key}={value}" for key, value in members.items())])
    cost = f"{counted(walk.rounds, 'round')}, {counted(walk.calls, 'call')}"
    return Figure(
        f"wall of {name} ({cost})",
        f"{ms(walk.wall)}, {walk.ratio:.3f} · rounds · L",
        f"≤ {ms(1.05 * walk.rounds * LATENCY + 0.02)}",
        {
            "wall_ms": 1000 * walk.wall,
            "ratio": walk.ratio,
            "rounds": walk.rounds,
            "calls": walk.calls,
        },
    )
