"""gunicorn around the app: workers, reload, drain, and what systemd is told."""

from __future__ import annotations

import errno
import gc
import logging
import mmap
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import TConn, ThreadWorker

from proxy.app import App, create_app
from proxy.errors import ConfigError
from proxy.registry import Registry
from proxy.settings import Settings
from proxy.telemetry.logs import start_logging

_log = logging.getLogger("optillm.server")

#: Longer than the pools of gateways keep a connection: the reverse loses requests to a race.
_KEEPALIVE = 75
_SPARE_CONNECTIONS = 1024
_TICK = 1.0
_GC_THRESHOLD = (10_000, 20, 50)


def serve(
    settings: Settings,
    *,
    reload: Callable[[], Settings] | None = None,
    registry: Registry | None = None,
) -> int:
    """Serve until told to stop; the exit status.

    ``reload`` makes a new snapshot on SIGHUP; if it raises `ConfigError`, the present one serves
    on. ``registry`` replaces the discovered one in tests.
    """
    _raise_descriptor_limit()
    _check_port(settings)
    try:
        _Application(settings, reload or (lambda: settings), registry).run()
    except SystemExit as exit_:
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


class _Application(BaseApplication):
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
            "worker_class": _Worker,
            "worker_connections": settings.threads + _SPARE_CONNECTIONS,
            "keepalive": _KEEPALIVE,
            "graceful_timeout": max(1, round(settings.drain)),
            "logger_class": _Logger,
            "loglevel": "warning" if settings.log_level == "info" else settings.log_level,
            "control_socket_disable": True,
            "proc_name": "optillm-proxy",
            "post_worker_init": _worker_started,
            "worker_exit": _worker_ended,
            "child_exit": self._child_ended,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self.settings, self._registry)

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

    app: _Application

    def __init__(self, app: _Application) -> None:
        # gunicorn would say READY before any worker exists, so it does not see the socket.
        self._notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
        self._ready = False
        _log_to_stderr(app.settings.log_level)
        super().__init__(app)

    def start(self) -> None:
        super().start()
        self.app.socket_activated = self.systemd

    def handle_hup(self) -> None:
        if self.app.renew():
            self._notify("RELOADING=1")
            super().handle_hup()
            self._notify("READY=1")

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
            if not self._ready:
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


class _Worker(ThreadWorker):
    """gthread that gives up on clients that stall and lets go of the port when told to stop."""

    app: _Application

    def enqueue_req(self, conn: TConn) -> None:
        if not conn.initialized:
            # Kernel timeouts hold in blocking mode, where gunicorn has none of its own: a client
            # that stops reading or sending would keep its thread for ever.
            limit = struct.pack("ll", int(self.app.settings.socket_timeout), 0)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        super().enqueue_req(conn)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive and not self.app.socket_activated:
            # Refused at once rather than accepted by the kernel and never served. Where systemd
            # holds the port, what comes meanwhile waits for the successor.
            for listener in self.sockets:
                listener.close()

    def handle_exit(self, sig: int, frame: Any) -> None:
        app = cast(App, self.wsgi)
        app.admission.closed = self.app.board.stopping
        app.engine.drain(self.app.settings.drain)
        super().handle_exit(sig, frame)


class _Logger(Logger):
    """gunicorn's log without tracebacks for clients that stall."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        # Through the root logger: in a worker that is the queue.
        self.error_log.handlers = []
        self.error_log.propagate = True

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        stalled = sys.exc_info()[1]
        if isinstance(stalled, OSError) and stalled.errno in (errno.EAGAIN, errno.ETIMEDOUT):
            self.warning("client stalled: %s", stalled)
        else:
            super().exception(msg, *args, **kwargs)


def _worker_started(worker: _Worker) -> None:
    """gunicorn's post_worker_init: the first moment at which threads may exist."""
    settings = worker.app.settings
    start_logging(settings.log_level)
    app = cast(App, worker.wsgi)
    board, pid = worker.app.board, os.getpid()
    app.engine.on_beat = lambda: board.beat(pid, time.monotonic())
    app.engine.start()
    # What is loaded by now stays: collecting it again and again costs a request a fifth of its CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
    _log.info("worker %d serves on %s:%d", pid, settings.host, settings.port)


def _worker_ended(server: Arbiter, worker: Worker) -> None:
    wsgi = getattr(worker, "wsgi", None)
    if isinstance(wsgi, App) and int(worker.pid) == os.getpid():
        wsgi.engine.stop()


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
