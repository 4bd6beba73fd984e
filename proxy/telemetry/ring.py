"""The last records of the whole service, in memory that its workers share.

A file without a name (memfd), made before the fork: whoever writes, everybody reads, and what a
worker wrote is still there when it has died. Room is taken before it is written to and records are
counted after, so that a writer that is killed in between leaves no half of one behind.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence

from proxy.record_lock import record_lock

#: How many records are kept, and of how many bytes together.
RECORDS = 1_000
SIZE = 32 * 2**20

#: Records that are written together, at most.
_TOGETHER = 64
#: Records counted, and bytes given out, since the start.
_HEAD = struct.Struct("<QQ")
#: Where a record begins (in bytes given out), its length, and a digest of its name.
_ENTRY = struct.Struct("<QII")


class Ring:
    """Records with names; the oldest make room. For one process, and those that it forks."""

    def __init__(self, records: int = RECORDS, size: int = SIZE) -> None:
        self._records = records
        self._size = size
        # More entries than are kept: those of the next records, which may be half written.
        self._places = records + _TOGETHER
        self._begin = _HEAD.size + _ENTRY.size * self._places
        self._file = os.memfd_create("optillm-traces")
        os.pwrite(self._file, _HEAD.pack(0, 0), 0)
        weakref.finalize(self, os.close, self._file)
        # The lock on the file keeps processes apart, and this one threads.
        self._lock = threading.Lock()

    def add(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Names with what is to be kept under them; one that is larger than the ring is left out.

        Waits for other processes, never for long.
        """
        together: list[tuple[str, bytes]] = []
        length = 0
        for name, content in records:
            if len(content) > self._size:
                continue
            if len(together) == _TOGETHER or length + len(content) > self._size:
                self._add(together)
                together, length = [], 0
            together.append((name, content))
            length += len(content)
        self._add(together)

    def _add(self, together: Sequence[tuple[str, bytes]]) -> None:
        contents = b"".join(content for _, content in together)
        with self._lock, record_lock(self._file):
            count, start = self._head()
            taken = start + len(contents)
            os.pwrite(self._file, _HEAD.pack(count, taken), 0)
            self._write(start, contents)
            entries = []
            for name, content in together:
                entries.append(_ENTRY.pack(start, len(content), _digest(name)))
                start += len(content)
            behind = self._places - count % self._places
            os.pwrite(self._file, b"".join(entries[:behind]), self._place(count))
            if entries[behind:]:
                os.pwrite(self._file, b"".join(entries[behind:]), self._place(count + behind))
            os.pwrite(self._file, _HEAD.pack(count + len(together), taken), 0)

    def newest(self, name: str | None = None) -> Iterator[tuple[int, bytes]]:
        """Records and their numbers, the newest first; with ``name`` those that may have it.

        What is overwritten while it is read is left out.
        """
        with self._lock, record_lock(self._file):
            count, _ = self._head()
            oldest = max(0, count - self._records)
            entries = [
                (number, *_ENTRY.unpack(os.pread(self._file, _ENTRY.size, self._place(number))))
                for number in range(count - 1, oldest - 1, -1)
            ]
        wanted = None if name is None else _digest(name)
        for number, start, length, digest in entries:
            if wanted is not None and digest != wanted:
                continue
            content = self._read(start, length)
            with self._lock, record_lock(self._file):
                _, given = self._head()
            if start >= given - self._size:
                yield number, content

    def _head(self) -> tuple[int, int]:
        count, given = _HEAD.unpack(os.pread(self._file, _HEAD.size, 0))
        return count, given

    def _place(self, number: int) -> int:
        return _HEAD.size + _ENTRY.size * (number % self._places)

    def _write(self, start: int, content: bytes) -> None:
        at = start % self._size
        os.pwrite(self._file, content[: self._size - at], self._begin + at)
        if at + len(content) > self._size:
            os.pwrite(self._file, content[self._size - at :], self._begin)

    def _read(self, start: int, length: int) -> bytes:
        at = start % self._size
        behind = os.pread(self._file, min(length, self._size - at), self._begin + at)
        return behind + os.pread(self._file, length - len(behind), self._begin)


def _digest(name: str) -> int:
    return zlib.crc32(name.encode())
