"""Whatever the upstream does wrong has its own answer, and the next request works."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import QUESTION, InProcess, MakeProxy, content_of, events, eventually, free_port
from driving import app_with, example

from optictl.simulator import Fault, SimulatorThread
from optictl.simulator.faults import ALWAYS, JSON_ONLY, STATUSES, STREAM_ONLY
from proxy.chat import Chat, Reply
from proxy.llm import LLM
from proxy.settings import Secret

KEY = "sk-nobody-may-see-this"
#: By this ending the simulator knows a stage that is not the answer.
CRITICAL = "Do not provide the final answer."
MODELS = ["sim", "bon-sim", "moa-sim", "self_consistency-sim"]
KINDS = sorted(STATUSES | ALWAYS | JSON_ONLY | STREAM_ONLY, key=str)
#: Not worth an error: the answer is there, only less of it or later.
HARMLESS = {"no_usage", "length", "slow_loris"}
#: The stream begins well, and only then goes wrong.
MIDWAY = {"malformed", "stream_cut", "stream_error", "stream_reset"}
HANGS = {"hang", "hang_after_headers"}
#: Status and code of a request all of whose calls fail. DESIGN §3.4.
ERRORS: dict[int | str, tuple[int, str]] = {
    400: (400, "simulated_400"),
    401: (502, "upstream_auth"),
    403: (502, "upstream_auth"),
    404: (400, "model_not_found"),
    408: (504, "upstream_timeout"),
    413: (413, "simulated_413"),
    422: (422, "simulated_422"),
    429: (429, "upstream_rate_limited"),
    500: (502, "upstream_error"),
    502: (502, "upstream_error"),
    503: (503, "upstream_overloaded"),
    "hang": (504, "upstream_timeout"),
    "hang_after_headers": (504, "upstream_timeout"),
    "reset": (502, "upstream_unreachable"),
    "truncated": (502, "upstream_unreachable"),
    "malformed": (502, "upstream_invalid_response"),
    "html": (502, "upstream_invalid_response"),
    "no_choices": (502, "upstream_invalid_response"),
    "null_content": (502, "upstream_empty_reply"),
}


@pytest.fixture
def faulty(
    make_proxy: MakeProxy, sim: SimulatorThread, request: pytest.FixtureRequest
) -> InProcess:
    """The app with a key of its own; where the fault is silence, it does not wait for long."""
    sim.behave(tokens=4, chunk_interval=0.0005)
    kind = request.node.callspec.params.get("kind") if hasattr(request.node, "callspec") else None
    return make_proxy(upstream_key=Secret(KEY), upstream_timeout=0.6 if kind in HANGS else 30.0)


def spoil(sim: SimulatorThread, kind: int | str, **limits: Any) -> None:
    # Where all calls fail, longer than any of them would wait for it.
    pause = 0.05 if "times" in limits else 30.0
    retry_after = pause if kind in (429, 503) else None
    sim.behave(faults=(Fault(kind, retry_after=retry_after, **limits),))


def assert_fails(response: Any, status: int, code: str) -> None:
    """The status, OpenAI's error object, and the header that survives a gateway."""
    assert (response.status_code, response.json["error"]["code"]) == (status, code)
    assert response.json["error"].keys() == {"message", "type", "param", "code"}
    assert response.json["error"]["message"]
    assert response.headers["x-optillm-error"] == code
    assert response.headers["x-request-id"]
    assert response.content_type == "application/json"
    assert response.headers.get("Retry-After") == ("30" if status in (429, 503) else None)
    assert KEY not in response.text
    assert KEY not in str(response.headers)


def assert_works(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(faults=())
    assert proxy.text("sim").endswith("\\boxed{391}.")
    assert eventually(lambda: sim.log.inflight == 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind != "null_content"])
def test_a_request_whose_calls_all_fail(
    faulty: InProcess, sim: SimulatorThread, kind: int | str, model: str
) -> None:
    spoil(sim, kind)
    assert_fails(faulty.ask(model), *ERRORS[kind])
    begins_well = model == "sim" and kind in MIDWAY | JSON_ONLY
    if not begins_well and (model == "sim" or kind not in HANGS):
        # Nothing has left yet, so that a stream's error still has its status.
        assert_fails(faulty.ask(model, stream=True), *ERRORS[kind])
    assert_works(faulty, sim)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", sorted(HARMLESS))
def test_what_is_no_failure(faulty: InProcess, sim: SimulatorThread, kind: str, model: str) -> None:
    spoil(sim, kind)
    choice = faulty.ask(model).json["choices"][0]
    chunks = faulty.stream(model)
    assert choice["message"]["content"]
    assert content_of(chunks)
    assert chunks[-1] == "[DONE]"
    finish = [c["finish_reason"] for e in chunks[:-1] for c in e["choices"]][-1]
    expected = "length" if kind == "length" else "stop"
    assert (choice["finish_reason"], finish) == (expected, expected)
    assert_works(faulty, sim)


@pytest.mark.parametrize("model", MODELS[1:])
def test_candidates_that_say_nothing(faulty: InProcess, sim: SimulatorThread, model: str) -> None:
    spoil(sim, "null_content")
    assert_fails(faulty.ask(model), *ERRORS["null_content"])
    # The first reply, empty as it was, has opened the stream.
    chunks = faulty.stream(model)
    assert chunks[-1]["error"]["code"] == "upstream_empty_reply"
    assert content_of(chunks[:-1]) == ""
    assert_works(faulty, sim)


def test_none_passes_an_empty_answer_on_as_it_is(faulty: InProcess, sim: SimulatorThread) -> None:
    spoil(sim, "null_content")
    choice = faulty.ask("sim").json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "stop")
    chunks = faulty.stream("sim")
    assert (content_of(chunks), chunks[-1]) == ("", "[DONE]")


@pytest.mark.parametrize(("model", "role"), [("sim", "solver"), ("moa-sim", "aggregator")])
@pytest.mark.parametrize("kind", sorted(MIDWAY))
def test_a_stream_that_breaks_off_ends_with_an_error_and_no_done(
    faulty: InProcess, sim: SimulatorThread, kind: str, model: str, role: str
) -> None:
    sim.behave(chunk_interval=0.02, chunk_chars=8)
    spoil(sim, kind, role=role)
    if role == "aggregator" and kind in STREAM_ONLY:
        assert faulty.ask(model).status_code == 200
    chunks = faulty.stream(model)
    assert content_of(chunks[:-1])
    assert chunks[-1].keys() == {"error"}
    assert chunks[-1]["error"].keys() == {"message", "type", "param", "code"}
    assert chunks[-1]["error"]["type"] == "upstream_error"
    assert "[DONE]" not in chunks
    assert KEY not in str(chunks)
    assert_works(faulty, sim)


@pytest.mark.parametrize("model", MODELS[1:])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in STREAM_ONLY])
def test_one_sample_of_several_may_fail(
    faulty: InProcess, sim: SimulatorThread, kind: int | str, model: str
) -> None:
    for stream in (False,) if kind in HANGS else (False, True):
        sim.reset()
        spoil(sim, kind, times=1)
        response = faulty.ask(model, stream=stream)
        assert response.status_code == 200, response.text
        if stream:
            chunks = events(response.get_data(as_text=True))
            assert chunks[-1] == "[DONE]"
            said = content_of(chunks)
        else:
            said = response.json["choices"][0]["message"]["content"]
        assert said.endswith("\\boxed{391}.")
    assert_works(faulty, sim)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind not in MIDWAY])
def test_a_last_stage_that_fails_leaves_the_best_of_what_there_is(
    faulty: InProcess, sim: SimulatorThread, kind: int | str, stream: bool
) -> None:
    if stream and kind in JSON_ONLY:
        kind = "reset"
    spoil(sim, kind, role="aggregator")
    if stream:
        chunks = faulty.stream("moa-sim")
        said, optillm = content_of(chunks), chunks[-2]["optillm"]
        assert chunks[-1] == "[DONE]"
    else:
        answer = faulty.ask("moa-sim").json
        said, optillm = answer["choices"][0]["message"]["content"], answer["optillm"]
    proposals = {call.content for call in sim.log.records if call.role == "solver"}
    assert said in proposals
    assert optillm["skipped"] == [f"last stage: {ERRORS[kind][1]}"]


def test_a_key_that_the_upstream_refuses(make_proxy: MakeProxy) -> None:
    with SimulatorThread(api_key="the right one") as strict:
        proxy = make_proxy(base_url=strict.url, upstream_key=Secret(KEY))
        for model in MODELS:
            response = proxy.ask(model)
            assert_fails(response, 502, "upstream_auth")
            assert "--upstream-api-key-file" in response.json["error"]["message"]
        good = make_proxy(base_url=strict.url, upstream_key=Secret("the right one"))
        assert good.text("bon-sim")


def test_the_clients_own_key_never_goes_upstream(make_proxy: MakeProxy) -> None:
    with SimulatorThread(api_key="the client's") as strict:
        proxy = make_proxy(base_url=strict.url)
        body = {"model": "sim", "messages": [{"role": "user", "content": QUESTION}]}
        response = proxy.post(json=body, headers={"Authorization": "Bearer the client's"})
        assert_fails(response, 502, "upstream_auth")


def test_an_upstream_that_is_not_there(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(base_url=f"http://127.0.0.1:{free_port()}/v1")
    for model in MODELS:
        for stream in (False, True):
            assert_fails(proxy.ask(model, stream=stream), 502, "upstream_unreachable")


def test_a_failed_branch_is_left_out(make_proxy: MakeProxy, sim: SimulatorThread) -> None:
    @example
    async def unlucky(chat: Chat, llm: LLM) -> Reply:
        return await llm.ask((*chat.messages, {"role": "user", "content": CRITICAL}))

    spoil(sim, 500, role="stage")
    proxy = app_with(make_proxy, unlucky)
    answer = proxy.ask("none|example|none-sim").json
    assert [choice["index"] for choice in answer["choices"]] == [0, 2]
    assert answer["optillm"]["skipped"] == ["choice 1 (example): upstream_error"]
    chunks = proxy.stream("none|example|none-sim")
    finished = [c["index"] for e in chunks[:-1] for c in e["choices"] if c["finish_reason"]]
    assert sorted(finished) == [0, 2]
    assert chunks[-2]["optillm"]["skipped"] == ["choice 1 (example): upstream_error"]


@pytest.mark.parametrize("stream", [False, True])
def test_when_all_branches_fail_it_is_the_first_ones_error(
    faulty: InProcess, sim: SimulatorThread, stream: bool
) -> None:
    spoil(sim, 429)
    assert_fails(faulty.ask("none|bon|moa-sim", stream=stream), 429, "upstream_rate_limited")
