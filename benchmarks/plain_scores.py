"""The simulated model for a client whose judge is to answer with a number alone.

The simulated judge ends in ``Score: 7.25``, as our own prompts ask for. OptiLLM asks for a number on
a scale and nothing else, and takes everything else for a 0. It gets what it asks for: its judge is
then exactly as good as ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

_SCALE = re.compile(r"\b0 to 10\b")
_SCORE = re.compile(r"Score: ([\d.]+)\s*$")


class PlainScores:
    """Stands before the simulated model at ``upstream`` while the block lasts; ``url`` is its own.

    Chat completions only. Requests of a judge are known by the scale in a system message.
    """

    def __init__(self, upstream: str) -> None:
        self._http = httpx.Client(
            base_url=upstream, timeout=60.0, trust_env=False, limits=httpx.Limits(max_connections=64)
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._http))
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._http.close()


def asks_for_a_number(body: Mapping[str, Any]) -> bool:
    """Whether the request wants a rating."""
    return any(
        message.get("role") == "system" and _SCALE.search(str(message.get("content")))
        for message in body["messages"]
    )


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """The simulated judge's answer, the number alone."""
    for choice in answer["choices"]:
        said = _SCORE.search(choice["message"]["content"])
        if said:
            choice["message"]["content"] = said[1]
    return answer


def _handler(http: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rating = asks_for_a_number(body)
            headers = {"x-sim-role": "judge"} if rating else {}
            answered = http.post("/chat/completions", json=body, headers=headers)
            content = answered.content
            if rating and answered.status_code == 200:
                content = orjson.dumps(plain(answered.json()))
            self.send_response(answered.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    return Handler
