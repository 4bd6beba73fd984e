"""A hub with the files of some repositories, as far as a fetch asks for them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """``files`` by repository and name. ``cut`` ends each answer of a file after so many bytes."""

    files: dict[str, dict[str, bytes]]
    url: str = ""
    cut: int | None = None
    #: What was asked for of a file: its name, and the range.
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(files: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    hub = Hub({repository: dict(each) for repository, each in files.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._about("/".join(parts[2:4]), listing=len(parts) > 4)
            else:
                self._file(hub.files["/".join(parts[:2])][parts[-1]], parts[-1])

        def _about(self, repository: str, *, listing: bool) -> None:
            if repository not in hub.files:
                self._answer(404, b"{}")
                return
            files = hub.files[repository]
            told: Any = (
                [_told(name, files[name]) for name in files] if listing else {"sha": REVISION}
            )
            self._answer(200, json.dumps(told).encode())

        def _file(self, content: bytes, name: str) -> None:
            asked = self.headers.get("Range")
            hub.asked.append((name, asked))
            begun = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            self._answer(206 if asked else 200, content[begun:], hub.cut)

        def _answer(self, status: int, content: bytes, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _told(name: str, content: bytes) -> dict[str, Any]:
    told: dict[str, Any] = {"path": name, "size": len(content), "type": "file"}
    told["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if name.endswith(".safetensors"):
        told["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return told
