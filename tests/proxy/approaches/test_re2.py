"""Re-reading: the question twice, the conversation and the answer as they are."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import QUESTION, InProcess, content_of

from optictl.simulator import SimulatorThread

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def sent(sim: SimulatorThread, index: int = 0) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = (sim.log.records[index].body or {})["messages"]
    return messages


def asked(sim: SimulatorThread, index: int = 0) -> str:
    return str(sent(sim, index)[-1]["content"])


def test_the_question_is_asked_twice_with_a_thought_trigger(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    assert proxy.text("re2-sim").endswith("\\boxed{391}.")
    lines = asked(sim).splitlines()
    assert lines[0] == QUESTION
    assert lines[1].endswith(QUESTION)
    assert lines[1] != QUESTION
    assert "step by step" in lines[2]
    assert len(lines) == 3


def test_the_trigger_can_be_left_out(proxy: InProcess, sim: SimulatorThread) -> None:
    proxy.ask("re2-sim", optillm_options={"trigger": False})
    assert "step by step" not in asked(sim)
    assert asked(sim).count(QUESTION) == 2


def test_a_format_leaves_no_room_for_the_trigger(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.text("re2-sim", response_format={"type": "json_object"}) == '{"answer":391}'
    assert "step by step" not in asked(sim)
    assert asked(sim).count(QUESTION) == 2


def test_only_the_last_user_turn_is_repeated(proxy: InProcess, sim: SimulatorThread) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": QUESTION},
    ]
    proxy.post(json={"model": "re2-sim", "messages": messages})
    assert sent(sim)[:3] == messages[:3]
    assert asked(sim).count(QUESTION) == 2
    assert "Hello" not in asked(sim)


def test_a_long_question_is_asked_once(proxy: InProcess, sim: SimulatorThread) -> None:
    long = f"{'All of this matters. ' * 400}{QUESTION}"
    proxy.ask("re2-sim", long)
    assert asked(sim) == long


def test_text_parts_are_read_as_one_question(proxy: InProcess, sim: SimulatorThread) -> None:
    parts = [{"type": "text", "text": "I wonder."}, {"type": "text", "text": QUESTION}]
    proxy.ask("re2-sim", parts)
    (part,) = sent(sim)[-1]["content"]
    assert part["text"].count(f"I wonder.\n{QUESTION}") == 2


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_cannot_be_read_twice_and_that_is_told(
    proxy: InProcess, sim: SimulatorThread, stream: bool
) -> None:
    content = [PICTURE, {"type": "text", "text": QUESTION}]
    if stream:
        chunks = proxy.stream("re2-sim", content)
        assert content_of(chunks)
        optillm = chunks[-2]["optillm"]
    else:
        response = proxy.ask("re2-sim", content)
        optillm = response.json["optillm"]
        assert "images" in response.headers["x-optillm-skipped"]
    assert optillm["approach"] == "none"
    assert "re2" in optillm["skipped"][0]
    assert "images" in optillm["skipped"][0]
    assert sent(sim) == [{"role": "user", "content": content}]


def test_tools_stay_and_so_does_what_they_said(proxy: InProcess, sim: SimulatorThread) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "391"},
    ]
    body = {"messages": messages, "tools": [{"type": "function", "function": function}]}
    response = proxy.post(json={"model": "re2-sim", **body})
    assert response.json["optillm"]["approach"] == "re2"
    assert sent(sim)[1:] == messages[1:]
    assert sent(sim)[0]["content"].count(QUESTION) == 2


@pytest.mark.parametrize("slug", ["bon", "moa", "self_consistency"])
def test_in_front_of_another_approach_every_sample_reads_twice(
    proxy: InProcess, sim: SimulatorThread, slug: str
) -> None:
    assert proxy.text(f"re2&{slug}-sim").endswith("\\boxed{391}.")
    solvers = [i for i, call in enumerate(sim.log.records) if call.role == "solver"]
    assert len(solvers) >= 3
    assert all(asked(sim, i).count(QUESTION) == 2 for i in solvers)


def test_behind_another_approach_it_keeps_that_ones_answer_in_view(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    proxy.ask("cot_reflection&re2-sim")
    first, last = sim.log.records
    assert asked(sim, 1).count(QUESTION) == 2
    assert f"<draft>\n{first.content}\n</draft>" in asked(sim, 1)
    assert last.role == "solver"
