"""Each in its turn; the workers of a service take turns together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.upstream.config import ProviderConfig


class RoundRobin:
    def __init__(self, counter: Callable[[], int]) -> None:
        self._turn = counter

    def pick(self, candidates: Sequence[ProviderConfig]) -> ProviderConfig:
        if len(candidates) == 1:
            return candidates[0]
        return candidates[self._turn() % len(candidates)]


def make(counter: Callable[[], int]) -> RoundRobin:
    return RoundRobin(counter)
