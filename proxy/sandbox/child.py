"""The other end of `proxy.sandbox.process`: limits itself, then runs the program on stdin.

Imported by a process that does nothing else; it imports no more than it needs.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

# As `typing` has it, which takes longer to import than all of the above.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

_MEMORY = 2 << 30
_FILE = 16 << 20
_FILES = 64
#: Of `unshare`: a network of its own, and a user namespace in which that is permitted.
_NEWNET = 0x40000000
_NEWUSER = 0x10000000
#: Of `prctl`: the signal for a process whose parent has ended. That one without `signal`, which
#: takes longer to import than the rest.
_PDEATHSIG, _SIGKILL = 1, 9
_PROGRAM = "<program>"

#: What a solver has no business with, by the beginning of Python's audit events.
_REFUSED = (
    *("ctypes.dlsym", "ctypes.dlopen", "fcntl.", "ftplib.", "http.", "mmap.", "os.", "pty."),
    *("shutil.", "signal.", "smtplib.", "socket.", "sqlite3.", "subprocess.", "urllib."),
)
_PERMITTED = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")


def main() -> None:
    """Run the program on stdin. The arguments: where this package is, seconds of processor time."""
    seconds = int(sys.argv[2])
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds + 1),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    _leave_the_network()
    # A program that sleeps uses up no processor time. Not earlier: new credentials undo it.
    ctypes.CDLL(None).prctl(_PDEATHSIG, _SIGKILL)
    program = sys.stdin.read()
    # Nothing more of this package is needed, and the program is not to read it.
    sys.path.pop()
    sys.argv[1:] = []
    sys.excepthook = _told
    sys.addaudithook(_guard())
    # Not under this module's own "from __future__".
    exec(compile(program, _PROGRAM, "exec", dont_inherit=True), {"__name__": "__main__"})


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback from the program on: its author knows nothing of what is around it."""
    import traceback

    while trace is not None and trace.tb_frame.f_code.co_filename != _PROGRAM:
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


def _leave_the_network() -> None:
    """Into an empty network namespace, where the kernel permits that; else the guard is left."""
    libc = ctypes.CDLL(None)
    if libc.unshare(_NEWUSER | _NEWNET) != 0:
        libc.unshare(_NEWNET)


def _guard() -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook; it holds on to what it calls, which the program may replace."""
    real, own = os.path.realpath, os.path.realpath(os.curdir)
    roots = tuple({real(path) for path in (*sys.path, sys.prefix, sys.base_prefix) if path})
    separator = os.sep

    def inside(path: Any, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):
            return True
        found = real(os.fsdecode(path))
        return any(found == f or found.startswith(f + separator) for f in folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            reads = not (flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            if inside(path, (own, *roots) if reads else (own,)):
                return
            raise PermissionError(f"programs may not open {path}")
        if event == "ctypes.dlopen" and arguments[0] is not None and inside(arguments[0], roots):
            return
        if event == "ctypes.dlsym" and getattr(arguments[0], "_name", None) is not None:
            return
        if event.startswith(_REFUSED) and event not in _PERMITTED:
            raise PermissionError(f"programs may not do this: {event}")

    return hook
