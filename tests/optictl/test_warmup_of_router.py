"""``optictl warmup`` waits for the router's classifier where the base model's answers are its."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from optictl.warming import Warmed, warm

LOADING = {"router": "loading", "router_why": None}
READY = {"router": "ready", "router_why": "bf16, 2 threads"}
ABSENT = {"router": "absent", "router_why": "torch is not installed"}


@contextmanager
def service(approach: str, *states: Mapping[str, Any] | None) -> Iterator[str]:
    """Answers by ``approach``, and tells the states of its classifier, the last again and again.

    None is a connection that is cut.
    """
    left = list(states)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say({"model": "qwen3", "choices": [{}], "optillm": {"approach": approach}})

        def do_GET(self) -> None:
            assert self.path == "/health/ready"
            state = left.pop(0) if len(left) > 1 else left[0]
            if state is None:
                self.close_connection = True
            else:
                self._say(state)

        def _say(self, what: Mapping[str, Any]) -> None:
            content = json.dumps(what).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def warmed(url: str, seconds: float = 30.0) -> tuple[Warmed, list[str]]:
    lines: list[str] = []
    return warm(url, b"{}", None, timeout=seconds, pid=None, tell=lines.append), lines


@pytest.mark.parametrize("approach", ["router", "none"])
def test_a_classifier_that_is_being_loaded_is_waited_for(approach: str) -> None:
    with service(approach, LOADING, LOADING, READY) as url:
        done, lines = warmed(url)
    assert (done.router, done.why) == ("ready", "bf16, 2 threads")
    assert lines == [
        "waiting for the router's classifier, which is being loaded",
        "router: ready (bf16, 2 threads)",
    ]


def test_one_that_is_absent_is_told_apart_with_its_reason() -> None:
    with service("none", ABSENT) as url:
        done, lines = warmed(url)
    assert done.as_json()["router"] == "absent"
    assert lines == ["router: absent (torch is not installed)"]


def test_one_that_takes_too_long_is_no_failure() -> None:
    with service("router", LOADING) as url:
        done, _ = warmed(url, seconds=2.0)
    assert (done.model, done.router) == ("qwen3", "loading")


def test_another_approachs_answer_is_no_matter_of_the_classifier() -> None:
    with service("moa", LOADING) as url:
        done, lines = warmed(url)
    assert done.router == "unused"
    assert lines == []


@pytest.mark.parametrize("state", [None, {}, {"router": 5}])
def test_a_service_that_says_nothing_of_it_has_none(state: Mapping[str, Any] | None) -> None:
    with service("none", state) as url:
        done, _ = warmed(url)
    assert done.router == "absent"
    assert done.why
