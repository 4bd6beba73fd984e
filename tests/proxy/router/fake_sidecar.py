"""Speaks the protocol of `proxy.router.sidecar` without a classifier, from a thread of its own."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from proxy.router.checkpoint import LABELS

#: What makes an answer of a question: a share for each label; None is silence.
Answer = Callable[[dict[str, Any]], Sequence[float] | None]


def sure_of(label: str, share: float = 0.88) -> list[float]:
    """Shares that speak for ``label``; the others have the rest in equal parts."""
    rest = (1 - share) / (len(LABELS) - 1)
    return [share if each == label else rest for each in LABELS]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class FakeSidecar:
    """Answers at ``path`` from `__enter__` until `crash` or `__exit__`."""

    def __init__(self, path: Path, answer: Answer, *, phase: str = "ready", why: str = "") -> None:
        self.path = str(path)
        self.asked: list[dict[str, Any]] = []
        self._connections: list[Any] = []
        lines = self.asked
        connections = self._connections

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                connections.append(self.connection)
                self.say({"phase": phase, "why": why})
                with suppress(OSError):
                    for line in self.rfile:
                        question = orjson.loads(line)
                        lines.append(question)
                        if (shares := answer(question)) is not None:
                            self.say({"id": question["id"], "shares": shares})

            def say(self, what: dict[str, Any]) -> None:
                self.wfile.write(orjson.dumps(what) + b"\n")

        self._server = _Server(self.path, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FakeSidecar:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        Path(self.path).unlink(missing_ok=True)

    def crash(self) -> None:
        """Close every connection, as the kernel does for a process that is killed."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(2)
