"""Files that several processes append lines to, and that hold whole lines only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK = 64 * 1024


def append(file: Path, lines: bytes) -> None:
    """Append ``lines``, each with its newline: all of them, or nothing of what does not fit.

    A line that a killed writer has left half is cut off first. Raises `OSError`; what of ``lines``
    was written by then is taken back.
    """
    with locked(file) as opened:
        end = os.lseek(opened, 0, os.SEEK_END)
        whole = _whole(opened, end)
        if whole < end:
            os.ftruncate(opened, whole)
        try:
            written = 0
            while written < len(lines):
                written += os.pwrite(opened, lines[written:], whole + written)
        except OSError:
            os.ftruncate(opened, whole)
            raise


@contextmanager
def locked(file: Path) -> Iterator[int]:
    """``file``, made where it is missing, open for this process alone. Raises `OSError`."""
    while True:
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            # Whoever held the lock before may have put another file in its place.
            if file.exists() and os.path.samestat(os.fstat(opened), file.stat()):
                yield opened
                return
        finally:
            os.close(opened)


def _whole(opened: int, end: int) -> int:
    """Up to where the file holds whole lines."""
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(opened, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
