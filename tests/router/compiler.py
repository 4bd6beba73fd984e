"""The steps as this machine's compiler makes them, for tests to be run with where it has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from shutil import which
from typing import Any

from proxy.router.steps import Compiled, Steps


@cache
def compiled(dtype: Any = None) -> Steps:
    """Once for all tests; of fp32 unless it is told otherwise."""
    return Compiled(dtype)


#: Nothing to run a test with where there is no compiler.
COMPILED: Sequence[Callable[..., Steps]] = [compiled] if which("cc") else []
