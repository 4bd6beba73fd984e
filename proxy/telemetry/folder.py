"""A folder with a file of lines for each day, which grows neither too large nor too old."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from proxy.telemetry.lines import append

#: A file is this part of the folder at most, a line more or less.
_PARTS = 8
#: Seconds by which the time of day may be adjusted and is still believed.
_ADJUSTED = 60.0


class DailyFiles:
    """``conversations_2026-11-21.jsonl``, and ``conversations_2026-11-21.1.jsonl`` behind it.

    Days are those of UTC. Files older than ``days`` are removed, and the oldest where all of them
    together would hold more than ``size`` bytes. Several processes may write to one folder.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        days: int,
        size: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._name = name
        self._own = re.compile(rf"{re.escape(name)}_(\d{{4}}-\d{{2}}-\d{{2}})(?:\.(\d+))?\.jsonl")
        self._days = days
        self._size = size
        self._clock = clock
        self._shift = self._steady()

    def open(self) -> None:
        """Make the folder; mend what a killed process has left in it. Raises `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._files():
            append(file, b"")
        self._prune()

    def append(self, lines: bytes) -> None:
        """Append to today's file; raises `OSError`, and then nothing of ``lines`` is in it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._current()
        if not file.exists():
            self._prune()
        append(file, lines)

    def _current(self) -> Path:
        today = self._today().isoformat()
        files = [file for file in self._files() if self._place(file)[0] == today]
        if not files:
            return self._folder / f"{self._name}_{today}.jsonl"
        last = files[-1]
        if _size(last) < self._size // _PARTS:
            return last
        return self._folder / f"{self._name}_{today}.{self._place(last)[1] + 1}.jsonl"

    def _prune(self) -> None:
        """Make room for a new file."""
        files = self._files()
        sizes = {file: _size(file) for file in files}
        room = self._size - self._size // _PARTS
        oldest = self._oldest()
        for file in files:
            if self._place(file)[0] < oldest or sum(sizes.values()) > room:
                file.unlink(missing_ok=True)
                del sizes[file]

    def _oldest(self) -> str:
        """The first day to keep; '' for any, where the clock was set since this was last asked.

        A wrong time that is put right again must not cost what is there.
        """
        shift, self._shift = self._shift, self._steady()
        if abs(self._shift - shift) > _ADJUSTED:
            return ""
        return (self._today() - timedelta(self._days)).isoformat()

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock(), UTC).date()

    def _steady(self) -> float:
        """What changes only where the time of day is set."""
        return self._clock() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def _files(self) -> list[Path]:
        """Ours, the oldest first."""
        ours = [each for each in self._folder.iterdir() if self._own.fullmatch(each.name)]
        return sorted(ours, key=self._place)

    def _place(self, file: Path) -> tuple[str, int]:
        found = self._own.fullmatch(file.name)
        assert found is not None
        return found[1], int(found[2] or 0)


def _size(file: Path) -> int:
    """In bytes; 0 where another process has just removed it."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
