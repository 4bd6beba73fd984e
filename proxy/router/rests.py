"""How a load leaves the CPU to requests: after every few milliseconds of work it rests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.abc import MetaPathFinder
from typing import TypeVar

T = TypeVar("T")

#: Seconds of CPU time between two rests.
_SPELL = 0.002
#: Whether the running code is what rests: a thread begins without.
_resting: ContextVar[bool] = ContextVar("resting", default=False)


class Rests(MetaPathFinder):
    """Rests of one thread, each ``ratio`` times as long as the work in front of it.

    On `sys.meta_path` it finds no module, but is asked between any two of an import.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        #: The thread's CPU time at the end of its last rest.
        self._since = 0.0

    def during(self, work: Callable[[], T]) -> T:
        """Do ``work``, and rest between the modules that it imports."""
        self._since = time.thread_time()
        with self._between_modules():
            return work()

    def rest(self) -> None:
        """Rest, if it is time for it: called where ``work`` can be interrupted."""
        worked = time.thread_time() - self._since
        if worked >= _SPELL:
            time.sleep(worked * self._ratio)
            self._since = time.thread_time()

    def find_spec(self, *_: object) -> None:
        if _resting.get():
            self.rest()

    @contextmanager
    def _between_modules(self) -> Iterator[None]:
        token = _resting.set(True)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            _resting.reset(token)


def ratio_for(cores: int) -> float:
    """A load takes a third of one core of two; of many, nearly all of one."""
    return 2 / max(1, cores - 1)
