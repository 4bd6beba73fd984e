"""By weight, without runs of the heaviest: nginx's smooth weighted round robin.

Each candidate gains its weight; the richest is chosen and pays what all have gained. Over any
stretch each gets its share to within one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.upstream.config import ProviderConfig


class Weighted:
    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def pick(self, candidates: Sequence[ProviderConfig]) -> ProviderConfig:
        credit = self._credit
        for provider in candidates:
            credit[provider.name] = credit.get(provider.name, 0.0) + provider.weight
        chosen = max(candidates, key=lambda provider: credit[provider.name])
        credit[chosen.name] -= sum(provider.weight for provider in candidates)
        return chosen


def make(counter: Callable[[], int]) -> Weighted:
    return Weighted()
