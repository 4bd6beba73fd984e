"""How many chats are let in: the rest hear so at once."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import InProcess, MakeProxy, SimulatorThread, chat_body, eventually

from optictl.simulator import Fault
from proxy.edge.admission import Admission
from proxy.errors import Overloaded, ShuttingDown
from proxy.settings import Settings


def test_as_many_as_the_limit_are_let_in_and_the_next_is_refused() -> None:
    admission = Admission(2)
    with admission.slot(), admission.slot():
        with pytest.raises(Overloaded) as caught, admission.slot():
            pass
        assert caught.value.http_status() == 503
        assert caught.value.headers()["Retry-After"] == "1"
        assert admission.in_flight == 2
    assert admission.in_flight == 0


def test_a_slot_is_given_back_whatever_happens_in_it() -> None:
    admission = Admission(1)
    with pytest.raises(KeyError), admission.slot():
        raise KeyError
    with admission.slot():
        assert admission.in_flight == 1


def test_a_process_that_is_about_to_end_lets_nobody_in() -> None:
    admission = Admission(1)
    admission.closed = True
    with pytest.raises(ShuttingDown) as caught, admission.slot():
        pass
    assert caught.value.headers()["Retry-After"] == "1"
    assert admission.in_flight == 0


def test_the_limit_holds_when_all_come_at_once() -> None:
    admission = Admission(8)
    start, hold = threading.Barrier(32), threading.Barrier(32)

    def come() -> bool:
        start.wait(10)
        try:
            with admission.slot():
                hold.wait(10)
                return True
        except Overloaded:
            hold.wait(10)
            return False

    with ThreadPoolExecutor(32) as pool:
        let_in = [future.result() for future in [pool.submit(come) for _ in range(32)]]
    assert let_in.count(True) == 8
    assert admission.in_flight == 0


@pytest.mark.parametrize(
    ("threads", "admitted"), [(2, 1), (3, 2), (4, 3), (16, 12), (64, 48), (65, 49), (512, 496)]
)
def test_some_threads_are_never_given_to_chats(threads: int, admitted: int) -> None:
    assert Settings(base_url="http://unused", threads=threads).admitted == admitted


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/chat/completions"])
def test_every_way_to_ask_is_counted(
    make_proxy: MakeProxy, sim: SimulatorThread, path: str
) -> None:
    sim.behave(faults=(Fault("hang", times=1),))
    proxy = make_proxy(threads=2)
    body = {**chat_body(), "prompt": "Why?"}
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(proxy.post, path, json=body)
        assert eventually(lambda: sim.log.inflight == 1)
        refused = proxy.post(path, json=body)
        proxy.app.engine.stop()
    assert refused.status_code == 503
    assert refused.json["error"] == {
        "message": refused.json["error"]["message"],
        "type": "overloaded_error",
        "param": None,
        "code": "overloaded",
    }
    assert "--threads" in refused.json["error"]["message"]
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["x-request-id"]
    assert waiting.result().status_code == 503


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"model": "nonsense&-sim", "messages": [{"role": "user"}]}']
)
def test_a_request_that_is_refused_gives_its_slot_back(proxy: InProcess, body: bytes) -> None:
    assert proxy.post(data=body).status_code == 400
    assert proxy.app.admission.in_flight == 0


def test_a_stream_holds_its_slot_until_it_is_closed(proxy: InProcess) -> None:
    response = proxy.post(json=chat_body(stream=True))
    assert next(iter(response.response))
    assert proxy.app.admission.in_flight == 1
    response.close()
    assert proxy.app.admission.in_flight == 0


def test_who_is_not_allowed_in_takes_no_slot(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(threads=2, proxy_key=None)
    with proxy.app.admission.slot():
        assert proxy.ask("optictl-health").status_code == 503
        assert proxy.http.get("/health").status_code == 200
        assert proxy.http.get("/v1/models").status_code == 200


def test_bodies_are_let_in_as_long_as_there_is_room_for_them() -> None:
    admission = Admission(10, memory=100)
    with admission.slot(60), admission.slot(40):
        with pytest.raises(Overloaded) as caught, admission.slot(1):
            pass
        assert caught.value.http_status() == 503
        assert caught.value.headers()["Retry-After"] == "1"
        assert (admission.in_flight, admission.held) == (2, 100)
    assert (admission.in_flight, admission.held) == (0, 0)
    with admission.slot(100):
        pass


def test_a_body_that_turns_out_small_makes_room_for_others() -> None:
    admission = Admission(10, memory=100)
    with admission.slot(100) as slot:
        admission.settle(slot, 30)
        assert admission.held == 30
        with admission.slot(70):
            assert admission.held == 100
    assert admission.held == 0


def test_every_change_is_told_in_order() -> None:
    admission = Admission(2)
    told: list[int] = []
    admission.on_change = told.append
    with admission.slot(), admission.slot():
        with pytest.raises(Overloaded), admission.slot():
            pass
        with pytest.raises(Overloaded), admission.slot():
            pass
    with pytest.raises(KeyError), admission.slot():
        raise KeyError
    assert told == [1, 2, 1, 0, 1, 0]


def test_a_body_reserves_its_room_before_it_is_read_and_until_its_answer_ends(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    body = json.dumps(chat_body(stream=True)).encode()
    proxy = make_proxy(max_body=1000, max_pending_body=1000 + len(body))
    waiting = proxy.post(data=body)
    assert next(iter(waiting.response))
    assert proxy.app.admission.held == len(body)
    # What is announced counts, and of what comes in chunks as much as it may become.
    filler = b" " * (1000 - len(body))
    with proxy.app.admission.slot(1):
        for refused in (
            proxy.post(data=body + filler),
            proxy.post(data=body, environ_overrides={"CONTENT_LENGTH": ""}),
        ):
            assert refused.status_code == 503
            assert refused.json["error"]["code"] == "overloaded"
            assert refused.headers["Retry-After"] == "1"
        assert proxy.post(data=body).status_code == 200
    assert proxy.post(data=body + filler).status_code == 200
    waiting.close()
    assert proxy.app.admission.held == 0


def test_room_is_never_less_than_one_body_may_need(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(max_body=10_000, max_pending_body=1)
    body = json.dumps(chat_body()).encode()
    assert proxy.post(data=body.ljust(10_000)).status_code == 200
    assert proxy.post(data=body.ljust(10_001)).status_code == 413


@pytest.mark.parametrize("body", [b"{", b"[]", b"x" * 2000])
def test_a_body_that_is_refused_gives_its_room_back(make_proxy: MakeProxy, body: bytes) -> None:
    proxy = make_proxy(max_body=1000)
    assert proxy.post(data=body).status_code in (400, 413)
    assert proxy.app.admission.held == 0
