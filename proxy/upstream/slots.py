"""Who holds what of the service's limits: one table for all workers.

The master makes it and gives every limit its column before it forks; workers take and give back
under one file lock (1 µs). A worker that dies leaves its row behind, which the master clears.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence

from proxy.errors import ConfigError
from proxy.record_lock import record_lock

#: How many there are of a kind and may be at most: a column and its limit.
Wanted = tuple[int, int]

_COLUMNS = 1024
#: 64 workers, and those of earlier configurations that finish what they have.
_ROWS = 512
_CELL = 8
#: Rows 0 and 1 belong to all: what is held altogether, and counters that only go up.
_HELD, _COUNTED, _FIRST = 0, 1, 2
#: Columns 0 and 1 of each worker's row.
_PID, _WAITING, _FREE = 0, 1, 2


class Slots:
    """Counts by limit and by worker. Used by one thread of each process."""

    def __init__(self) -> None:
        size = _CELL * _COLUMNS * (_ROWS + _FIRST)
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            self._cells = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
            self._file = os.dup(file.fileno())
        self._columns: dict[str, int] = {}
        self._row: int | None = None

    def __del__(self) -> None:
        os.close(self._file)

    def register(self, names: Iterable[str]) -> None:
        """Give each limit its column, for good; only before the fork of those that use it."""
        for name in names:
            if name not in self._columns:
                if len(self._columns) + _FREE == _COLUMNS:
                    raise ConfigError(
                        f"more than {len(self._columns)} providers and hosts have been configured "
                        "since the start; restart the service"
                    )
                self._columns[name] = len(self._columns) + _FREE

    def column(self, name: str) -> int:
        return self._columns[name]

    def claim(self) -> None:
        """Take a row for this process, once it is forked."""
        with record_lock(self._file):
            free = next(row for row in range(_FIRST, _ROWS + _FIRST) if not self._at(row, _PID))
            self._put(free, _PID, os.getpid())
        self._row = free

    def release(self, pid: int) -> None:
        """Give back all that process ``pid`` held; for the master, once it has ended."""
        with record_lock(self._file):
            for row in range(_FIRST, _ROWS + _FIRST):
                if self._at(row, _PID) == pid:
                    self._cells[row * _COLUMNS : (row + 1) * _COLUMNS] = _EMPTY
            # Added up again: the process may have ended between one count and the next.
            for column in range(_WAITING, _FREE + len(self._columns)):
                held = sum(self._at(row, column) for row in range(_FIRST, _ROWS + _FIRST))
                self._put(_HELD, column, held)

    def take(self, wanted: Sequence[Wanted]) -> bool:
        """One of each or none of them; whether there was room."""
        with record_lock(self._file):
            if any(self._cells[column] >= limit for column, limit in wanted):
                return False
            for column, _ in wanted:
                self._add(column, 1)
        return True

    def give(self, wanted: Sequence[Wanted]) -> None:
        """Give back what `take` took."""
        with record_lock(self._file):
            for column, _ in wanted:
                self._add(column, -1)

    def wait(self, more: int) -> None:
        """So many more (or fewer) calls of this process wait."""
        with record_lock(self._file):
            self._add(_WAITING, more)

    @property
    def waiting(self) -> int:
        """Calls that wait, of all processes."""
        return self._cells[_WAITING]

    def held(self, name: str) -> int:
        """How many are taken of a limit, by all processes."""
        return self._cells[self._columns[name]]

    def count(self, column: int) -> int:
        """How often this was asked before, by all processes."""
        with record_lock(self._file):
            cell = _COUNTED * _COLUMNS + column
            before = self._cells[cell]
            self._cells[cell] = before + 1
        return before

    def _add(self, column: int, more: int) -> None:
        if self._row is None:
            raise RuntimeError("no row was claimed for this process")
        self._cells[self._row * _COLUMNS + column] += more
        self._cells[_HELD * _COLUMNS + column] += more

    def _at(self, row: int, column: int) -> int:
        return self._cells[row * _COLUMNS + column]

    def _put(self, row: int, column: int, value: int) -> None:
        self._cells[row * _COLUMNS + column] = value


_EMPTY = memoryview(bytes(_CELL * _COLUMNS)).cast("q")
