"""gunicorn around the app: workers, reload, drain, and what systemd is told."""

from __future__ import annotations

import logging
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer
from gunicorn.workers.base import Worker

from proxy.errors import ConfigError
from proxy.settings import Settings
from proxy.worker import ProxyLogger, ProxyWorker, worker_ended, worker_started

if TYPE_CHECKING:
    from proxy.registry import Registry

_log = logging.getLogger("optillm.server")

#: Longer than the pools of gateways keep a connection: the reverse loses requests to a race.
_KEEPALIVE = 75
_SPARE_CONNECTIONS = 1024
_TICK = 1.0
#: The exit status of a service whose settings cannot be used.
_UNUSABLE = 2


def serve(
    settings: Settings,
    *,
    reload: Callable[[], Settings] | None = None,
    registry: Registry | None = None,
) -> int:
    """Serve until told to stop; the exit status.

    Raises `ConfigError` for a port that is taken.

    ``reload`` makes a new snapshot on SIGHUP; if it raises `ConfigError`, the present one serves
    on. ``registry`` replaces the discovered one in tests.
    """
    _raise_descriptor_limit()
    _check_port(settings)
    master = os.getpid()
    try:
        Application(settings, reload or (lambda: settings), registry).run()
    except SystemExit as exit_:
        if os.getpid() != master:
            raise  # a worker's, on its way out through the frames it was forked in
        if exit_.code == Arbiter.APP_LOAD_ERROR:
            return _UNUSABLE
        return exit_.code if isinstance(exit_.code, int) else 1
    return 0


class Board:
    """What master and workers tell each other: one anonymous page, mapped before the fork.

    Slot 0 is the master's "stopping"; behind it one row a worker: its pid and its loop's last
    heartbeat (monotonic seconds, comparable between processes of one machine).
    """

    _ROW = struct.Struct("qd")
    _ROWS = 255

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, self._ROW.size * (self._ROWS + 1))

    @property
    def stopping(self) -> bool:
        stopping: int = self._ROW.unpack_from(self._page, 0)[0]
        return stopping != 0

    def stop(self) -> None:
        self._ROW.pack_into(self._page, 0, 1, 0.0)

    def beat(self, pid: int, at: float) -> None:
        """Stamp ``pid``'s row, claimed by the first beat."""
        free = None
        for row in range(1, self._ROWS + 1):
            owner, _ = self._ROW.unpack_from(self._page, row * self._ROW.size)
            if owner == pid:
                free = row
                break
            if owner == 0 and free is None:
                free = row
        if free is not None:
            self._ROW.pack_into(self._page, free * self._ROW.size, pid, at)

    def clear(self, pid: int) -> None:
        for row in range(1, self._ROWS + 1):
            if self._ROW.unpack_from(self._page, row * self._ROW.size)[0] == pid:
                self._ROW.pack_into(self._page, row * self._ROW.size, 0, 0.0)

    def beats(self) -> dict[int, float]:
        """Each worker's last heartbeat."""
        rows = (
            self._ROW.unpack_from(self._page, row * self._ROW.size)
            for row in range(1, self._ROWS + 1)
        )
        return {pid: at for pid, at in rows if pid}


class Application(BaseApplication):
    """The embedded gunicorn application; holds the snapshot that workers inherit."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings], registry: Registry | None
    ) -> None:
        self.settings = settings
        self.board = Board()
        self.socket_activated = False
        self._reload = reload
        self._registry = registry
        super().__init__()

    def load_config(self) -> None:
        settings = self.settings
        for name, value in {
            "bind": f"{_bracketed(settings.host)}:{settings.port}",
            "workers": settings.workers,
            "threads": settings.threads,
            "worker_class": ProxyWorker,
            "worker_connections": settings.threads + _SPARE_CONNECTIONS,
            "keepalive": _KEEPALIVE,
            "graceful_timeout": max(1, round(settings.drain)),
            "logger_class": ProxyLogger,
            "loglevel": "warning" if settings.log_level == "info" else settings.log_level,
            "control_socket_disable": True,
            "proc_name": "optillm-proxy",
            "post_worker_init": worker_started,
            "worker_exit": worker_ended,
            "child_exit": self._child_ended,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        # Imported by the worker: a master without the app is 40 MB smaller, and a reload takes in
        # code that has changed.
        from proxy.app import create_app

        try:
            return create_app(self.settings, self._registry)
        except ConfigError as error:
            # The one exception that gunicorn prints without a traceback.
            raise AppImportError(f"optictl serve: {error}") from None

    def renew(self) -> bool:
        """Take a new snapshot; False, and the old one stays, where it cannot be loaded."""
        try:
            self.settings = self._reload()
        except ConfigError as error:
            _log.error("reload refused, the previous configuration serves on: %s", error)
            return False
        return True

    def run(self) -> None:
        _Arbiter(self).run()

    def _child_ended(self, server: Arbiter, worker: Worker) -> None:
        self.board.clear(int(worker.pid))


class _Arbiter(Arbiter):
    """gunicorn's master, which tells systemd the truth and survives a bad reload."""

    app: Application

    def __init__(self, app: Application) -> None:
        # gunicorn would say READY before any worker exists, so it does not see the socket.
        self._notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
        self._ready = False
        #: Workers that were told to end: they finish what they have, and others take their place.
        self._leaving: set[int] = set()
        _log_to_stderr(app.settings.log_level)
        super().__init__(app)

    def start(self) -> None:
        super().start()
        self.app.socket_activated = self.systemd

    def handle_hup(self) -> None:
        """New workers for the old ones.

        gunicorn's own would wait here for the old ones' last stream, deaf to SIGTERM meanwhile.
        """
        if not self.app.renew():
            return
        self._notify("RELOADING=1")
        self._leaving.update(self.WORKERS)
        self.manage_workers()
        self._notify("READY=1")

    def manage_workers(self) -> None:
        """Keep the number of workers that serve; those that are leaving do not count."""
        self._leaving &= self.WORKERS.keys()
        serving = sorted(self.WORKERS.keys() - self._leaving, key=lambda p: self.WORKERS[p].age)
        for _ in range(self.num_workers - len(serving)):
            self.spawn_worker()
        self._leaving.update(serving[: max(0, len(serving) - self.num_workers)])
        # Said with every tick: one that was only just forked does not hear it the first time.
        for pid in self._leaving:
            self.kill_worker(pid, signal.SIGTERM)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        self.app.board.stop()
        self._notify("STOPPING=1")
        super().halt(reason, exit_status)

    def murder_workers(self) -> None:
        super().murder_workers()
        self._tick()

    def reap_workers(self) -> None:
        try:
            super().reap_workers()
        except HaltServer as failure:
            if self.app.board.stopping:
                return
            if not self._ready:
                if failure.exit_status == self.WORKER_BOOT_ERROR:
                    _complain("a worker could not start; its traceback is above")
                raise
            # The service answers already: try again rather than end it.
            _log.error("%s Trying again.", failure.reason)
            time.sleep(_TICK)
        self._tick()

    def wait_for_signals(self, timeout: float | None = _TICK) -> list[int]:
        # Until the first worker is up, READY must not wait for a whole tick.
        return super().wait_for_signals(timeout if self._ready else 0.05)

    def _tick(self) -> None:
        beats = self.app.board.beats()
        if not self._ready and beats:
            self._ready = True
            settings = self.app.settings
            self._notify(f"READY=1\nSTATUS=serving on {settings.host}:{settings.port}")
        limit = self.app.settings.loop_stuck_after
        if beats and all(time.monotonic() - at < limit for at in beats.values()):
            self._notify("WATCHDOG=1")

    def _notify(self, state: str) -> None:
        """sd_notify(3): one datagram, nothing where systemd is not there."""
        if not self._notify_socket:
            return
        address = self._notify_socket
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.sendto(state.encode(), address)
            except OSError as error:
                _log.warning("cannot notify systemd: %s", error)


def _raise_descriptor_limit() -> None:
    """Each waiting request holds two descriptors; systemd's default soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_port(settings: Settings) -> None:
    """Raise `ConfigError` for a port that is taken, before gunicorn tries it five times."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        return
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            f"see who does: ss -ltnp 'sport = :{settings.port}'"
        ) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _log_to_stderr(level: str) -> None:
    """The master's own few lines; workers switch to the queue."""
    logging.basicConfig(
        level="WARNING" if level == "info" else level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


def _complain(text: str) -> None:
    sys.stderr.write(f"optictl serve: {text}\n")
    sys.stderr.flush()
