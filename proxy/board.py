"""What the master and its workers tell each other: memory that is mapped before the fork.

Every number is a word of its own, written in one store: no reader sees half of one, and a process
that is killed leaves its last one behind. (`struct.pack_into` would zero the bytes first.)
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable

_WORD = 8
#: Words to a row: a cache line, so that workers do not slow each other down.
_ROW = 8
#: 64 workers, many times over while reloads wait for streams of old ones.
ROWS = 512
_TEXT = 2048
_STOPPING, _LOST, _REFUSAL = range(3)
_PID, _BEAT, _REQUESTS, _WAITING, _UNDER_WAY, _LAG, _TASKS, _READY = range(8)


class Row:
    """One worker's row. The master gives it out, the worker writes it, the master looks at it."""

    __slots__ = ("_words", "number")

    def __init__(self, words: memoryview[int], number: int) -> None:
        self.number = number
        self._words = words

    @property
    def pid(self) -> int:
        """The worker's, from its loop's first turn to its orderly end; else 0."""
        return self._words[_PID]

    @property
    def beat(self) -> float:
        """When its loop last turned: monotonic seconds, the same clock in all processes."""
        return self._words[_BEAT] / 1e9

    @property
    def requests(self) -> int:
        """Chats that it has taken on and not answered."""
        return self._words[_REQUESTS]

    @property
    def waiting(self) -> int:
        """Upstream calls that wait for a slot, at the last beat."""
        return self._words[_WAITING]

    @property
    def under_way(self) -> int:
        """Upstream calls that are not answered yet, at the last beat."""
        return self._words[_UNDER_WAY]

    @property
    def lag(self) -> float:
        """Seconds by which its loop was late, at the last beat."""
        return self._words[_LAG] / 1e9

    @property
    def tasks(self) -> int:
        """Tasks on its loop, at the last beat."""
        return self._words[_TASKS]

    @property
    def ready(self) -> bool:
        """Whether the upstream was usable, at the last beat."""
        return self._words[_READY] != 0

    def clear(self) -> None:
        """Nothing of whoever had it before."""
        for word in range(_ROW):
            self._words[word] = 0

    def open(self, pid: int) -> None:
        self._words[_PID] = pid

    def close(self) -> None:
        """Nothing is lost with this worker any more, whatever its threads still write."""
        self._words[_PID] = 0

    def stamp(
        self, at: float, *, waiting: int, under_way: int, lag: float, tasks: int, ready: bool
    ) -> None:
        """A heartbeat, with how things are at that time."""
        self._words[_WAITING] = waiting
        self._words[_UNDER_WAY] = under_way
        self._words[_LAG] = int(lag * 1e9)
        self._words[_TASKS] = tasks
        self._words[_READY] = ready
        self._words[_BEAT] = int(at * 1e9)

    def hold(self, requests: int) -> None:
        self._words[_REQUESTS] = requests


class Board:
    """The master's own words, a text, and a row for each worker. Anonymous: gone with the last."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _WORD * _ROW * (ROWS + 1) + _TEXT)
        self._words = memoryview(self._page).cast("q")
        self._text = _WORD * _ROW * (ROWS + 1)

    @property
    def stopping(self) -> bool:
        return self._words[_STOPPING] != 0

    def stop(self) -> None:
        self._words[_STOPPING] = 1

    @property
    def lost(self) -> int:
        """Requests that were lost with workers that died, since the start."""
        return self._words[_LOST]

    def lose(self, requests: int) -> None:
        """For the master alone: it adds up."""
        self._words[_LOST] += requests

    @property
    def refusal(self) -> str:
        """Why the last reload was refused; empty where it was not."""
        while True:
            word = self._words[_REFUSAL]
            text = self._page[self._text : self._text + (word & 0xFFFF)]
            # Read while it is written: then the checksum is that of another text.
            if zlib.crc32(text) == word >> 16:
                return text.decode()

    def refuse(self, reason: str) -> None:
        """For the master alone; at most 2 kB are kept. An empty ``reason``: it was accepted."""
        text = reason.encode("utf-8", "replace")[:_TEXT].decode("utf-8", "ignore").encode()
        # Readers meanwhile find it empty, also where this process ends before the last line.
        self._words[_REFUSAL] = 0
        self._page[self._text : self._text + len(text)] = text
        self._words[_REFUSAL] = zlib.crc32(text) << 16 | len(text)

    @property
    def serving(self) -> list[Row]:
        """The rows of all workers whose loops turn, those that finish what they have included."""
        rows = (self._row(number) for number in range(1, ROWS + 1))
        return [row for row in rows if row.pid]

    def row(self, taken: Iterable[Row]) -> Row:
        """An empty row that is none of ``taken``; for the master alone, before it forks."""
        free = set(range(1, ROWS + 1)) - {row.number for row in taken}
        # A worker too many serves all the same; it is only not counted.
        number = min(free, default=0)
        row = self._row(number) if number else Row(_private(), 0)
        row.clear()
        return row

    def _row(self, number: int) -> Row:
        return Row(self._words[_ROW * number : _ROW * (number + 1)], number)


def _private() -> memoryview[int]:
    return memoryview(bytearray(_WORD * _ROW)).cast("q")
