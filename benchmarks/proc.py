"""What the kernel says about processes: proc(5). Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes hold together: bytes, descriptors, threads."""

    rss: int
    pss: int
    descriptors: int
    threads: int


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all of them since they began; its grain is a clock tick (10 ms)."""
    return sum(int(fields[11]) + int(fields[12]) for fields in map(_stat, pids)) / _TICKS


def rss(pids: Iterable[int]) -> int:
    """Resident bytes, shared pages counted once for each process."""
    return sum(int(_stat(pid)[21]) for pid in pids) * _PAGE


def usage(pids: Iterable[int]) -> Usage:
    """``rss`` counts shared pages once for each process, ``pss`` once altogether."""
    held = [_held(pid) for pid in pids]
    return Usage(
        rss=sum(h.rss for h in held),
        pss=sum(h.pss for h in held),
        descriptors=sum(h.descriptors for h in held),
        threads=sum(h.threads for h in held),
    )


def _held(pid: int) -> Usage:
    folder = Path(f"/proc/{pid}")
    fields = _stat(pid)
    rollup = (folder / "smaps_rollup").read_text().splitlines()
    return Usage(
        rss=rss([pid]),
        pss=next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:")),
        descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        threads=int(fields[17]),
    )


def _stat(pid: int) -> list[str]:
    """The fields of stat(5) behind the command, which may itself hold blanks and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
