"""Strategies: who is asked first. One file each; the name of the file is the name in the config."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proxy.upstream.config import ProviderConfig


class Strategy(Protocol):
    """Chooses among providers; used on one event loop."""

    def pick(self, candidates: Sequence[ProviderConfig]) -> ProviderConfig:
        """The one of ``candidates`` (at least one, in the order of the file) to ask next."""
        ...


#: Makes a strategy. It is given a counter that all workers share: 0, 1, 2, …
MakeStrategy = Callable[[Callable[[], int]], Strategy]


def strategies() -> Mapping[str, MakeStrategy]:
    """The strategies by name: what the function ``make`` of each module here returns."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        make: MakeStrategy = module.make
        found[info.name] = make
    return found
