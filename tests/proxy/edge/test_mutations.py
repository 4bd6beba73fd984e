"""2,000 random mutations of a valid request: each is answered or refused, none is our own error."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.settings import Limits

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MEMBERS: dict[str, Any] = {
    "n": 2,
    "temperature": 0,
    "seed": 7,
    "max_tokens": 64,
    "stop": ["END"],
    "logit_bias": {"50256": -100},
    "response_format": {"type": "text"},
    "metadata": {"base_model": "sim"},
    "user": "ada",
    "optillm_base_model": "sim",
    "optillm_budget": {"max_calls": 20, "max_total_tokens": 9000, "max_seconds": 20},
    "optillm_trace": True,
    "extra_body": {"top_k": 5},
}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is 17 * 23?"}]},
    {"role": "assistant", "content": "391"},
    {"role": "user", "content": "Are you sure?", "name": "ada"},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL_TURNS: list[dict[str, Any]] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "391"},
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SELECTIONS: tuple[dict[str, Any], ...] = (
    {"model": "sim"},
    {"model": "re2-sim", "optillm_options": {"trigger": False}},
    {"model": "bon-sim", "best_of_n": 2},
    {"model": "re2&moa|none-sim", "optillm_options": {"moa.samples": 2}},
    {"model": "self_consistency", "optillm_options": {"samples": 3}},
    {"model": "proxy-sim", "optillm_approach": "bon", "optillm_options": {"samples": 2}},
    {"model": "sim", "optillm_approach": "proxy", "proxy_wrap": "cot_reflection"},
)


@st.composite
def valid(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A path and a request that is answered there."""
    body = copy.deepcopy(MEMBERS) | copy.deepcopy(draw(st.sampled_from(SELECTIONS)))
    if draw(st.booleans()):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if draw(st.integers(0, 5)) == 0:
        return TEXT, {**body, "prompt": "What is 17 * 23?"}
    body["messages"] = copy.deepcopy(TURNS)
    body |= {"logprobs": True, "top_logprobs": 2}
    if draw(st.integers(0, 3)) == 0:
        body["messages"] += copy.deepcopy(TOOL_TURNS)
        body["tools"] = [copy.deepcopy(TOOL)]
    return CHAT, body


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([0.5, -1.0, 1e300, 2**63, -(2**70), 10**40]),
    st.sampled_from(
        ["", "sim", "moa-sim", "user", "system", "tool", "auto", "text", "&", "-", "\n"]
    ),
    st.text(max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
Path = tuple[str | int, ...]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every value inside ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for step, below in inner:
        yield (*path, step)
        if isinstance(below, dict | list):
            yield from paths(below, (*path, step))


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid request with some of its values gone, replaced or joined by others."""
    path, body = draw(valid())
    for _ in range(draw(st.integers(1, 3))):
        *way, step = draw(st.sampled_from(list(paths(body))))
        owner: Any = body
        for part in way:
            owner = owner[part]
        action = draw(st.sampled_from(["delete", "replace", "insert"]))
        if action == "delete":
            del owner[step]
        elif action == "replace":
            owner[step] = draw(VALUES)
        elif isinstance(owner, list):
            owner.insert(int(step), draw(VALUES))
        else:
            owner[draw(st.sampled_from(["prompt", "x", "role", "stop", "wrap"]))] = draw(VALUES)
    return path, json.dumps(body).encode()


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid request with some of its bytes gone, replaced or joined by others."""
    path, body = draw(valid())
    raw = bytearray(json.dumps(body).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        raw[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return path, bytes(raw)


@pytest.fixture
def guarded(make_proxy: MakeProxy) -> InProcess:
    """A proxy where no single request can take long."""
    return make_proxy(limits=Limits(max_calls=24), max_choices=4)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(valid())
def test_what_is_mutated_is_answered(guarded: InProcess, request_: tuple[str, Any]) -> None:
    path, body = request_
    response = guarded.post(path, json=body)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        assert events(response.get_data(as_text=True))[-1] == "[DONE]"


@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(mutated() | mutated() | mutated() | damaged())
def test_no_mutation_is_an_internal_error(
    guarded: InProcess, caplog: pytest.LogCaptureFixture, request_: tuple[str, bytes]
) -> None:
    path, body = request_
    caplog.set_level(logging.INFO, logger="optillm.requests")
    caplog.clear()
    response = guarded.post(path, data=body)
    said = response.get_data(as_text=True)
    response.close()
    ours = [record for record in caplog.records if record.name.startswith("optillm.")]
    assert [record.name for record in ours] == ["optillm.requests"], caplog.text
    assert response.status_code != 500
    assert response.headers["x-request-id"]
    if response.content_type.startswith("text/event-stream"):
        last = events(said)[-1]
        error = None if last == "[DONE]" else last["error"]
    elif response.status_code == 200:
        error = None
        assert {"id", "object", "created", "model", "choices", "usage"} <= response.json.keys()
    else:
        error = response.json["error"]
        assert response.headers["x-optillm-error"] == error["code"]
    if error is not None:
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] != "internal_error"
