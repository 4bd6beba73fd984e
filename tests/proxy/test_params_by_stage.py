"""Which of the client's parameters reach which call of which approach: every cell of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from conftest import InProcess

from optictl.simulator import CallLog, SimulatorThread
from proxy.llm import SHAPE_PARAMS

PARAMETERS = {"type": "object", "properties": {"text": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
#: What a client may say, by what becomes of it.
SAMPLING: Mapping[str, Any] = {
    "temperature": 0.31,
    "top_p": 0.87,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "logit_bias": {"7": 1},
    "top_k": 13,
    "chat_template_kwargs": {"enable_thinking": False},
    "made_up_by_a_vendor": [1, {"a": None}],
}
SHAPE: Mapping[str, Any] = {
    "max_tokens": 901,
    "stop": ["~"],
    "logprobs": True,
    "top_logprobs": 2,
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "modalities": ["text"],
}
IDENTITY: Mapping[str, Any] = {"user": "me", "service_tier": "flex", "safety_identifier": "s"}
#: These change what runs, or exclude each other: one request each.
ALONE: Mapping[str, Any] = {
    "response_format": {"type": "json_object"},
    "max_completion_tokens": 902,
}
TOOLS: Mapping[str, Any] = {
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "functions": [TOOL["function"]],
    "function_call": "auto",
}

#: A stage: the model name that has it, and the role its calls play at the simulator.
FINAL = {
    "self_consistency sample": ("self_consistency-sim", "solver"),
    "bon candidate": ("bon-sim", "solver"),
    "moa aggregator": ("moa-sim", "aggregator"),
    "cot_reflection": ("cot_reflection-sim", "solver"),
    "re2": ("re2-sim", "solver"),
    "none": ("sim", "solver"),
}
DRAFTS = {"moa proposer": ("moa-sim", "solver")}
HELPERS = {"bon judge": ("bon-sim", "judge"), "moa critic": ("moa-sim", "stage")}
STAGES = {**FINAL, **DRAFTS, **HELPERS}


def bodies(log: CallLog, role: str) -> list[dict[str, Any]]:
    found = [call.body for call in log.records if call.role == role and call.body is not None]
    assert found
    return found


def seen(
    proxy: InProcess, sim: SimulatorThread, stage: str, **members: Any
) -> list[dict[str, Any]]:
    """The bodies of one stage's calls, without what every call has."""
    model, role = STAGES[stage]
    response = proxy.ask(model, **members)
    assert response.status_code == 200
    response.get_data()  # to the end, where it streams
    return [
        {name: value for name, value in body.items() if name not in ("model", "messages")}
        for body in bodies(sim.log, role)
    ]


def test_the_table_knows_every_shape_parameter() -> None:
    # "audio" needs an upstream that speaks.
    assert {*SHAPE, *ALONE, *TOOLS} == SHAPE_PARAMS - {"audio"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stage", FINAL)
def test_the_stage_that_the_client_sees_gets_everything(
    proxy: InProcess, sim: SimulatorThread, stage: str, stream: bool
) -> None:
    everything = {**SAMPLING, **SHAPE, **IDENTITY}
    for body in seen(proxy, sim, stage, stream=stream, **everything):
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        assert body in (everything, {**everything, **streamed})


@pytest.mark.parametrize("stage", DRAFTS)
def test_material_for_another_stage_gets_sampling_and_no_shape(
    proxy: InProcess, sim: SimulatorThread, stage: str
) -> None:
    for body in seen(proxy, sim, stage, **SAMPLING, **SHAPE, **IDENTITY):
        assert body == {**SAMPLING, **IDENTITY}


@pytest.mark.parametrize("stage", HELPERS)
def test_a_helper_gets_neither(proxy: InProcess, sim: SimulatorThread, stage: str) -> None:
    own = {"bon judge": {"max_tokens": 2048}, "moa critic": {}}[stage]
    for body in seen(proxy, sim, stage, **SAMPLING, **SHAPE, **IDENTITY):
        assert body == {**IDENTITY, "temperature": 0, **own}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "cot_reflection"])
def test_a_format_and_the_newer_limit_go_where_other_shape_goes(
    proxy: InProcess, sim: SimulatorThread, stage: str, name: str
) -> None:
    limit = "max_completion_tokens" if name == "max_completion_tokens" else "max_tokens"
    expected: dict[str, Any] = {
        **{final: {name: ALONE[name]} for final in FINAL},
        "moa proposer": {},
        "moa critic": {"temperature": 0},
        "bon judge": {"temperature": 0, limit: 2048},
    }
    for body in seen(proxy, sim, stage, **{name: ALONE[name]}):
        assert body == expected[stage]


def test_the_newer_limit_is_cot_reflections_too(proxy: InProcess, sim: SimulatorThread) -> None:
    assert seen(proxy, sim, "cot_reflection", max_completion_tokens=902) == [
        {"max_completion_tokens": 902}
    ]


def test_tools_reach_the_model_once_where_the_approach_stands_back(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    optillm = proxy.ask("cot_reflection-sim", **TOOLS).json["optillm"]
    assert optillm["approach"] == "none"
    assert "tools" in optillm["skipped"][0]
    (body,) = bodies(sim.log, "solver")
    assert {name: body[name] for name in TOOLS} == TOOLS


@pytest.mark.parametrize(
    "stage",
    ["self_consistency sample", "bon candidate", "moa proposer", "moa aggregator", "re2", "none"],
)
def test_tools_pass_a_stage_that_can_carry_them(
    proxy: InProcess, sim: SimulatorThread, stage: str
) -> None:
    # No two proposers make the same call, so that the aggregator has to decide.
    sim.behave(probability=0.0, distractors=(1.0,) * 50)
    for body in seen(proxy, sim, stage, **TOOLS):
        assert body == TOOLS


@pytest.mark.parametrize("stage", HELPERS)
def test_a_helper_cannot_call_them(proxy: InProcess, sim: SimulatorThread, stage: str) -> None:
    sim.behave(probability=0.0, distractors=(1.0,) * 50)
    for body in seen(proxy, sim, stage, **TOOLS):
        assert not body.keys() & TOOLS.keys()


def test_an_approach_that_cannot_keep_a_format_stands_back(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    members = {"response_format": {"type": "json_object"}}
    optillm = proxy.ask("cot_reflection-sim", **members).json["optillm"]
    assert optillm["approach"] == "none"
    assert "response format" in optillm["skipped"][0]
    (body,) = bodies(sim.log, "solver")
    assert body["messages"] == [{"role": "user", "content": "What is 17 * 23?"}]


@pytest.mark.parametrize(
    ("stage", "seeds"),
    [
        ("self_consistency sample", [40, 41, 42, 43, 44]),
        ("bon candidate", [40, 41, 42]),
        ("moa proposer", [40, 41, 42]),
        ("moa aggregator", [40]),
        ("cot_reflection", [40]),
        ("re2", [40]),
        ("none", [40]),
        ("bon judge", [None] * 3),
        ("moa critic", [None]),
    ],
)
def test_sample_i_sends_seed_plus_i(
    proxy: InProcess, sim: SimulatorThread, stage: str, seeds: list[int | None]
) -> None:
    # No two agree, so that no vote is over before all samples are drawn.
    sim.behave(probability=0.0, distractors=(1.0,) * 50)
    found = [body.get("seed") for body in seen(proxy, sim, stage, seed=40)]
    assert sorted(found, key=str) == seeds


@pytest.mark.parametrize("stage", STAGES)
def test_several_samples_never_run_at_temperature_0(
    proxy: InProcess, sim: SimulatorThread, stage: str
) -> None:
    several = stage in ("self_consistency sample", "bon candidate", "moa proposer")
    for body in seen(proxy, sim, stage, temperature=0):
        assert (body["temperature"] > 0) == several


@pytest.mark.parametrize("slug", ["self_consistency", "bon", "moa"])
def test_a_sample_of_one_does(proxy: InProcess, sim: SimulatorThread, slug: str) -> None:
    proxy.ask(f"{slug}-sim", temperature=0, optillm_options={"samples": 1})
    assert all(body["temperature"] == 0 for body in bodies(sim.log, "solver"))


def test_a_temperature_of_the_clients_own_is_left_alone(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    proxy.ask("self_consistency-sim", temperature=0.01)
    assert {body["temperature"] for body in bodies(sim.log, "solver")} == {0.01}


@pytest.mark.parametrize("model", ["sim", "bon-sim", "moa-sim", "re2-sim"])
def test_our_own_members_never_go_upstream(
    proxy: InProcess, sim: SimulatorThread, model: str
) -> None:
    own = {
        "optillm_budget": {"max_calls": 50},
        "optillm_options": {},
        "optillm_trace": True,
        "optillm_base_model": "other",
    }
    assert proxy.ask(model, **own).status_code == 200
    for call in sim.log.records:
        assert call.body is not None
        assert call.body.keys() <= {"model", "messages", "temperature", "max_tokens"}
        assert call.model == "other"
