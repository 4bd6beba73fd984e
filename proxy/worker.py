"""gunicorn's threaded worker, made for answers that take long and clients that do not wait."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import time
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from proxy.telemetry.logs import start_logging

if TYPE_CHECKING:
    from proxy.app import App
    from proxy.board import Row
    from proxy.server import Application

_log = logging.getLogger("optillm.server")

#: Seconds that a client has to hang up after its connection was closed from this side.
_LINGER = 2.0
_CHUNK = 64 * 1024
_GC_THRESHOLD = (5_000, 5, 5)


class ProxyWorker(ThreadWorker):
    """gthread that gives up on clients that stall and lets go of the port when told to stop."""

    app: Application
    #: Its place on the board, given out by the master before the fork.
    row: Row

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections closed from this side, with when to stop waiting for the other.
        self._closing: dict[TConn, float] = {}

    def enqueue_req(self, conn: TConn) -> None:
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        # Kernel timeouts hold in blocking mode, where gunicorn has none of its own: a client that
        # stops reading or sending would keep its thread for ever.
        seconds, fraction = divmod(self.app.settings.socket_timeout, 1.0)
        limit = struct.pack("ll", int(seconds), int(1_000_000 * fraction))
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        # A new connection gets a thread with its first byte: gunicorn's would wait for that, and
        # connections that are opened in advance would take the threads of those that ask.
        conn.timeout = time.monotonic() + self.cfg.keepalive
        self.pending_conns.append(conn)
        ready = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, ready)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self._hang_up(conn)

    def murder_pending(self) -> None:
        super().murder_pending()
        now = time.monotonic()
        for conn in [conn for conn, until in self._closing.items() if until <= now]:
            self._close(conn)

    def _hang_up(self, conn: TConn) -> None:
        """Close in the two steps of RFC 9112, section 9.6.

        gunicorn's own waits in between for the client, up to two seconds and on the thread that
        accepts: clients that are gone without a word would hold up all others.
        """
        self._closing[conn] = time.monotonic() + _LINGER
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read_out, conn))
        except OSError:
            self._close(conn)

    def _read_out(self, conn: TConn, client: socket.socket) -> None:
        try:
            if client.recv(_CHUNK):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(conn)

    def _close(self, conn: TConn) -> None:
        del self._closing[conn]
        with contextlib.suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def set_accept_enabled(self, enabled: bool | None) -> None:
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        # A drain need not wait for connections on which nothing was ever asked.
        for conn in self.pending_conns:
            conn.timeout = time.monotonic() + _LINGER
        if not self.app.socket_activated:
            # Refused at once rather than accepted by the kernel and never served. Where systemd
            # holds the port, what comes meanwhile waits for the successor.
            for listener in self.sockets:
                listener.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app: App | None = getattr(self, "wsgi", None)
        # None where it is told to end before it has begun.
        if app is not None:
            app.admission.closed = self.app.board.stopping
            if self.alive:
                app.engine.drain(self.app.settings.drain)
        super().handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        alive = super().is_parent_alive()
        if not alive:
            # Nobody will send it; and a new master needs the port.
            self.handle_exit(signal.SIGTERM, None)
        return alive


class ProxyLogger(Logger):
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


def worker_started(worker: ProxyWorker) -> None:
    """gunicorn's post_worker_init: the first moment at which threads may exist."""
    settings = worker.app.settings
    start_logging(settings.log_level, settings.log_format)
    app = cast("App", worker.wsgi)
    row, engine, pid = worker.row, app.engine, os.getpid()
    app.attach(row)
    engine.start()
    # From now on: what it holds is lost if it dies, and its loop must turn.
    row.open(pid)
    # What is loaded by now stays: collecting it again and again costs a request a fifth of its CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
    # A SIGTERM between the fork and here may have found the master's handlers still in place.
    worker.alive = worker.alive and not worker.app.board.stopping
    _log.info("worker %d serves on %s:%d", pid, settings.host, settings.port)


def worker_ended(server: Arbiter, worker: ProxyWorker) -> None:
    """gunicorn's worker_exit: in the worker, but in the master for one that is gone already."""
    app: App | None = getattr(worker, "wsgi", None)
    if app is not None and int(worker.pid) == os.getpid():
        app.engine.stop()
        # Its loop beats no more, which is no reason for the watchdog to bite.
        worker.row.close()
