"""Numbers of the whole service, by name: memory that is mapped before the fork.

Each worker adds to a row of its own, and a total is the sum over all rows. The row of a worker that
has died is continued by whoever gets it next: what was counted stays counted, and there is nothing
to fold or to clean up. (prometheus-client's own way for several processes leaves a file behind for
every worker that ever was.) Every number is written in one store, as on the `proxy.board`.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import add

import orjson

from proxy.board import ROWS
from proxy.record_lock import record_lock

#: A metric and its labels' values.
Key = tuple[str, ...]

_CELL = 8
_COLUMNS = 16 * 1024
#: Room for the names: a few words of the head, then a line of JSON for each column.
_NAMES = 2 * 1024 * 1024
_HEAD = 64
_END, _LAST_ROW = range(2)


class Counters:
    """Used by one thread of a process at a time. Sparse: what is never written takes no memory."""

    def __init__(self) -> None:
        size = _NAMES + _CELL * _COLUMNS * (ROWS + 1)
        self._file = os.memfd_create("optillm-counters")
        os.ftruncate(self._file, size)
        self._page = mmap.mmap(self._file, size)
        self._words = memoryview(self._page)[:_HEAD].cast("q")
        self._cells = memoryview(self._page)[_NAMES:].cast("d")
        self._words[_END] = _HEAD
        self._columns: dict[Key, int] = {}
        #: How many values of each kind there are.
        self._admitted: Counter[str] = Counter()
        self._read = _HEAD

    def __del__(self) -> None:
        os.close(self._file)

    def row(self, number: int) -> memoryview[float]:
        """The cells of the worker that has this row of the board; no. 0 is counted nowhere."""
        if number == 0:
            return memoryview(bytearray(_CELL * _COLUMNS)).cast("d")
        with record_lock(self._file):
            self._words[_LAST_ROW] = max(self._words[_LAST_ROW], number)
        return self._row(number)

    def column(self, key: Key) -> int | None:
        """Where ``key`` is counted, from now on and for good; None where there is no room left."""
        if key not in self._columns:
            with record_lock(self._file):
                self._catch_up()
                if key not in self._columns:
                    self._append(key)
        return self._columns.get(key)

    def admits(self, kind: str, value: str, most: int) -> bool:
        """Whether ``value`` is one of the first ``most`` values of a kind, of all workers ever."""
        key = ("", kind, value)
        if key not in self._columns and self._admitted[kind] < most:
            with record_lock(self._file):
                self._catch_up()
                if key not in self._columns and self._admitted[kind] < most:
                    self._append(key)
        return key in self._columns

    def columns(self) -> Mapping[Key, int]:
        """Every number that there is, and where it stands."""
        if self._words[_END] != self._read:
            with record_lock(self._file):
                self._catch_up()
        return {key: column for key, column in self._columns.items() if key[0]}

    def totals(self, columns: Mapping[Key, int]) -> Mapping[Key, float]:
        """These numbers, added up over all workers, those that have died included.

        For any thread, like `values`.
        """
        width = max(columns.values(), default=-1) + 1
        sums = [0.0] * width
        for number in range(1, self._words[_LAST_ROW] + 1):
            sums = list(map(add, sums, self._row(number)[:width].tolist()))
        return {key: sums[column] for key, column in columns.items()}

    def values(self, column: int, rows: Iterable[int]) -> list[float]:
        """One number as it stands in each of these rows."""
        return [self._row(number)[column] for number in rows if number]

    def _row(self, number: int) -> memoryview[float]:
        return self._cells[_COLUMNS * number : _COLUMNS * (number + 1)]

    def _append(self, key: Key) -> None:
        line = orjson.dumps(key) + b"\n"
        end = self._words[_END]
        if len(self._columns) == _COLUMNS or end + len(line) > _NAMES:
            return
        self._page[end : end + len(line)] = line
        # Last: of a process that is killed before, nothing is left.
        self._words[_END] = end + len(line)
        self._catch_up()

    def _catch_up(self) -> None:
        """Take in what other processes have appended."""
        end = self._words[_END]
        for line in self._page[self._read : end].splitlines():
            key: Key = tuple(orjson.loads(line))
            self._columns[key] = len(self._columns)
            if not key[0]:
                self._admitted[key[1]] += 1
        self._read = end
