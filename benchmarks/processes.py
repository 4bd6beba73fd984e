"""The service and a simulated model as processes, as an operator runs them."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
import orjson

_OPTICTL = (sys.executable, "-c", "from optictl.cli import main; main()")
_POLL = 0.005

#: The sockets of the ports that were given out.
_held = ExitStack()
atexit.register(_held.close)


class NotStartedError(Exception):
    """A process that ended, or did not answer, instead of serving; holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and that nobody else gets while this one lives.

    Its socket stays bound and never listens: the kernel lets a server, which sets SO_REUSEADDR,
    bind the same port, and gives it to nobody who asks for any.
    """
    held = _held.enter_context(socket.socket())
    held.bind(("127.0.0.1", 0))
    # Set before bind, the kernel would give one port to two who reserve.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port: int = held.getsockname()[1]
    return port


class Proxy:
    """``optictl serve`` on a free loopback port, while the block lasts.

    It stands in front of ``base_url``; '' leaves that to the flags. ``flags`` are its own, ``env``
    is added to the environment. Entering the block waits until /health answers; it raises
    `NotStartedError` after ``within`` seconds.
    """

    def __init__(
        self,
        base_url: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
        within: float = 20.0,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        #: Seconds from exec to the first 200 of /health.
        self.started_in = 0.0
        self._command = [
            *_OPTICTL, "serve", "--port", str(self.port), *flags,
        ]  # fmt: skip
        if base_url:
            self._command += ["--base-url", base_url]
        foreign = ("OPTILLM", "OPENAI")
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        self._env.update(env or {})
        self._within = within
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        began = time.monotonic()
        self._process = subprocess.Popen(
            self._command, env=self._env, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            while not self._healthy():
                late = time.monotonic() - began > self._within
                if late or self._process.poll() is not None:
                    raise NotStartedError(f"the proxy does not serve:\n{self.log()}")
                time.sleep(_POLL)
        except BaseException:
            self.stop()
            raise
        self.started_in = time.monotonic() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The master and its workers."""
        assert self._process is not None
        master = self._process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]

    def log(self, lines: int = 20) -> str:
        """The end of what it has logged."""
        assert self._log is not None
        # Its offset is the process's too, so it is not moved.
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        return "\n".join(text.decode(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        assert self._process is not None
        assert self._log is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _healthy(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(_HEALTH)
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


class Upstream:
    """`benchmarks.upstream` while the block lasts: a simulated model that keeps no bodies.

    ``behaviour`` are fields of `optictl.simulator.Behaviour`.
    """

    def __init__(self, **behaviour: Any) -> None:
        self._behaviour = behaviour
        self._process: subprocess.Popen[bytes] | None = None
        self._control: httpx.Client | None = None
        #: Base URL of its API.
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.upstream", orjson.dumps(self._behaviour)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url:
            self._process.communicate()
            raise NotStartedError("the simulated model does not serve")
        self._control = httpx.Client(base_url=self.url.removesuffix("/v1"), trust_env=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._control is not None
        self._control.close()
        # The end of its stdin is the end of it.
        self._process.communicate()

    def behave(self, **behaviour: Any) -> None:
        """Change how it behaves from now on."""
        assert self._control is not None
        self._control.put("/sim/behaviour", json=behaviour).raise_for_status()

    def calls(self) -> dict[str, Any]:
        """Its log: ``calls``, ``inflight``, ``dropped``, ``peak`` and the latest records."""
        assert self._control is not None
        log: dict[str, Any] = self._control.get("/sim/calls").raise_for_status().json()
        return log


#: A raw request: the first answer is timed, and an HTTP client would have to be loaded first.
_HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
