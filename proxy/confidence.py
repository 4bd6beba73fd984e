"""How sure a model was of what it wrote, from the log-probabilities of its tokens.

Fu, Wang, Tian, Zhao: Deep Think with Confidence, arXiv:2508.15260. Higher is surer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import floor, isfinite
from typing import Any


class GroupConfidence:
    """The mean confidence of the last ``window`` tokens, and the lowest that it has been."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._group: deque[float] = deque()
        self._sum = 0.0
        self._lowest: float | None = None

    def add(self, confidence: float) -> float | None:
        """One more token; the mean of its group, None before the first group is full."""
        self._group.append(confidence)
        self._sum += confidence
        if len(self._group) > self._window:
            self._sum -= self._group.popleft()
        if len(self._group) < self._window:
            return None
        mean = self._sum / self._window
        self._lowest = mean if self._lowest is None else min(self._lowest, mean)
        return mean

    @property
    def lowest(self) -> float | None:
        """Of all groups, or of the only one where it never was full; None without tokens."""
        if self._lowest is None and self._group:
            return self._sum / len(self._group)
        return self._lowest


def token_confidences(logprobs: Any) -> Iterator[float]:
    """Of each token: minus the mean log-probability of the candidates for its place.

    ``logprobs`` is a choice's member of that name, of a JSON answer or of a chunk. A token with
    fewer than two candidates tells nothing and is left out.
    """
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    for entry in content or ():
        said = [candidate.get("logprob") for candidate in entry.get("top_logprobs") or ()]
        values = [value for value in said if isinstance(value, int | float) and isfinite(value)]
        if len(values) > 1:
            yield -sum(values) / len(values)


def lowest_group(confidences: Sequence[float], window: int) -> float | None:
    """The lowest mean of ``window`` tokens in a row; None without tokens."""
    group = GroupConfidence(window)
    for confidence in confidences:
        group.add(confidence)
    return group.lowest


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a ``share`` of ``values`` lies below, interpolated; ``share`` in 0..1."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
