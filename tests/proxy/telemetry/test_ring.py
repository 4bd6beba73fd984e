"""The ring: the last records of all processes, whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from proxy.telemetry.ring import Ring


def contents(ring: Ring, name: str | None = None) -> list[bytes]:
    return [content for _, content in ring.newest(name)]


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; how that ended."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_the_newest_come_first_and_the_oldest_make_room() -> None:
    ring = Ring(records=3, size=1_000)
    ring.add([(f"r{number}", b"record %d" % number) for number in range(5)])
    assert list(ring.newest()) == [(4, b"record 4"), (3, b"record 3"), (2, b"record 2")]


def test_bytes_are_bounded_too() -> None:
    ring = Ring(records=100, size=1_000)
    for number in range(50):
        ring.add([(str(number), b"%d" % (number % 10) * 300)])
    assert contents(ring) == [b"9" * 300, b"8" * 300, b"7" * 300]


def test_what_is_larger_than_the_ring_is_left_out_and_costs_no_other() -> None:
    ring = Ring(records=10, size=1_000)
    ring.add([("a", b"small"), ("b", b"x" * 1_001), ("c", b"y" * 1_000)])
    assert contents(ring) == [b"y" * 1_000]
    ring.add([("d", b"after")])
    assert contents(ring) == [b"after"]


def test_many_at_once_are_as_many_one_by_one() -> None:
    """Also where the table's end and the end of the room lie in between."""
    together, apart = Ring(records=50, size=700), Ring(records=50, size=700)
    for start in range(0, 1_000, 100):
        records = [(str(n), b"%d;" % n * (1 + n % 7)) for n in range(start, start + 100)]
        together.add(records)
        for record in records:
            apart.add([record])
        assert list(together.newest()) == list(apart.newest())
        assert len(contents(together)) > 10
    small = Ring(records=50, size=10_000)
    small.add([(str(n), b"%d" % n) for n in range(500)])
    assert contents(small) == [b"%d" % n for n in range(499, 449, -1)]


def test_one_that_is_killed_before_it_counts_its_records_harms_no_other() -> None:
    ring = Ring(records=50, size=10_000)
    ring.add([(str(n), b"%d" % n) for n in range(200)])
    before = list(ring.newest())

    def work() -> None:
        heads, real = 0, os.pwrite

        def dying(file: int, data: bytes, at: int) -> int:
            nonlocal heads
            heads += at == 0
            # The second head is the one that counts them.
            if heads == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(file, data, at)

        os.pwrite = dying
        ring.add([("new", b"n" * 10)] * 64)

    assert in_child(work) == -signal.SIGKILL
    assert list(ring.newest()) == before


def test_a_name_finds_its_records() -> None:
    ring = Ring()
    ring.add([("a", b"1"), ("b", b"2"), ("a", b"3")])
    assert contents(ring, "a") == [b"3", b"1"]
    assert contents(ring, "nobody") == []


def test_what_forked_processes_write_is_there_when_they_were_killed() -> None:
    ring = Ring()
    ring.add([("parent", b"parent")])

    def work() -> None:
        ring.add([("child", b"child")])
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert contents(ring) == [b"child", b"parent"]


def test_one_that_is_killed_while_it_writes_leaves_whole_records_and_no_lock() -> None:
    ring = Ring(records=10, size=1_000)
    ring.add([("old", b"o" * 600), ("kept", b"k" * 300)])

    def work() -> None:
        real, written = os.pwrite, 0

        def dying(file: int, data: bytes, at: int) -> int:
            nonlocal written
            written += 1
            # The first says that room is taken; the second is the record.
            if written == 2:
                real(file, data[: len(data) // 2], at)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(file, data, at)

        os.pwrite = dying
        ring.add([("half", b"h" * 400)])

    assert in_child(work) == -signal.SIGKILL
    # The oldest had to make room for what then never came.
    assert contents(ring) == [b"k" * 300]
    ring.add([("next", b"n" * 200)])
    assert contents(ring) == [b"n" * 200, b"k" * 300]


def test_several_processes_and_threads_lose_nothing() -> None:
    ring = Ring()

    def work() -> None:
        for number in range(50):
            ring.add([("many", b"%d:%d" % (os.getpid(), number))])

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        children.append(child)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        os.waitpid(child, 0)
    found = contents(ring)
    assert len(found) == 250
    assert sorted(found) == sorted(
        b"%d:%d" % (pid, number)
        for pid in [os.getpid(), os.getpid(), *children]
        for number in range(50)
    )


def test_a_reader_beside_a_writer_sees_whole_records_only() -> None:
    ring = Ring(records=1_000, size=20_000)
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            ring.add([("r", b"%d" % (number % 10) * (1_000 + number % 500))])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            for content in contents(ring):
                assert len(set(content)) == 1
    finally:
        over.set()
        writer.join()
