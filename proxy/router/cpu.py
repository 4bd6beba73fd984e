"""What this machine's CPU can do, as Linux tells it; nothing where it does not."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def has_bf16() -> bool:
    """Whether it multiplies bf16 itself; elsewhere that is slower than fp32.

    The last of the names is Arm's.
    """
    return bool(_flags() & {"amx_bf16", "avx512_bf16", "bf16"})


def has_tiles() -> bool:
    """Whether it multiplies small matrices of bf16 as a whole (AMX)."""
    return "amx_bf16" in _flags()


@cache
def _flags() -> frozenset[str]:
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()
