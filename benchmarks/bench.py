"""`make bench`: the figures that are promised, as they are on this machine. It asserts nothing."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from benchmarks.commands import commands
from benchmarks.critical_path import rounds
from benchmarks.figures import Figure, table
from benchmarks.footprint import soak, start
from benchmarks.pool import pool
from benchmarks.proc import Meanwhile
from benchmarks.telemetry import telemetry
from benchmarks.throughput import first_token, passthrough
from benchmarks.waiting import hang_up, in_flight

#: Each takes the seconds of one run of the load generator and yields its figures.
GROUPS: Mapping[str, Callable[[float], Iterator[Figure]]] = {
    "start": start,
    "commands": commands,
    "passthrough": passthrough,
    "first-token": first_token,
    "rounds": rounds,
    "in-flight": in_flight,
    "hang-up": hang_up,
    "pool": pool,
    "telemetry": telemetry,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    asked = _parser().parse_args(arguments)
    machine = _machine()
    meanwhile = Meanwhile()
    figures: list[Figure] = []
    for name in asked.only or GROUPS:
        _tell(f"measuring {name} …")
        figures += GROUPS[name](asked.seconds)
    if asked.soak:
        _tell(f"measuring {asked.soak:g} s of steady load …")
        figures += soak(asked.soak)
    machine["others"] = round(meanwhile.share(), 3)
    if asked.json:
        found = {"machine": machine, "figures": [figure.as_json() for figure in figures]}
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(table(figures)))
        print(
            f"\n{machine['cores']} cores, Python {machine['python']}, Linux {machine['kernel']}; "
            f"other work took {machine['others']:.0%} of the cores meanwhile"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=list(GROUPS), help="measure this alone; may be repeated"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of one run of the load generator (2)"
    )
    parser.add_argument("--soak", type=float, default=0.0, help="seconds of steady load at the end")
    parser.add_argument("--json", action="store_true", help="all numbers, as JSON")
    return parser


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
