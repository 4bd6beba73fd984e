"""The control plane's client: what it makes of the bytes that a server sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import orjson
import pytest
from conftest import free_port

from optictl.client import Called, Ended, Event, Noted, ProxyClient, Said
from optictl.errors import OptictlError, ProxyRefused, ProxyUnreachable, UsageError
from optictl.transcript import Transcript, summary
from optictl.waterfall import Call
from proxy.run.ledger import CallRecord
from proxy.settings import Secret

BODY = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


class Canned:
    """A server that sends given pieces to the one client it has, and keeps its request."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.request = b""
        self.client_left = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = Thread(target=self._serve, daemon=True)

    def sending(self, *pieces: bytes) -> Canned:
        self.pieces = list(pieces)
        self._thread.start()
        return self

    def events(self) -> list[Event]:
        with ProxyClient(self.url) as proxy:
            return list(proxy.stream(BODY))

    def close(self) -> None:
        self._socket.close()
        if self._thread.ident is not None:
            self._thread.join(10)

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            while b'"hi"' not in self.request:
                self.request += connection.recv(65536)
            try:
                # Each piece in a packet of its own, so that the client sees the cuts.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in self.pieces:
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                self.client_left = connection.recv(1) == b""
            except OSError:
                self.client_left = True


@pytest.fixture
def server() -> Iterator[Canned]:
    canned = Canned()
    yield canned
    canned.close()


def event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def delta(text: str, index: int = 0) -> bytes:
    return event({"choices": [{"index": index, "delta": {"content": text}}]})


def told(record: CallRecord) -> bytes:
    return b": call " + orjson.dumps(record.as_json()) + b"\n\n"


LAST = event({
    "choices": [], "usage": {"total_tokens": 7, "prompt_tokens": 4}, "optillm": {"calls": 1},
}) + b"data: [DONE]\n\n"  # fmt: skip


def test_a_stream_is_told_as_events(server: Canned) -> None:
    record = CallRecord("final", "sim", 1, 1, start=0.5)
    events = server.sending(
        SSE, told(record), b": keep-alive\n\n", b": 3 of 5 samples agree\n\n", delta("4"), LAST
    ).events()
    kinds = [type(item) for item in events]
    assert kinds == [Called, Noted, Said, Ended]
    assert events[1:] == [
        Noted("3 of 5 samples agree"),
        Said("4", 0),
        Ended({"total_tokens": 7, "prompt_tokens": 4}, {"calls": 1}),
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_it_does_not_matter_how_a_stream_is_cut(size: int, server: Canned) -> None:
    stream = delta("é\u2028") + delta("\n\x85|") + LAST
    stream = stream.replace(b"\n\n", b"\r\n\r\n")
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    said = [item.text for item in server.sending(SSE, *pieces).events() if isinstance(item, Said)]
    assert said == ["é\u2028", "\n\x85|"]


def test_it_asks_for_a_traced_stream_with_usage(server: Canned) -> None:
    server.sending(SSE, LAST)
    with ProxyClient(f"{server.url}/v1/", Secret("kéy")) as proxy:
        list(proxy.stream({**BODY, "optillm_options": {"samples": 2}}))
    head, _, body = server.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert "Authorization: Bearer kéy\r\n".encode() in head
    assert orjson.loads(body) == {
        **BODY,
        "optillm_options": {"samples": 2},
        "stream": True,
        "stream_options": {"include_usage": True},
        "optillm_trace": True,
    }


def test_leaving_early_closes_the_connection(server: Canned) -> None:
    server.sending(SSE, delta("1"))
    with ProxyClient(server.url) as proxy, closing(proxy.stream(BODY)) as events:
        assert next(events) == Said("1", 0)
    server.close()
    assert server.client_left


def refused(status: str, error: object) -> bytes:
    body = orjson.dumps({"error": error})
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n\r\n" % status.encode() + body


UNAUTHORIZED = {"message": "Invalid Authorization header.", "code": "invalid_api_key"}


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (refused("401 Unauthorized", UNAUTHORIZED), ProxyRefused, "invalid_api_key"),
        (refused("503 Busy", {"message": "Full.", "code": None}), ProxyRefused, "proxy_refused"),
        (SSE + delta("1") + event({"error": {"message": "Gone.", "code": "upstream_timeout"}}),
         ProxyRefused, "upstream_timeout"),
        (SSE + delta("1"), ProxyUnreachable, "proxy_broke_off"),
        (SSE + delta("1") + b"data: [DONE]\n\n", ProxyUnreachable, "not_the_proxy"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", ProxyUnreachable,
         "not_the_proxy"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", ProxyUnreachable, "not_the_proxy"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ProxyUnreachable, "proxy_broke_off"),
        (b"", ProxyUnreachable, "proxy_broke_off"),
    ],
    ids=["key", "no-code", "error-event", "cut", "no-summary", "page", "gateway", "ssh", "nothing"],
)  # fmt: skip
def test_every_other_answer_is_an_error_of_one_line(
    answer: bytes, kind: type[OptictlError], code: str, server: Canned
) -> None:
    with pytest.raises(kind) as raised:
        server.sending(answer).events()
    assert raised.value.code == code
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "answer",
    [JSON + b"[]", JSON + b'{"choices": null}', JSON + b"{", SSE + LAST],
    ids=["list", "null", "cut", "stream"],
)
def test_json_that_is_no_chat_completion(answer: bytes, server: Canned) -> None:
    server.sending(answer)
    with ProxyClient(server.url) as proxy, pytest.raises(ProxyUnreachable) as raised:
        proxy.chat(BODY)
    assert raised.value.code == "not_the_proxy"


def test_a_chat_completion(server: Canned) -> None:
    server.sending(JSON + orjson.dumps({"choices": [{"message": {"content": "4"}}]}))
    with ProxyClient(server.url) as proxy:
        assert proxy.chat(BODY)["choices"][0]["message"]["content"] == "4"


def test_nobody_there_says_how_to_start_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy for other hosts must not be asked for one on this machine.
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")
    url = f"http://127.0.0.1:{free_port()}"
    with ProxyClient(url) as proxy, pytest.raises(ProxyUnreachable, match="optictl serve") as error:
        proxy.chat(BODY)
    assert url in str(error.value)


@pytest.mark.parametrize("url", ["127.0.0.1:4020", "", "ftp://127.0.0.1", "http://127.0.0.1:x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="--url"):
        ProxyClient(url)


def records(*starts: float) -> list[CallRecord]:
    return [CallRecord("proposer", "sim", 1, 1, start=start) for start in starts]


def test_an_end_takes_the_place_of_its_beginning() -> None:
    first, second, twin = records(0.1, 0.2, 0.2)
    transcript = Transcript()
    for record in (first, second, twin):
        transcript.take(Called(Call.of(record.as_json())))
    for record, end, outcome in ((twin, 0.4, "ok"), (first, 0.5, "cancelled"), (second, 0.6, "ok")):
        record.end, record.outcome = end, outcome
        transcript.take(Called(Call.of(record.as_json())))
    assert [(call.start, call.end, call.outcome) for call in transcript.calls] == [
        (0.1, 0.5, "cancelled"),
        (0.2, 0.4, "ok"),
        (0.2, 0.6, "ok"),
    ]


def test_a_transcript_keeps_choices_apart() -> None:
    transcript = Transcript()
    for piece, choice in (("b", 1), ("a", 0), ("c", 1)):
        transcript.take(Said(piece, choice))
    assert transcript.texts == {0: "a", 1: "bc"}
    assert transcript.text == "a"
    assert Transcript().text == ""


@pytest.mark.parametrize(
    ("optillm", "line"),
    [
        ({"approach": "none", "calls": 1, "rounds": 1},
         "none · 1 call in 1 round · 1,300 tokens (1,000 in, 300 out) · 1.50 s"),
        ({"approach": "moa", "calls": 3, "rounds": 2, "exhausted": "deadline"},
         "moa · 3 calls in 2 rounds · 1,300 tokens (1,000 in, 300 out) · 1.50 s · cut short by "
         "deadline"),
        ({"approach": "none", "calls": 1, "rounds": 1, "skipped": ["moa: tools", "re2: parts"]},
         "none · 1 call in 1 round · 1,300 tokens (1,000 in, 300 out) · 1.50 s · left out moa: "
         "tools; re2: parts"),
    ],
)  # fmt: skip
def test_a_summary_is_one_line(optillm: dict[str, object], line: str) -> None:
    assert summary({"total_tokens": 1300, "prompt_tokens": 1000}, optillm, 1.5) == line
