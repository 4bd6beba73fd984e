"""The other endpoints: legacy completions, models, request ids, health probes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import (
    QUESTION,
    InProcess,
    MakeProxy,
    chat_body,
    content_of,
    events,
)

from optictl.simulator import Behaviour, SimulatorThread


def seen(sim: SimulatorThread) -> dict[str, Any]:
    """The body of the only call that reached the model."""
    (call,) = sim.log.records
    assert call.body is not None
    return call.body


def shown(chunks: list[Any]) -> list[Any]:
    """The choices of each chunk that has some."""
    return [c["choices"] for c in chunks if c != "[DONE]" and c.get("choices")]


class TestLegacyCompletions:
    @pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
    @pytest.mark.parametrize("model", ["sim", "re2-sim"])
    def test_are_chats_of_one_turn(
        self, proxy: InProcess, sim: SimulatorThread, path: str, model: str
    ) -> None:
        body = {"model": model, "prompt": QUESTION, "max_tokens": 200}
        answer = proxy.post(path, json=body).json
        assert answer["object"] == "text_completion"
        (choice,) = answer["choices"]
        assert "391" in choice["text"]
        assert choice["finish_reason"] == "stop"
        assert "message" not in choice
        assert answer["usage"]["total_tokens"] > 0
        assert answer["optillm"]["calls"] == 1
        (turn,) = seen(sim)["messages"]
        assert turn["role"] == "user"
        assert QUESTION in turn["content"]
        assert "prompt" not in seen(sim)
        assert seen(sim)["max_tokens"] == 200

    @pytest.mark.parametrize("model", ["sim", "re2-sim"])
    def test_are_streamed(self, proxy: InProcess, model: str) -> None:
        body = {"model": model, "prompt": QUESTION, "stream": True}
        body |= {"stream_options": {"include_usage": True}}
        response = proxy.post("/v1/completions", json=body)
        *chunks, done = events(response.get_data(as_text=True))
        assert done == "[DONE]"
        assert {chunk["object"] for chunk in chunks} == {"text_completion"}
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert "391" in "".join(choice["text"] for choice in choices)
        assert not [choice for choice in choices if "delta" in choice]
        assert choices[-1]["finish_reason"] == "stop"
        assert chunks[-1]["usage"]["total_tokens"] > 0

    def test_give_n_choices(self, proxy: InProcess) -> None:
        body = {"model": "sim", "prompt": [QUESTION], "n": 2}
        choices = proxy.post("/v1/completions", json=body).json["choices"]
        assert [choice["index"] for choice in choices] == [0, 1]
        assert all("391" in choice["text"] for choice in choices)


class TestRequestIds:
    @pytest.mark.parametrize("given", ["abc-123", "req 1", "x" * 128])
    def test_of_the_client_are_kept(self, proxy: InProcess, given: str) -> None:
        for stream in (False, True):
            headers = {"x-request-id": given}
            response = proxy.post(json=chat_body(stream=stream), headers=headers)
            assert response.headers["x-request-id"] == given

    @pytest.mark.parametrize("given", [None, "", "x" * 129, "ümläut", "a\tb"])
    def test_are_made_where_there_is_no_sound_one(
        self, proxy: InProcess, given: str | None
    ) -> None:
        environ = {} if given is None else {"HTTP_X_REQUEST_ID": given}
        ids = {
            proxy.post(json=chat_body(), environ_overrides=environ).headers["x-request-id"]
            for _ in range(2)
        }
        assert len(ids) == 2
        assert all(made.startswith("req_") for made in ids)

    @pytest.mark.parametrize("path", ["/health", "/health/ready", "/v1/models", "/models/sim"])
    def test_are_on_everything(self, proxy: InProcess, path: str) -> None:
        assert proxy.http.get(path).headers["x-request-id"]


class TestModels:
    @pytest.fixture
    def proxy(self, make_proxy: MakeProxy) -> Iterator[InProcess]:
        names = ["sim", "org/model:7b", "a/b/c-d", "moa-x"]
        with SimulatorThread(Behaviour(), models=names) as upstream:
            yield make_proxy(base_url=upstream.url)

    @pytest.mark.parametrize("path", ["/v1/models", "/models"])
    def test_are_the_upstream_s(self, proxy: InProcess, path: str) -> None:
        listing = proxy.http.get(path).json
        assert listing["object"] == "list"
        assert [m["id"] for m in listing["data"]] == ["sim", "org/model:7b", "a/b/c-d", "moa-x"]
        assert all(model["object"] == "model" for model in listing["data"])

    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("sim", "sim"),
            ("org/model:7b", "org/model:7b"),
            ("org%2Fmodel%3A7b", "org/model:7b"),
            ("a/b/c-d", "a/b/c-d"),
            ("moa-org%2Fmodel:7b", "moa-org/model:7b"),
            ("re2%26moa%7Cbon-a/b/c-d", "re2&moa|bon-a/b/c-d"),
            ("moa", "moa"),
            ("moa-x", "moa-x"),
            ("proxy-sim", "proxy-sim"),
        ],
    )
    @pytest.mark.parametrize("prefix", ["/v1/models/", "/models/"])
    def test_are_found_by_any_name_that_can_be_asked(
        self, proxy: InProcess, prefix: str, path: str, model: str
    ) -> None:
        response = proxy.http.get(prefix + path)
        assert response.status_code == 200
        assert response.json["id"] == model
        assert response.json["object"] == "model"

    @pytest.mark.parametrize(
        ("model", "code"),
        [
            ("nothing", "model_not_found"),
            ("moa-nothing", "model_not_found"),
            ("memory-sim", "approach_not_built"),
            ("moa&nope-sim", "unknown_approach"),
            ("moa-", "invalid_selector"),
        ],
    )
    def test_that_cannot_be_asked_are_404(self, proxy: InProcess, model: str, code: str) -> None:
        response = proxy.http.get(f"/v1/models/{model}")
        assert response.status_code == 404
        assert response.json["error"]["code"] == response.headers["x-optillm-error"] == code

    def test_are_the_last_good_list_while_the_upstream_is_down(self, make_proxy: MakeProxy) -> None:
        with SimulatorThread(Behaviour(), models=["sim", "other"]) as upstream:
            proxy = make_proxy(base_url=upstream.url)
            before = proxy.http.get("/v1/models").json
        assert proxy.http.get("/v1/models").json == before
        assert proxy.http.get("/v1/models/other").status_code == 200


class TestHealthProbes:
    """Gateways probe a handle by calling it: that must never cost a model's time."""

    def test_are_answered_here(self, proxy: InProcess, sim: SimulatorThread) -> None:
        response = proxy.ask("optictl-health", "hi", max_tokens=1, metadata={"x": 1})
        assert response.status_code == 200
        answer = response.json
        assert answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["model"] == "optictl-health"
        assert type(answer["usage"]["completion_tokens_details"]["reasoning_tokens"]) is int
        assert response.headers["x-request-id"]
        assert sim.log.calls == 0

    def test_are_answered_in_streams_too(self, proxy: InProcess, sim: SimulatorThread) -> None:
        response = proxy.ask("optictl-health", "hi", stream=True)
        *chunks, done = events(response.get_data(as_text=True))
        assert done == "[DONE]"
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert content_of(chunks)
        assert response.headers["x-request-id"]
        assert sim.log.calls == 0

    def test_are_answered_while_the_upstream_is_down(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(base_url="http://127.0.0.1:9/v1")
        assert proxy.ask("optictl-health").status_code == 200

    def test_of_completions_as_well(self, proxy: InProcess, sim: SimulatorThread) -> None:
        body = {"model": "optictl-health", "prompt": "hi"}
        assert proxy.post("/v1/completions", json=body).json["choices"][0]["text"]
        assert sim.log.calls == 0
