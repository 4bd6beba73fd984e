"""A process of its own for each program: what holds, and what does not.

Holds: limits on memory, processor time, open files and the size of what is written; an empty
environment; a temporary folder that is removed afterwards; the end of all its processes once the
time is over, and with the worker. Without network: a network namespace of its own where the kernel
lets an ordinary user have one; everywhere the child itself refuses sockets, other processes, files
outside its folder and libraries to be loaded (`proxy.sandbox.child`).

Does not hold against a program that sets out to break the interpreter: the child's refusals are an
audit hook in the same process, and it runs as the service's own user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from proxy.sandbox.port import Ran

#: Bytes of output that are read; a program that prints more is ended.
MAX_OUTPUT = 64 * 1024
#: Of what it complains about, the end: that is where Python says what went wrong.
_MAX_ERROR = 2000
_LIBRARIES = ("z3", "sympy")
# Isolated mode leaves out the working directory, so the child is told where this package is.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from proxy.sandbox.child import main; main()"
_COMMAND = (sys.executable, "-I", "-c", _BOOT, str(Path(__file__).parents[2]))


class Subprocess:
    """Implements `proxy.sandbox.port.Sandbox`."""

    runs = True

    @property
    def libraries(self) -> Sequence[str]:
        return [name for name in _LIBRARIES if find_spec(name) is not None]

    async def run(self, program: str, seconds: float) -> Ran:
        async with self.ready(seconds) as run:
            return await run(program)

    @contextlib.asynccontextmanager
    async def ready(self, seconds: float) -> AsyncIterator[Callable[[str], Awaitable[Ran]]]:
        with tempfile.TemporaryDirectory(prefix="optillm-", ignore_cleanup_errors=True) as folder:
            starting = asyncio.create_task(_start(folder, seconds))

            async def run(program: str) -> Ran:
                try:
                    async with asyncio.timeout(seconds):
                        return await _finished(await asyncio.shield(starting), program)
                except TimeoutError:
                    return Ran("", f"It was not done after {seconds:g} seconds.")
                except OSError as error:
                    return Ran("", f"It could not be started: {error.strerror}.")

            try:
                yield run
            finally:
                # uvloop would lose a process whose start is cancelled.
                await asyncio.shield(_end(starting))


async def _start(folder: str, seconds: float) -> Process:
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        str(max(1, round(seconds))),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=folder,
        env={},
        start_new_session=True,
    )


async def _finished(child: Process, program: str) -> Ran:
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with contextlib.suppress(ConnectionError):
        child.stdin.write(program.encode())
        child.stdin.close()
    output, complaints = await asyncio.gather(
        _read(child.stdout, child), _read(child.stderr, child)
    )
    status = await child.wait()
    said = output[:MAX_OUTPUT].decode(errors="replace").strip()
    if len(output) > MAX_OUTPUT:
        return Ran(said, f"It printed more than {MAX_OUTPUT} bytes.")
    if status == 0:
        return Ran(said)
    reason = complaints.decode(errors="replace").strip()[-_MAX_ERROR:]
    return Ran(said, reason or f"It was ended by signal {-status}: too much memory or time.")


async def _read(stream: asyncio.StreamReader, child: Process) -> bytes:
    """All of it, or a little more than is wanted: then the child is ended."""
    read = bytearray()
    while piece := await stream.read(8192):
        if len(read) <= MAX_OUTPUT:
            read += piece
        if len(read) > MAX_OUTPUT:
            # To the end even so: a process is only seen to end once its pipes are empty.
            _kill(child)
    return bytes(read)


def _kill(child: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


async def _end(starting: asyncio.Task[Process]) -> None:
    """End the child and all that it has started; reads its pipes to their end."""
    with contextlib.suppress(OSError):
        child = await starting
        _kill(child)
        try:
            await child.communicate()
        except asyncio.CancelledError:
            # By a loop that ends, which waits until the child has done so.
            await child.communicate()
            raise
