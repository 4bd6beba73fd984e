"""The last records of the whole service, in memory that its workers share.

A file without a name (memfd), made before the fork: whoever writes, everybody reads, and what a
worker wrote is still there when it has died. Room is taken before it is written to and a record is
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

#: Records counted, and bytes given out, since the start.
_HEAD = struct.Struct("<QQ")
#: Where a record begins (in bytes given out), its length, and a digest of its name.
_ENTRY = struct.Struct("<QII")


class Ring:
    """Records with names; the oldest make room. For one process, and those that it forks."""

    def __init__(self, records: int = RECORDS, size: int = SIZE) -> None:
        self._records = records
        self._size = size
        # One entry more than is kept: that of the next record, which may be half written.
        self._begin = _HEAD.size + _ENTRY.size * (records + 1)
        self._file = os.memfd_create("optillm-traces")
        os.pwrite(self._file, _HEAD.pack(0, 0), 0)
        weakref.finalize(self, os.close, self._file)
        # The lock on the file keeps processes apart, and this one threads.
        self._lock = threading.Lock()

    def add(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Names with what is to be kept under them; one that is larger than the ring is left out.

        Waits for other processes, never for long.
        """
        fitting = [(name, content) for name, content in records if len(content) <= self._size]
        with self._lock, record_lock(self._file):
            count, start = self._head()
            taken = start + sum(len(content) for _, content in fitting)
            os.pwrite(self._file, _HEAD.pack(count, taken), 0)
            for number, (name, content) in enumerate(fitting, start=count):
                self._write(start, content)
                entry = _ENTRY.pack(start, len(content), _digest(name))
                os.pwrite(self._file, entry, self._place(number))
                os.pwrite(self._file, _HEAD.pack(number + 1, taken), 0)
                start += len(content)

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
        return _HEAD.size + _ENTRY.size * (number % (self._records + 1))

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
