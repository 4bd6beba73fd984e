"""A lock on an open file, between processes: what a process holds goes when it dies.

It is fcntl(2)'s record lock and not flock(2)'s, which processes would share after a fork.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def record_lock(file: int) -> Iterator[None]:
    """Hold ``file`` for this process. Threads of it are not kept apart.

    Who holds one of these locks may not take another. Raises `OSError`.
    """
    _lock(file)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


def _lock(file: int) -> None:
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            # The kernel sees processes, not threads: where one thread here holds a file that
            # another process waits for, and that process holds the one asked for here, it says
            # "deadlock". It is none, since nobody holds one file and waits for another.
            if error.errno != errno.EDEADLK:
                raise
        else:
            return
