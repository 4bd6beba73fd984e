"""Bad input: each gets its status, OpenAI's error object and one log line, and the next one works.

What never reaches a model is refused before the first upstream call.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from conftest import InProcess, chat_body
from refusing import CHAT, TURN, assert_next_works, assert_refused

from optictl.simulator import Fault, SimulatorThread


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="optillm")


BODIES = {
    "no JSON": (b"nonsense", "invalid_json"),
    "an empty body": (b"", "invalid_json"),
    "cut JSON": (b'{"model": "sim", "messages": [', "invalid_json"),
    "not UTF-8": (b'{"model": "s\xe9m"}', "invalid_json"),
    "a form": (b"model=sim&messages=Hello", "invalid_json"),
    "duplicate keys": (
        b'{"model": "sim", "model": "moa-sim", "messages": [{"role": "user", "content": "a"}]}',
        "invalid_json",
    ),
    "duplicate keys further in": (
        b'{"model": "sim", "messages": [{"role": "user", "content": "a", "content": "b"}]}',
        "invalid_json",
    ),
    "an array": (b'[{"model": "sim"}]', "invalid_json"),
    "a string": (b'"hello"', "invalid_json"),
    "null": (b"null", "invalid_json"),
    "a thousand levels": (
        b'{"messages": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        "invalid_request",
    ),
    "a hundred thousand levels": (
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "invalid_json",
    ),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_body_that_is_no_request(
    proxy: InProcess, sim: SimulatorThread, caplog: pytest.LogCaptureFixture, path: str, name: str
) -> None:
    body, code = BODIES[name]
    assert_refused(proxy.post(path, data=body), caplog, code=code)
    assert_next_works(proxy, sim)


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty messages": ({"messages": []}, "messages"),
    "messages null": ({"messages": None}, "messages"),
    "messages a string": ({"messages": "Hello"}, "messages"),
    "a message that is none": ({"messages": [TURN, "Hello"]}, "messages[1]"),
    "a message without role": ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
    "an unknown role": ({"messages": [{"role": "bot", "content": "a"}]}, "messages[0].role"),
    "content null": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content a number": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "a content part without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    "a content part without type": (
        {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
        "messages[0].content[0].type",
    ),
    "model null": ({"model": None}, "model"),
    "model a number": ({"model": 4}, "model"),
    "model empty": ({"model": ""}, "model"),
    "model 10 kB": ({"model": "m" * 10_000}, "model"),
    "model with a newline": ({"model": "sim\nstatus=200"}, "model"),
    "model with a NUL": ({"model": "sim\x00"}, "model"),
    "n 0": ({"n": 0}, "n"),
    "n -1": ({"n": -1}, "n"),
    "n a string": ({"n": "2"}, "n"),
    "n a fraction": ({"n": 1.5}, "n"),
    "n true": ({"n": True}, "n"),
    "stream a string": ({"stream": "true"}, "stream"),
    "temperature a string": ({"temperature": "hot"}, "temperature"),
    "top_p a list": ({"top_p": [1]}, "top_p"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "max_completion_tokens a string": ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    "seed a fraction": ({"seed": 1.5}, "seed"),
    "stop a number": ({"stop": 5}, "stop"),
    "stop with a number in it": ({"stop": ["a", 5]}, "stop[1]"),
    "logprobs a number": ({"logprobs": 1}, "logprobs"),
    "top_logprobs negative": ({"top_logprobs": -1}, "top_logprobs"),
    "logit_bias a list": ({"logit_bias": []}, "logit_bias"),
    "presence_penalty a string": ({"presence_penalty": "1"}, "presence_penalty"),
    "frequency_penalty a string": ({"frequency_penalty": "1"}, "frequency_penalty"),
    "response_format a string": ({"response_format": "json"}, "response_format"),
    "tools an object": ({"tools": {}}, "tools"),
    "tools of strings": ({"tools": ["f"]}, "tools[0]"),
    "tool_choice a number": ({"tool_choice": 1}, "tool_choice"),
    "user a number": ({"user": 7}, "user"),
    "metadata a string": ({"metadata": "x"}, "metadata"),
    "extra_body a list": ({"extra_body": []}, "extra_body"),
    "stream_options without stream": (
        {"stream_options": {"include_usage": True}},
        "stream_options",
    ),
    "stream_options a string": ({"stream": True, "stream_options": "usage"}, "stream_options"),
    "budget 0": ({"optillm_budget": {"max_calls": 0}}, "optillm_budget.max_calls"),
    "budget negative": ({"optillm_budget": {"max_seconds": -1}}, "optillm_budget.max_seconds"),
    "budget a string": ({"optillm_budget": "5"}, "optillm_budget"),
    "budget of strings": (
        {"optillm_budget": {"max_total_tokens": "5"}},
        "optillm_budget.max_total_tokens",
    ),
    "a budget that does not exist": ({"optillm_budget": {"max": 5}}, "optillm_budget.max"),
    "optillm_approach a number": ({"optillm_approach": 5}, "optillm_approach"),
    "optillm_base_model empty": ({"optillm_base_model": ""}, "optillm_base_model"),
    "optillm_base_model with a newline": ({"optillm_base_model": "a\nb"}, "optillm_base_model"),
    "metadata.base_model with a newline": (
        {"metadata": {"base_model": "a\nb"}},
        "metadata.base_model",
    ),
    "options a list": ({"optillm_options": [3]}, "optillm_options"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_member_that_is_wrong(
    proxy: InProcess, sim: SimulatorThread, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    members, param = REQUESTS[name]
    message = assert_refused(proxy.post(json=chat_body() | members), caplog, param=param)
    assert param in message
    assert_next_works(proxy, sim)


@pytest.mark.parametrize("stream", [False, True])
def test_no_messages_at_all(
    proxy: InProcess, sim: SimulatorThread, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """A request for a stream is refused with a status like any other."""
    response = proxy.post(json={"model": "sim", "stream": stream})
    assert "required" in assert_refused(response, caplog, param="messages")
    assert_next_works(proxy, sim)


SELECTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "ten thousand choices": ({"n": 10_000}, "too_many_choices", "n"),
    "nine choices": ({"n": 9}, "too_many_choices", "n"),
    "nine choices over branches": ({"n": 3, "model": "bon|moa|re2-sim"}, "too_many_choices", "n"),
    "an unknown approach in a group": ({"model": "moa&nope-sim"}, "unknown_approach", "model"),
    "an unknown branch": ({"model": "nope|moa-sim"}, "unknown_approach", "model"),
    "an approach not built": ({"model": "memory-sim"}, "approach_not_built", "model"),
    "an empty base name": ({"model": "moa-"}, "invalid_selector", "model"),
    "an empty member": ({"model": "moa&-sim"}, "invalid_selector", "model"),
    "an unknown approach in the body": (
        {"optillm_approach": "nope"},
        "unknown_approach",
        "optillm_approach",
    ),
    "an approach not built in the body": (
        {"optillm_approach": "re2&memory"},
        "approach_not_built",
        "optillm_approach",
    ),
    "an unknown option": (
        {"model": "bon-sim", "optillm_options": {"sample": 3}},
        "unknown_option",
        "optillm_options.sample",
    ),
    "an option of no approach here": (
        {"model": "sim", "optillm_options": {"samples": 3}},
        "unknown_option",
        "optillm_options.samples",
    ),
    "an unknown option of a named approach": (
        {"model": "bon-sim", "optillm_options": {"bon.depth": 3}},
        "unknown_option",
        "optillm_options.depth",
    ),
    "an option out of range": (
        {"model": "bon-sim", "optillm_options": {"samples": 65}},
        "invalid_option",
        "optillm_options.samples",
    ),
    "an option of a wrong type": (
        {"model": "moa-sim", "optillm_options": {"critique": "no"}},
        "invalid_option",
        "optillm_options.critique",
    ),
    "a peer's option out of range": (
        {"model": "bon-sim", "best_of_n": 0},
        "invalid_option",
        "optillm_options.samples",
    ),
    "a budget below the least": (
        {"model": "moa-sim", "optillm_budget": {"max_calls": 2}},
        "budget_too_small",
        "optillm_budget.max_calls",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_that_cannot_be_run(
    proxy: InProcess,
    sim: SimulatorThread,
    caplog: pytest.LogCaptureFixture,
    name: str,
    stream: bool,
) -> None:
    members, code, param = SELECTIONS[name]
    response = proxy.post(json=chat_body() | members | {"stream": stream})
    assert_refused(response, caplog, code=code, param=param)
    assert_next_works(proxy, sim)


def test_an_option_out_of_range_names_slug_option_and_range(proxy: InProcess) -> None:
    response = proxy.ask("moa-sim", optillm_options={"moa.layers": 99})
    message = response.json["error"]["message"]
    assert "'layers'" in message
    assert "'moa'" in message
    assert "1 to 8" in message


def test_n_null_is_the_default(proxy: InProcess, sim: SimulatorThread) -> None:
    response = proxy.ask(n=None)
    assert response.status_code == 200
    assert len(response.json["choices"]) == 1
    assert sim.log.choices == 1


def test_a_mistyped_slug_is_asked_after(
    proxy: InProcess, sim: SimulatorThread, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a model's name, so the upstream has to say that there is none; never as a 404."""
    sim.behave(faults=(Fault(404, times=1),))
    response = proxy.ask("mao-sim")
    message = assert_refused(response, caplog, code="model_not_found", param="model")
    assert "Did you mean 'moa-sim'?" in message
    assert_next_works(proxy, sim, before=1)
