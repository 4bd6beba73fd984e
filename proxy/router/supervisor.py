"""Keeps the classifier's process: started by the master, watched, started again when it ends."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from proxy.router.calibration import Calibration, remembered
from proxy.router.checkpoint import Checkpoint, find
from proxy.router.config import RouterSettings, Unusable

_log = logging.getLogger("optillm.router")

#: Seconds without a dot, after which the process hangs: importing torch alone may take ten.
_SILENCE = 60.0
#: Seconds between its end and the next start: doubled each time, from one to the other.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0
#: In the folder that systemd makes for the service's run, where an operator finds it.
SOCKET = "router/socket"
_SIDECAR = (sys.executable, "-m", "proxy.router.sidecar")
#: What it is told of the environment, which holds the service's keys.
_KEPT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")

Find = Callable[[RouterSettings], Checkpoint]


class Supervisor:
    """The sidecar of a service. Nothing here waits; `tick`, called every second or so, does all."""

    def __init__(
        self,
        *,
        command: Sequence[str] = _SIDECAR,
        find: Find = find,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._find = find
        self._clock = clock
        self._folder: str | None = None
        #: Why there is no sidecar; empty where there is one, or will be again.
        self.absent = "no classifier is set up"
        self._wanted: tuple[RouterSettings, Checkpoint, Calibration | None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._heard = 0.0
        self._pause = _FIRST_PAUSE
        self._next = 0.0

    @property
    def address(self) -> str:
        """Where workers ask: the same for every sidecar of this service; empty before the first."""
        return f"{self._folder}/socket" if self._folder else ""

    @property
    def pid(self) -> int | None:
        """The sidecar's, while one runs."""
        return None if self._process is None else self._process.pid

    def renew(self, settings: RouterSettings | None) -> None:
        """Want a sidecar for ``settings``; one that would be the same as before stays."""
        wanted = None
        self.absent = "" if settings else "no classifier is set up"
        if settings is not None:
            try:
                checkpoint = self._find(settings)
                self._folder = self._folder or _folder()
                wanted = (settings, checkpoint, remembered(checkpoint))
            except Unusable as error:
                self.absent = str(error)
            except OSError as error:
                self.absent = f"there is no folder for its socket: {error}"
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._end()
        self._pause, self._next = _FIRST_PAUSE, 0.0

    def reap(self) -> None:
        """See how it has ended, before somebody who reaps all children takes that for nothing."""
        if self._process is not None:
            self._process.poll()

    def tick(self) -> None:
        """See after the process: reap it, end it where it hangs, start another."""
        now = self._clock()
        if self._process is not None:
            status = self._process.poll()
            if status is not None:
                how = f"status {status}" if status >= 0 else f"signal {-status}"
                self._lost(f"ended ({how})", now)
            elif self._beats():
                self._heard = now
            elif now - self._heard > _SILENCE:
                self._lost(f"has been silent for {_SILENCE:.0f} s", now)
        if self._process is None and self._wanted is not None and now >= self._next:
            settings, checkpoint, _ = self._wanted
            self._start(settings, checkpoint, now)

    def stop(self) -> None:
        """End it for good; for the master alone."""
        self._wanted = None
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, settings: RouterSettings, checkpoint: Checkpoint, now: float) -> None:
        said = orjson.dumps(asdict(replace(settings, model=str(checkpoint.folder)))).decode()
        self._started = self._heard = now
        try:
            self._process = subprocess.Popen(
                [*self._command, self.address, said, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
            )
        except OSError as error:
            self._lost(f"could not be started: {error}", now)
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def _lost(self, how: str, now: float) -> None:
        if now - self._started > _LAST_PAUSE:
            self._pause = _FIRST_PAUSE
        _log.error("the classifier's process %s; started again in %.0f s", how, self._pause)
        self._end()
        self._next = now + self._pause
        self._pause = min(2 * self._pause, _LAST_PAUSE)

    def _beats(self) -> bool:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            return bool(os.read(self._process.stdout.fileno(), 4096))
        except BlockingIOError:
            return False

    def _end(self) -> None:
        """It holds nothing that it would have to put in order."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _folder() -> str:
    """One for the socket, which nobody else may enter."""
    runtime = os.environ.get("RUNTIME_DIRECTORY")
    if not runtime:
        return tempfile.mkdtemp(prefix="optillm-router-")
    folder = Path(runtime, SOCKET).parent
    # It is there where the service before was killed.
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder)
