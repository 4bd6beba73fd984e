"""Numbers that several processes add to, and what a process that is killed leaves of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from proxy.telemetry import counters as module
from proxy.telemetry.counters import Counters

_KILLED = """
import os, signal
from proxy.telemetry.counters import Counters

counters = Counters()
def serve(row, *names):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        cells = counters.row(row)
        for name in names:
            cells[counters.column((name, "a"))] += 1.5
        os.write(write, b"!")
        signal.pause()
    os.read(read, 1)
    return child

first, second = serve(1, "x", "y"), serve(2, "z", "x")
print(sorted(counters.totals(counters.columns()).items()))
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
print(sorted(counters.totals(counters.columns()).items()))
third = serve(1, "x")
print(sorted(counters.totals(counters.columns()).items()))
for child in (second, third):
    os.kill(child, signal.SIGKILL)
"""
_ADMITTED = """
import os
from proxy.telemetry.counters import Counters

counters = Counters()
children = []
for worker in range(4):
    child = os.fork()
    if child == 0:
        admitted = sum(counters.admits("model", f"{worker}-{n}", 50) for n in range(1000))
        os._exit(admitted)
    children.append(child)
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
_RISING = """
import os
from itertools import pairwise
from proxy.telemetry.counters import Counters

counters = Counters()
column = counters.column(("x",))
child = os.fork()
if child == 0:
    row = counters.row(1)
    for _ in range(20_000):
        row[column] += 1.0
    os._exit(0)
seen = []
while os.waitpid(child, os.WNOHANG) == (0, 0):
    seen.append(counters.totals(counters.columns())[("x",)])
seen.append(counters.totals(counters.columns())[("x",)])
print(all(before <= after for before, after in pairwise(seen)), seen[-1])
"""


def said(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_counts_of_a_killed_worker_stay_and_its_successor_goes_on_from_there() -> None:
    both, still, after = said(_KILLED)
    assert both == "[(('x', 'a'), 3.0), (('y', 'a'), 1.5), (('z', 'a'), 1.5)]"
    assert still == both
    assert after == "[(('x', 'a'), 4.5), (('y', 'a'), 1.5), (('z', 'a'), 1.5)]"


def test_all_workers_together_admit_so_many_values() -> None:
    assert said(_ADMITTED) == ["50"]


def test_a_value_that_was_admitted_stays_so() -> None:
    counters = Counters()
    assert [counters.admits("model", name, 2) for name in "abcab"] == [
        *(True, True, False),
        *(True, True),
    ]
    assert counters.admits("approach", "c", 2)
    assert counters.totals(counters.columns()) == {}


def test_names_may_hold_anything() -> None:
    counters = Counters()
    names = [("x", 'a"b\n\\'), ("x", "ü\u2028"), ("x", "")]
    row = counters.row(1)
    for name in names:
        column = counters.column(name)
        assert column is not None
        row[column] += 1.0
    assert counters.totals(counters.columns()) == dict.fromkeys(names, 1.0)


def test_where_there_is_no_room_left_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLUMNS", 2)
    counters = Counters()
    assert [counters.column((name,)) for name in "abca"] == [0, 1, None, 0]
    assert not counters.admits("model", "a", 9)


def test_a_worker_without_a_place_on_the_board_counts_nowhere() -> None:
    counters = Counters()
    column = counters.column(("x",))
    assert column is not None
    counters.row(0)[column] += 1.0
    assert counters.totals(counters.columns()) == {("x",): 0.0}


def test_what_stands_in_some_rows() -> None:
    counters = Counters()
    column = counters.column(("up", "p"))
    assert column is not None
    for number in (1, 2, 3):
        counters.row(number)[column] = float(number)
    assert counters.values(column, [3, 0, 1]) == [3.0, 1.0]


def test_nothing_of_it_stays_behind() -> None:
    opened = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    counters = Counters()
    more = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    del counters
    left = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert len(left) == len(opened) < len(more)


def test_a_total_never_falls_while_it_is_added_to() -> None:
    assert said(_RISING) == ["True 20000.0"]
