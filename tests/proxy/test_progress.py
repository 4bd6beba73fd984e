"""Early stages told as they pass: as comments, or as thought aloud where gateways drop comments."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import InProcess, MakeProxy, SimulatorThread, chat_body, content_of, events


def thoughts(chunks: list[Any]) -> str:
    choices = (c for chunk in chunks if chunk != "[DONE]" for c in chunk["choices"])
    return "".join(c["delta"].get("reasoning_content") or "" for c in choices)


SAID = {
    "self_consistency-sim": "2 of 5 samples agree\n",
    "bon-sim": "2 of 3 candidates rated\n",
    "moa-sim": "3 of 3 proposals written\n",
}


@pytest.mark.parametrize("model", SAID)
def test_progress_is_told_before_the_content(proxy: InProcess, model: str) -> None:
    chunks = proxy.stream(model, optillm_progress=True)
    assert SAID[model] in thoughts(chunks)
    assert "391" in content_of(chunks)
    kinds = [
        name
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        for name, value in choice["delta"].items()
        if value and name != "role"
    ]
    assert kinds == sorted(kinds, reverse=True)  # reasoning_content, then content


@pytest.mark.parametrize("model", SAID)
def test_it_is_off_by_default_and_a_comment_then(proxy: InProcess, model: str) -> None:
    raw = proxy.post(json=chat_body(model, stream=True)).get_data(as_text=True)
    assert thoughts(events(raw)) == ""
    assert f": {SAID[model]}" in raw


def test_a_server_may_turn_it_on_and_a_request_off(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(progress=True)
    assert thoughts(proxy.stream("moa-sim"))
    assert not thoughts(proxy.stream("moa-sim", optillm_progress=False))


def test_json_and_passthrough_are_left_alone(proxy: InProcess, sim: SimulatorThread) -> None:
    message = proxy.ask("moa-sim", optillm_progress=True).json["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert not thoughts(proxy.stream("sim", optillm_progress=True))
    assert all("optillm_progress" not in (call.body or {}) for call in sim.log.records)
