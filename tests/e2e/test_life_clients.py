"""Clients that hang up on the real service, and requests that run out of time in it."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
from conftest import (
    Service,
    SimulatorThread,
    StartService,
    chat_body,
    content_of,
    events,
    eventually,
)
from raw_http import CHAT, Wire, request_bytes

from optictl.simulator import Fault


def idle(service: Service, sim: SimulatorThread, dropped: int) -> bool:
    """Whether soon so many calls were hung up on, none is left, and the service is free."""
    return eventually(
        lambda: (
            sim.log.inflight == 0
            and sim.log.dropped == dropped
            and "in_flight 0.0" in httpx.get(f"{service.url}/metrics", timeout=30.0).text
        )
    )


def test_a_client_that_hangs_up_takes_its_upstream_calls_along(
    start_service: StartService, sim: SimulatorThread
) -> None:
    """Before, during and after the first chunk; each leaves the service as it was."""
    service = start_service("--threads", "4")
    dropped = 0

    # Before its request is whole.
    data = request_bytes(chat_body())
    for part in (b"", data[:20], data[:-5]):
        Wire(service.port).send(part).close()

    # While it waits for JSON, or for the head of a stream.
    sim.behave(faults=(Fault("hang"),))
    for model, calls in (("sim", 1), ("self_consistency-sim", 5), ("bon|re2-sim", 4)):
        for stream in (False, True):
            with Wire(service.port) as wire:
                wire.send(request_bytes(chat_body(model, stream=stream)))
                assert eventually(lambda calls=calls: sim.log.inflight == calls)
            dropped += calls
            assert idle(service, sim, dropped)

    # After the first chunk: by a reset, and by a close with bytes unread.
    sim.behave(faults=(), tokens=20_000, chunk_interval=0.01)
    for model in ("sim", "re2-sim"):
        with Wire(service.port) as wire:
            response = wire.send(request_bytes(chat_body(model, stream=True))).response()
            while b'"content":"A' not in response.readline():
                pass
        dropped += 1
        assert idle(service, sim, dropped)

    sim.behave(tokens=24)
    assert httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0).status_code == 200
    assert "Traceback" not in service.log
    # Lines are written in batches, a little later.
    assert eventually(lambda: service.log.count("status=499") >= 2 * 3 + 2)
    assert service.log.count("status=499") == 2 * 3 + 2


def test_the_request_timeout_holds_for_every_way_to_answer(
    start_service: StartService, sim: SimulatorThread
) -> None:
    service = start_service("--request-timeout", "4")
    sim.behave(latency=60.0, model="never")
    sim.behave(tokens=20_000, chunk_interval=0.02, model="endless")
    # Two of five samples come, two of three candidates.
    sim.behave(faults=(Fault("hang", times=3),), model="some")
    sim.behave(faults=(Fault("hang", times=1),), model="most")

    def ask(model: str, **members: object) -> httpx.Response:
        return httpx.post(service.url + CHAT, json=chat_body(model, **members), timeout=30.0)

    with ThreadPoolExecutor() as pool:
        nothing = [pool.submit(ask, model) for model in ("never", "moa-never", "bon-never")]
        # A request may want less than the server gives, not more.
        nothing += [
            pool.submit(ask, "never", optillm_budget={"max_seconds": seconds})
            for seconds in (0.2, 60)
        ]
        kept = [pool.submit(ask, model) for model in ("self_consistency-some", "bon-most")]
        streams = {
            model: pool.submit(ask, model, stream=True)
            for model in ("never", "endless", "re2-endless")
        }
    for late in (future.result() for future in nothing):
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert late.headers["x-optillm-error"] == "deadline_exceeded"
    for best in (future.result() for future in kept):
        assert best.status_code == 200
        assert "boxed{391}" in best.json()["choices"][0]["message"]["content"]
        assert best.json()["optillm"]["exhausted"] == "deadline"
        assert best.headers["x-optillm-exhausted"] == "deadline"
    # Their heads left at 1 s: that the time was up can only be said in the stream.
    for model, future in streams.items():
        chunks = events(future.result().text)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        assert chunks[-2]["optillm"]["exhausted"] == "deadline"
        assert bool(content_of(chunks)) is (model != "never")
    assert eventually(lambda: sim.log.inflight == 0)


def test_requests_that_are_no_http_are_refused_and_the_next_one_works(
    start_service: StartService,
) -> None:
    service = start_service()

    def answer(data: bytes) -> int:
        with Wire(service.port) as wire:
            return wire.send(data).response().status

    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: proxy\r\n"
    assert answer(b"hello\r\n\r\n") == 400
    assert answer(b"GET /health HTTP/9.9\r\n\r\n") == 400
    assert answer(head + b"Content-Length: many\r\n\r\n{}") == 400
    assert answer(head + b"X: " + b"x" * 100_000 + b"\r\n\r\n") in (400, 431)
    assert answer(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n") == 400
    whole = json.dumps(chat_body()).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole)
    assert answer(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked) == 200
    # Refused on its length alone; who sends it all the same still reads why.
    assert answer(head + b"Content-Length: 40000000\r\n\r\n" + b" " * 40_000_000) == 413
    # A body that ends early, the connection half closed behind it.
    with Wire(service.port) as wire:
        wire.send(head + b"Content-Length: 100\r\n\r\n{}")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.response().status == 400
    with Wire(service.port) as wire:
        wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.response().status == 400
    assert httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0).status_code == 200
    assert "Traceback" not in service.log
