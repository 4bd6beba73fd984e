"""What the kernel says about processes: proc(5). Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Of the clocks of a process, the one that counts what the scheduler gave it (CPUCLOCK_SCHED).
_SCHEDULED = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes hold together: bytes, descriptors, threads."""

    rss: int
    pss: int
    descriptors: int
    threads: int


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all of them and their threads since they began."""
    return sum(map(time.clock_gettime, map(_cpu_clock, pids)))


def rss(pids: Iterable[int]) -> int:
    """Resident bytes, shared pages counted once for each process."""
    return sum(int(_stat(pid)[21]) for pid in pids) * _PAGE


class Meanwhile:
    """How busy the machine was with other things since this was made."""

    def __init__(self) -> None:
        self._machine, self._ours = _machine_seconds(), _our_seconds()
        self._began = time.monotonic()

    def share(self) -> float:
        """Of the cores' time, what neither we nor the processes that we have waited for took."""
        taken = _machine_seconds() - self._machine - (_our_seconds() - self._ours)
        cores = len(os.sched_getaffinity(0))
        return max(0.0, taken / (cores * (time.monotonic() - self._began)))


def _cpu_clock(pid: int) -> int:
    """The id of a process's clock, clock_getcpuclockid(3): nanoseconds, where proc(5) has ticks."""
    return (~pid << 3) | _SCHEDULED


def _machine_seconds() -> float:
    """Time in which no core was idle or could have been; a hypervisor's other guests included."""
    words = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words)
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _our_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


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
