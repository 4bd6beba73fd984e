"""What master and workers tell each other: exact whoever dies, and never half of something."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from proxy.board import Board, Row

_KILLED = """
import os, signal
from proxy.board import Board

board = Board()
row = board.row([])
read, write = os.pipe()
child = os.fork()
if child == 0:
    row.stamp(12.5, waiting=3, under_way=4, lag=0.0, tasks=0, ready=True)
    row.open(os.getpid())
    for requests in range(1, 8):
        row.hold(requests)
    os.write(write, b"!")
    signal.pause()
os.read(read, 1)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(row.pid == child, row.beat, row.requests, row.waiting, row.under_way)
"""
_TORN = """
import os, signal
from proxy.board import Board

board = Board()
texts = ["", "a" * 2000, "ä" * 700]
child = os.fork()
if child == 0:
    while True:
        for text in texts:
            board.refuse(text)
seen = [board.refusal for _ in range(20_000)]
while len(set(seen)) < 3:
    seen.append(board.refusal)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(sorted(map(len, set(seen))), set(seen) <= set(texts), board.refusal in texts)
"""


def printed(script: str) -> str:
    """What ``script`` prints; a process of its own, for one with threads should not fork."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_a_killed_worker_leaves_its_last_numbers() -> None:
    assert printed(_KILLED) == "True 12.5 7 3 4"


def test_a_text_is_read_whole_while_another_is_written() -> None:
    assert printed(_TORN) == "[0, 700, 2000] True True"


def test_a_row_is_empty_until_its_worker_opens_it_and_says_nothing_once_it_is_closed() -> None:
    row = Board().row([])
    assert (row.pid, row.beat, row.requests, row.waiting, row.under_way) == (0, 0.0, 0, 0, 0)
    row.stamp(time.monotonic(), waiting=0, under_way=1, lag=0.0, tasks=0, ready=True)
    row.hold(2)
    row.open(77)
    assert (row.pid, row.requests, row.under_way) == (77, 2, 1)
    assert time.monotonic() - row.beat < 60
    row.close()
    # A thread that is still at it does not bring the worker back.
    row.hold(1)
    row.stamp(time.monotonic(), waiting=0, under_way=0, lag=0.0, tasks=0, ready=True)
    assert row.pid == 0


def test_rows_are_told_apart_and_given_out_again() -> None:
    board = Board()
    rows = [board.row([])]
    for _ in range(99):
        rows.append(board.row(rows))
    for number, row in enumerate(rows):
        row.open(1000 + number)
        row.hold(number)
    assert [row.pid for row in rows] == list(range(1000, 1100))
    assert [row.requests for row in rows] == list(range(100))
    board.lose(5)
    board.refuse("no")
    gone = rows.pop(50)
    again = board.row(rows)
    assert again.number == gone.number
    assert (again.pid, again.requests) == (0, 0)
    assert [row.requests for row in rows] == [n for n in range(100) if n != 50]
    assert (board.lost, board.refusal, board.stopping) == (5, "no", False)


def test_more_workers_than_rows_still_get_something_to_write_to() -> None:
    board = Board()
    rows = [board.row([])]
    for _ in range(600):
        rows.append(board.row(rows))
        rows[-1].hold(1)
    assert rows[-1].requests == 1
    assert board.lost == 0
    assert board.refusal == ""


def test_stopping_and_the_lost_are_remembered() -> None:
    board = Board()
    assert not board.stopping
    board.stop()
    assert board.stopping
    board.lose(3)
    board.lose(4)
    assert board.lost == 7


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("--key-file: /etc/schlüssel is empty", "--key-file: /etc/schlüssel is empty"),
        ("a\nb", "a\nb"),
        ("x" * 5000, "x" * 2048),
        # Cut between characters, not in one.
        ("x" + "ä" * 5000, "x" + "ä" * 1023),
        ("\ud800", "?"),
    ],
)
def test_why_a_reload_was_refused_is_kept_until_the_next_one(said: str, kept: str) -> None:
    board = Board()
    board.refuse("something longer that was said before")
    board.refuse(said)
    assert board.refusal == kept
    board.refuse("")
    assert board.refusal == ""


def test_those_that_serve_say_how_their_loops_are() -> None:
    board = Board()
    rows: list[Row] = []
    for _ in range(3):
        rows.append(board.row(rows))
    rows[0].stamp(1.0, waiting=0, under_way=0, lag=0.25, tasks=7, ready=False)
    rows[2].stamp(1.0, waiting=0, under_way=0, lag=0.0, tasks=1, ready=True)
    assert board.serving == []
    rows[0].open(70)
    rows[2].open(72)
    told = [(row.number, row.lag, row.tasks, row.ready) for row in board.serving]
    assert told == [(rows[0].number, 0.25, 7, False), (rows[2].number, 0.0, 1, True)]
    rows[0].close()
    assert [row.pid for row in board.serving] == [72]
