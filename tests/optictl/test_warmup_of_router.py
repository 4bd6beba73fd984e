"""``optictl warmup`` waits for the router's classifier where the base model's answers are its."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_classifier import DAMAGES, write_classifier

from optictl import warming
from optictl.warming import Warmed, warm
from proxy.router.checkpoint import inspect
from proxy.router.client import no_classifier
from proxy.router.config import Unusable

LOADING = {"router": "loading", "router_why": None}
READY = {"router": "ready", "router_why": "bf16, 2 threads"}


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


def absent(why: str | None) -> Mapping[str, Any]:
    return {"router": "absent", "router_why": why}


@pytest.mark.parametrize("approach", ["router", "none", "re2&router", "moa|router"])
def test_a_classifier_that_is_being_loaded_is_waited_for(approach: str) -> None:
    with service(approach, LOADING, LOADING, READY) as url:
        done, lines = warmed(url)
    assert (done.router, done.why) == ("ready", "bf16, 2 threads")
    assert lines == [
        "waiting for the router's classifier, which is being loaded",
        "router: ready (bf16, 2 threads)",
    ]


@pytest.mark.parametrize(
    "why",
    [
        "torch is not installed; run: pip install 'optictl[router]'",
        "codelion/x is not in /hub; run: optictl router fetch",
        "/x/model.safetensors is cut short: 5 of 9 bytes; fetch it again",
        # Nobody has wanted one.
        no_classifier().state.why,
    ],
)
def test_one_that_is_absent_is_told_with_the_service_s_own_mend(why: str) -> None:
    with service("none", absent(why)) as url:
        done, lines = warmed(url)
    assert (done.as_json()["router"], done.why) == ("absent", why)
    assert lines == [f"router: absent ({why})"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_apart_and_has_a_mend(tmp_path: Path, damage: str) -> None:
    spoil, told = DAMAGES[damage]
    spoil(write_classifier(tmp_path))
    with pytest.raises(Unusable) as caught:
        inspect(tmp_path)
    with service("none", absent(str(caught.value))) as url:
        _, [line] = warmed(url)
    assert line.startswith(f"router: absent ({tmp_path}{told}")
    assert line.endswith(("; fetch it again)", "); what mends it: optictl check router"))


@pytest.mark.parametrize(
    ("why", "line"),
    [
        (
            "/x/tokenizer.json: EOF while parsing a value",
            "router: absent (/x/tokenizer.json: EOF while parsing a value); what mends it: "
            "optictl check router",
        ),
        (
            "/x: Error(s) in loading\n  size mismatch; see above",
            "router: absent (/x: Error(s) in loading size mismatch; see above); what mends it: "
            "optictl check router",
        ),
        (None, "router: absent; what mends it: optictl check router"),
    ],
)
def test_what_has_no_mend_of_its_own_leads_to_the_check(why: str | None, line: str) -> None:
    with service("none", absent(why)) as url:
        _, lines = warmed(url)
    assert lines == [line]


def test_one_that_takes_too_long_is_no_failure() -> None:
    with service("router", LOADING) as url:
        done, lines = warmed(url, seconds=2.0)
    assert (done.model, done.router, done.why) == ("qwen3", "loading", None)
    assert lines == [
        "waiting for the router's classifier, which is being loaded",
        "router: loading; wait, or see: optictl logs",
    ]


CRASHED = "the classifier's process has ended; it starts again"


@pytest.mark.parametrize(
    "why",
    [
        CRASHED,
        "the classifier has been loading for 130 s",
        "the classifier has not answered for 12 s",
    ],
)
def test_one_that_crashes_or_hangs_is_told_with_its_mend(why: str) -> None:
    with service("router", {**LOADING, "router_why": why}) as url:
        done, lines = warmed(url, seconds=2.0)
    assert (done.router, done.as_json()["router_why"]) == ("loading", why)
    assert lines == [
        f"waiting for the router's classifier ({why}); see: optictl logs",
        f"router: loading ({why}); see: optictl logs",
    ]


def test_a_crash_is_remembered_while_it_is_loaded_again() -> None:
    with service("router", {**LOADING, "router_why": CRASHED}, LOADING) as url:
        done, lines = warmed(url, seconds=2.0)
    assert (done.router, done.why) == ("loading", CRASHED)
    assert lines[-1] == f"router: loading ({CRASHED}); see: optictl logs"


def test_one_that_comes_back_is_ready_without_a_word_on_its_crash() -> None:
    with service("router", {**LOADING, "router_why": CRASHED}, READY) as url:
        done, lines = warmed(url)
    assert (done.router, done.why) == ("ready", "bf16, 2 threads")
    assert lines[-1] == "router: ready (bf16, 2 threads)"


def test_how_long_it_has_been_so_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_SPACING", 0.0)
    monkeypatch.setattr(warming, "_LOOK", 0.01)
    hangs = [
        {**LOADING, "router_why": f"the classifier has been loading for {120 + more} s"}
        for more in range(5)
    ]
    with service("router", *hangs, READY) as url:
        _, lines = warmed(url)
    assert lines == [
        "waiting for the router's classifier (the classifier has been loading for 120 s); "
        "see: optictl logs",
        "router: ready (bf16, 2 threads)",
    ]


@pytest.mark.parametrize("approach", ["moa", "re2&moa|bon"])
def test_another_approachs_answer_is_no_matter_of_the_classifier(approach: str) -> None:
    with service(approach, LOADING) as url:
        done, lines = warmed(url)
    assert done.router == "unused"
    assert lines == []


@pytest.mark.parametrize("state", [None, {}, {"router": 5}])
def test_a_service_that_says_nothing_of_it_has_none(state: Mapping[str, Any] | None) -> None:
    with service("none", state) as url:
        done, _ = warmed(url)
    assert done.router == "absent"
    assert done.why
