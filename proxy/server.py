"""gunicorn around the app: workers, reload, drain, and what systemd is told."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer

from proxy.board import Board, Row
from proxy.errors import ConfigError
from proxy.notify import Notifier
from proxy.router.config import RouterSettings
from proxy.router.supervisor import Supervisor
from proxy.settings import Settings
from proxy.telemetry.counters import Counters
from proxy.telemetry.logs import log_to_stderr
from proxy.telemetry.ring import Ring
from proxy.upstream.limits import register
from proxy.upstream.slots import Slots
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


class Application(BaseApplication):
    """The embedded gunicorn application; holds the snapshot that workers inherit."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings], registry: Registry | None
    ) -> None:
        self.settings = settings
        self.board = Board()
        self.slots = Slots()
        self.ring = Ring()
        self.counters = Counters()
        register(settings, self.slots)
        self.router = Supervisor()
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
            "pre_fork": self._before_fork,
            "post_worker_init": worker_started,
            "worker_exit": worker_ended,
            "child_exit": self._child_ended,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        # Imported by the worker: a master without the app is 40 MB smaller, and a reload takes in
        # code that has changed.
        from proxy.app import create_app
        from proxy.router.client import Router

        router = self.router
        classifier = Router(self.settings.router or RouterSettings(), router.address, router.absent)
        try:
            return create_app(
                self.settings,
                self._registry,
                self.board,
                self.slots,
                self.ring,
                self.counters,
                classifier,
            )
        except ConfigError as error:
            # The one exception that gunicorn prints without a traceback.
            raise AppImportError(f"optictl serve: {error}") from None

    def renew(self) -> bool:
        """Take a new snapshot; False, and the old one stays, where it cannot be loaded."""
        try:
            settings = self._reload()
            register(settings, self.slots)
        except ConfigError as error:
            _log.error("reload refused, the previous configuration serves on: %s", error)
            self.board.refuse(str(error))
            return False
        self.settings = settings
        self.router.renew(settings.router)
        self.board.refuse("")
        return True

    def run(self) -> None:
        _Arbiter(self).run()

    def _before_fork(self, server: _Arbiter, worker: ProxyWorker) -> None:
        worker.row = self.board.row(server.rows)

    def _child_ended(self, server: _Arbiter, worker: ProxyWorker) -> None:
        row = worker.row
        # A worker that ends in order closes its row, whatever it was told to leave undone.
        if row.pid and row.requests:
            self.board.lose(row.requests)
            end = server.ends.get(row.pid, "unseen")
            _log.error("worker %d died (%s) with %d requests in flight", row.pid, end, row.requests)
        row.close()
        self.slots.release(int(worker.pid))


class _Arbiter(Arbiter):
    """gunicorn's master, which tells systemd the truth and survives a bad reload."""

    app: Application

    def __init__(self, app: Application) -> None:
        # gunicorn would say READY before any worker exists, so it does not see the socket.
        self._systemd = Notifier(os.environ.pop("NOTIFY_SOCKET", None))
        self._ready = False
        #: By pid, how each of the workers that are just being reaped has ended.
        self.ends: dict[int, str] = {}
        #: Workers that were told to end: they finish what they have, and others take their place.
        self._leaving: set[int] = set()
        log_to_stderr(app.settings.log_level, app.settings.log_format)
        super().__init__(app)

    @property
    def rows(self) -> list[Row]:
        """Of all workers there are, also of those that do not serve yet."""
        return [cast(ProxyWorker, worker).row for worker in self.WORKERS.values()]

    def start(self) -> None:
        super().start()
        self.app.socket_activated = self.systemd
        self.app.router.renew(self.app.settings.router)

    def handle_hup(self) -> None:
        """New workers for the old ones.

        gunicorn's own would wait here for the old ones' last stream, deaf to SIGTERM meanwhile.
        """
        self._systemd.reloading()
        if self.app.renew():
            self._leaving.update(self.WORKERS)
            self.manage_workers()
        if self._ready:
            self._systemd.send("READY=1")

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
        self._systemd.send("STOPPING=1")
        super().halt(reason, exit_status)

    def stop(self, graceful: bool = True) -> None:
        super().stop(graceful)
        # Until here the last requests may have asked it.
        self.app.router.stop()

    def murder_workers(self) -> None:
        super().murder_workers()
        self._tick()

    def reap_workers(self) -> None:
        self.ends = dict(_ended(self.WORKERS))
        self.app.router.reap()
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
        rows = [row for row in self.rows if row.pid]
        status = self._status(rows)
        if self._ready:
            self._systemd.status(status)
        elif rows:
            self._ready = True
            self._systemd.ready(status)
        if self._ready:
            # To load the classifier takes a core for seconds: the workers start first.
            self.app.router.tick()
        limit = self.app.settings.loop_stuck_after
        if rows and all(time.monotonic() - row.beat < limit for row in rows):
            self._systemd.send("WATCHDOG=1")

    def _status(self, rows: Sequence[Row]) -> str:
        board, settings = self.app.board, self.app.settings
        where = "stopping" if board.stopping else f"serving on {settings.host}:{settings.port}"
        return f"{where}: {status_of(rows, board.lost, board.refusal)}"


def status_of(rows: Sequence[Row], lost: int, refusal: str) -> str:
    """What the service does, in one line: workers and requests always, the rest where it is so."""
    calls = sum(row.under_way for row in rows)
    waiting = sum(row.waiting for row in rows)
    counts = [_count(len(rows), "worker"), _count(sum(row.requests for row in rows), "request")]
    if calls:
        counts.append(f"{_count(calls, 'call')} under way")
    if waiting:
        counts.append(f"{waiting} waiting")
    parts = [", ".join(counts)]
    if lost:
        parts.append(f"{_count(lost, 'request')} lost with a worker")
    if refusal:
        parts.append(f"reload refused: {refusal.splitlines()[0]}")
    return "; ".join(parts)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _ended(pids: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Those of ``pids`` that have ended, and how: gunicorn, which reaps them, does not tell."""
    for pid in pids:
        with suppress(ChildProcessError):
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is not None:
                how = "status" if end.si_code == os.CLD_EXITED else "signal"
                yield pid, f"{how} {end.si_status}"


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


def _complain(text: str) -> None:
    sys.stderr.write(f"optictl serve: {text}\n")
    sys.stderr.flush()
