"""OptiLLM 0.3.12 and we, under the same loads, before the same simulated model.

``make bench-peer``: both as their operators run them, with default settings, measured in turns so
that both see the same machine. It asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

from benchmarks.figures import aligned, counted, ms
from benchmarks.load import Load, Measured, measure
from benchmarks.peer_approaches import accuracy, walls
from benchmarks.proc import Meanwhile, cpu_seconds, rss
from benchmarks.processes import NotStartedError, Proxy, Upstream
from benchmarks.sides import PEER, Effort, Make, Optillm, Row, optictl
from optictl.errors import OptictlError

_HEADING = ("figure", "optictl", PEER, "better")
_CONNECTIONS = (1, 16, 64)
#: On how many each answers before it is measured.
_ASKERS = 8
_NOBODY = "http://127.0.0.1:9/v1"
_MB = 1_000_000
_SETTLE = 1.0
_PATIENCE = 30.0
_REST = 0.3

FULL = Effort(seconds=4.0, rounds=3, starts=3, repeats=3, questions=100)
QUICK = Effort(seconds=1.0, rounds=1, starts=1, repeats=1, questions=20)


def start(theirs: Make, effort: Effort) -> Iterator[Row]:
    """From exec to the first answer of /health, and what is held then."""
    (ours_in, ours_held), (theirs_in, theirs_held) = (
        _started(make, effort.starts) for make in (optictl, theirs)
    )
    yield Row("start to /health", f"{ours_in:.2f} s", f"{theirs_in:.2f} s", theirs_in / ours_in)
    yield _memory("resident memory, idle", ours_held, theirs_held)


def passthrough(theirs: Make, effort: Effort) -> Iterator[Row]:
    """``none`` before a model that answers at once; ours with one worker and with two."""
    with (
        Upstream() as upstream,
        optictl(upstream.url) as one,
        optictl(upstream.url, "--workers", "2") as two,
        theirs(upstream.url) as peer,
    ):
        for service in (one, two, peer):
            measure(Load(f"{service.url}/v1", _ASKERS))
        for connections in _CONNECTIONS:
            runs: dict[Proxy, list[tuple[Measured, float]]] = {one: [], two: [], peer: []}
            for _ in range(effort.rounds):
                for service, found in runs.items():
                    found.append(_loaded(service, upstream, connections, effort.seconds))
            (rate, first), (faster, second), (slow, last) = map(_told, runs.values())
            name = f"passthrough, {counted(connections, 'connection')}"
            yield Row(name, first, last, rate / slow)
            yield Row(f"{name}, 2 workers", second, last, faster / slow)
        yield _memory("resident memory after that", rss(one.pids), rss(peer.pids))


def _started(make: Make, starts: int) -> tuple[float, float]:
    """Median seconds, and bytes."""
    times: list[float] = []
    held: list[float] = []
    for number in range(starts + 1):
        with make(_NOBODY) as service:
            if number:
                times.append(service.started_in)
                time.sleep(_SETTLE)
                held.append(rss(service.pids))
    return median(times), median(held)


def _memory(name: str, ours: float, theirs: float) -> Row:
    return Row(name, f"{ours / _MB:.0f} MB", f"{theirs / _MB:.0f} MB", theirs / ours)


def _loaded(
    service: Proxy, upstream: Upstream, connections: int, seconds: float
) -> tuple[Measured, float]:
    """What the load generator saw, and CPU seconds a request."""
    called, spent = upstream.calls()["calls"], cpu_seconds(service.pids)
    load = Load(f"{service.url}/v1", connections, seconds, warm_up=seconds / 2)
    measured = measure(load)
    spent = _rested(service) - spent
    return measured, spent / max(1, upstream.calls()["calls"] - called)


def _rested(service: Proxy) -> float:
    """Wait until what its clients have left behind is worked off; the CPU seconds it has taken."""
    end = time.monotonic() + _PATIENCE
    before, now = -1.0, cpu_seconds(service.pids)
    while before != now and time.monotonic() < end:
        time.sleep(_REST)
        before, now = now, cpu_seconds(service.pids)
    return now


def _told(runs: Sequence[tuple[Measured, float]]) -> tuple[float, str]:
    rate = median(measured.rate for measured, _ in runs)
    p50 = median(measured.p50 for measured, _ in runs)
    cost = median(cost for _, cost in runs)
    failed = sum(sum(measured.errors.values()) for measured, _ in runs)
    errors = f", {failed} errors" if failed else ""
    return rate, f"{rate:,.0f}/s, p50 {ms(p50)}, CPU {ms(cost)}{errors}"


GROUPS: Mapping[str, Callable[[Make, Effort], Iterator[Row]]] = {
    "start": start,
    "passthrough": passthrough,
    "walls": walls,
    "accuracy": accuracy,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    asked = _parser().parse_args(arguments)
    program = shutil.which(asked.optillm)
    if program is None:
        print(f"There is no {asked.optillm}: make bench-peer installs it.", file=sys.stderr)
        return 2
    effort = QUICK if asked.quick else FULL
    theirs = partial(Optillm, program)
    meanwhile = Meanwhile()
    rows: list[Row] = []
    try:
        for name in asked.only or GROUPS:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            for row in GROUPS[name](theirs, effort):
                print(" | ".join(row.cells), file=sys.stderr, flush=True)
                rows.append(row)
    except (NotStartedError, OptictlError) as error:
        print(f"The comparison failed: {error}", file=sys.stderr)
        return 1
    print("\n".join(aligned([_HEADING, *(row.cells for row in rows)])))
    print(
        f"\n{counted(len(os.sched_getaffinity(0)), 'core')}, Python {platform.python_version()}, "
        f"Linux {platform.release()}; other work took {meanwhile.share():.0%} of the cores "
        f"meanwhile. {effort.questions} questions, ± is one standard error."
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description=__doc__)
    parser.add_argument("--optillm", required=True, help="the program to compare with")
    parser.add_argument(
        "--only", action="append", choices=list(GROUPS), help="compare this alone; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="a short run, for a first look")
    return parser


if __name__ == "__main__":
    sys.exit(main())
