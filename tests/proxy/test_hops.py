"""A request that has been here before is refused."""

from __future__ import annotations

import pytest
from conftest import InProcess, MakeProxy, SimulatorThread, chat_body
from hypothesis import given
from hypothesis import strategies as st

from proxy.hops import HEADER, LoopDetected, instance_id, onward


def test_each_instance_appends_itself() -> None:
    assert onward("", "b") == "b"
    assert onward("a", "b") == "a, b"
    assert onward("a,c", "b") == "a, c, b"


@pytest.mark.parametrize("header", ["b", "a, b", "b , a", "a,b,c"])
def test_who_meets_itself_refuses(header: str) -> None:
    with pytest.raises(LoopDetected):
        onward(header, "b")


def test_part_of_a_name_is_another_name() -> None:
    assert onward("bb, ab", "b") == "bb, ab, b"


@given(st.text())
def test_any_header_is_survived(header: str) -> None:
    try:
        passed_on = onward(header, "own")
    except LoopDetected:
        return
    assert passed_on.endswith("own")
    assert passed_on.isascii()


def test_a_ring_of_strangers_ends_too() -> None:
    header = ", ".join(f"instance-{number}" for number in range(1000))
    with pytest.raises(LoopDetected):
        onward(header, "one-more")


def test_the_id_is_the_services_not_the_processes() -> None:
    assert instance_id("127.0.0.1", 4020) == instance_id("127.0.0.1", 4020)
    assert instance_id("127.0.0.1", 4020) != instance_id("127.0.0.1", 4021)


@pytest.mark.parametrize("model", ["sim", "moa-sim"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_call_carries_the_way_it_came(
    proxy: InProcess, sim: SimulatorThread, model: str, stream: bool
) -> None:
    body = chat_body(model, stream=stream)
    answer = proxy.post(json=body, headers={HEADER: "somebody"})
    assert answer.status_code == 200
    assert answer.data  # a stream is run while it is read
    assert sim.log.calls == {"sim": 1, "moa-sim": 5}[model]
    for call in sim.log.records:
        assert call.headers[HEADER] == "somebody, optillm"
        assert "headers" not in (call.body or {})


def test_a_loop_is_400_and_calls_nothing(make_proxy: MakeProxy, sim: SimulatorThread) -> None:
    proxy = make_proxy(instance="me")
    answer = proxy.post(json=chat_body("moa-sim"), headers={HEADER: "other, me"})
    assert answer.status_code == 400
    assert answer.json["error"]["code"] == "loop_detected"
    assert answer.headers["x-optillm-error"] == "loop_detected"
    assert sim.log.calls == 0
