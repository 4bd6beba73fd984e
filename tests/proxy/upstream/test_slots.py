"""The table of what is taken, shared by real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import ConfigError
from proxy.record_lock import record_lock
from proxy.upstream.slots import Slots

#: The runner of the tests has a thread of its own; the children do without.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def forked(work: Callable[[], None]) -> int:
    """A child that runs ``work`` and ends with status 0 unless it raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    # Not what another test in this process may have set.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def table(*names: str) -> Slots:
    slots = Slots()
    slots.register(names)
    return slots


class Pipe:
    """One byte from a process to another."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def say(self) -> None:
        os.write(self._write, b"x")

    def hear(self) -> None:
        assert os.read(self._read, 1) == b"x"

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class TestOneProcess:
    def test_a_limit_is_a_limit(self) -> None:
        slots = table("a")
        slots.claim()
        wanted = [(slots.column("a"), 3)]
        assert [slots.take(wanted) for _ in range(5)] == [True] * 3 + [False] * 2
        slots.give(wanted)
        assert slots.held("a") == 2
        assert slots.take(wanted)

    def test_one_of_each_or_none_of_them(self) -> None:
        slots = table("a", "b")
        slots.claim()
        a, b = (slots.column("a"), 5), (slots.column("b"), 1)
        assert slots.take([a, b])
        assert not slots.take([a, b])
        assert not slots.take([b, a])
        assert (slots.held("a"), slots.held("b")) == (1, 1)

    def test_a_limit_that_was_lowered_counts_from_now_on(self) -> None:
        slots = table("a")
        slots.claim()
        column = slots.column("a")
        for _ in range(5):
            assert slots.take([(column, 5)])
        for _ in range(4):
            assert not slots.take([(column, 2)])
            slots.give([(column, 2)])
        assert slots.take([(column, 2)])

    def test_a_name_keeps_its_column(self) -> None:
        slots = table("a", "b")
        before = slots.column("a")
        slots.register(["c", "a"])
        assert slots.column("a") == before
        assert len({slots.column(name) for name in "abc"}) == 3

    def test_there_is_an_end_to_it(self) -> None:
        slots = Slots()
        slots.register(f"limit {number}" for number in range(1021))
        slots.register(["limit 7"])
        with pytest.raises(ConfigError, match="restart the service"):
            slots.register(["two", "too many"])

    def test_nothing_is_taken_without_a_row(self) -> None:
        slots = table("a")
        with pytest.raises(RuntimeError, match="no row"):
            slots.take([(slots.column("a"), 1)])

    def test_counting(self) -> None:
        slots = table("turns")
        assert [slots.count(slots.column("turns")) for _ in range(3)] == [0, 1, 2]
        assert slots.held("turns") == 0

    def test_who_waits(self) -> None:
        slots = table("a")
        slots.claim()
        slots.wait(1)
        slots.wait(1)
        slots.wait(-1)
        assert slots.waiting == 1

    def test_leaves_no_descriptor_behind(self) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            table("a")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestProcesses:
    def test_hold_a_limit_together(self) -> None:
        """Each counts those that are inside by a lock of its own, and sees no more than three."""
        slots = table("a")
        wanted = [(slots.column("a"), 3)]
        inside = os.memfd_create("inside")
        os.write(inside, b"\0\0")

        def at(position: int, more: int) -> int:
            fcntl.flock(private, fcntl.LOCK_EX)
            value = os.pread(inside, 1, position)[0] + more
            os.pwrite(inside, bytes([value]), position)
            fcntl.flock(private, fcntl.LOCK_UN)
            return value

        def work() -> None:
            nonlocal private
            private = os.open(f"/proc/self/fd/{inside}", os.O_RDWR)
            slots.claim()
            done = 0
            while done < 500:
                if slots.take(wanted):
                    assert 1 <= at(0, 1) <= 3
                    at(0, -1)
                    slots.give(wanted)
                    done += 1

        private = -1
        pids = [forked(work) for _ in range(6)]
        assert [ended(pid) for pid in pids] == [0] * 6
        os.close(inside)
        assert slots.held("a") == 0

    def test_count_together(self) -> None:
        slots = table("turns")
        column = slots.column("turns")

        def work() -> None:
            seen = [slots.count(column) for _ in range(2000)]
            assert seen == sorted(set(seen))

        assert [ended(pid) for pid in [forked(work) for _ in range(4)]] == [0] * 4
        assert slots.count(column) == 8000

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_that_die_give_back_what_they_held(self, number: signal.Signals) -> None:
        slots, there = table("a", "b"), Pipe()
        a, b = (slots.column("a"), 99), (slots.column("b"), 99)

        def work() -> None:
            slots.claim()
            for _ in range(4):
                slots.take([a, b])
            slots.take([b])
            slots.wait(7)
            there.say()
            signal.pause()

        slots.claim()
        assert slots.take([a])
        slots.wait(1)
        pids = [forked(work) for _ in range(2)]
        there.hear()
        there.hear()
        assert (slots.held("a"), slots.held("b"), slots.waiting) == (9, 10, 15)
        for pid, left in zip(pids, [(5, 5, 8), (1, 0, 1)], strict=True):
            os.kill(pid, number)
            assert ended(pid) == -number
            slots.release(pid)
            assert (slots.held("a"), slots.held("b"), slots.waiting) == left
        there.close()

    def test_that_die_leave_their_row_to_another(self) -> None:
        slots = table("a")
        for _ in range(140):
            pid = forked(slots.claim)
            assert ended(pid) == 0
            slots.release(pid)

    def test_that_die_in_the_middle_leave_no_lock(self) -> None:
        slots, there = table("a"), Pipe()
        wanted = [(slots.column("a"), 1)]

        def work() -> None:
            slots.claim()
            with record_lock(slots._file):
                there.say()
                signal.pause()

        pid = forked(work)
        there.hear()
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        slots.claim()
        assert slots.take(wanted)
        there.close()

    def test_a_release_mends_counts_that_were_cut_short(self) -> None:
        """A process may end between its own count and that of all."""
        slots = table("a")
        column = slots.column("a")

        def work() -> None:
            slots.claim()
            assert slots._row is not None
            slots._put(0, column, 3)

        pid = forked(work)
        ended(pid)
        assert slots.held("a") == 3
        slots.release(pid)
        assert slots.held("a") == 0

    def test_a_lock_is_not_inherited(self) -> None:
        slots, tried, go = table("turns"), Pipe(), Pipe()
        column = slots.column("turns")

        def work() -> None:
            go.hear()
            tried.say()
            slots.count(column)

        with record_lock(slots._file):
            pid = forked(work)
            go.say()
            tried.hear()
            # It waits for us, and does not think that the lock is its own.
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        assert ended(pid) == 0
        assert slots.count(column) == 1
        go.close()
        tried.close()

    def test_names_of_a_reload_are_known_to_those_that_are_forked_after_it(self) -> None:
        slots = table("a")
        slots.claim()
        slots.take([(slots.column("a"), 2)])
        slots.register(["b"])

        def work() -> None:
            slots.claim()
            assert slots.take([(slots.column("a"), 2), (slots.column("b"), 1)])
            assert not slots.take([(slots.column("a"), 2)])

        pid = forked(work)
        assert ended(pid) == 0
        assert slots.held("a") == 2
        slots.release(pid)
        assert (slots.held("a"), slots.held("b")) == (1, 0)
