"""What the client sent reaches the model, and what the model said reaches the client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import openai
import pytest
from conftest import (
    QUESTION,
    InProcess,
    MakeProxy,
    StartService,
    chat_body,
    content_of,
    events,
    eventually,
)

from optictl.simulator import Behaviour, Fault, SimulatorThread

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "ask", "arguments": '{"q":1}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "ask",
        "description": "Ask somebody.",
        "parameters": {"type": "object", "properties": {"question": {"type": "string"}}},
        "strict": True,
    },
}
#: One of every kind of turn, each with something of a vendor's.
TURNS = [
    {"role": "system", "content": "Be brief.", "cache_control": {"type": "ephemeral"}},
    {"role": "developer", "content": [{"type": "text", "text": "In English."}]},
    {"role": "user", "content": [{"type": "text", "text": "See:"}, IMAGE], "name": "ada"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "391"}]},
    {"role": "assistant", "content": "User: Assistant: 391", "refusal": None},
    {"role": "user", "content": QUESTION + "\u2028\U0001f600 <think>"},
]
PARAMS: dict[str, Any] = {
    "n": 2,
    "temperature": 0.3,
    "top_p": 0.9,
    "seed": 7,
    "stop": ["END"],
    "max_tokens": 400,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"50256": -100},
    "presence_penalty": 0.1,
    "frequency_penalty": None,
    "response_format": {"type": "text"},
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "user": "ada",
    "metadata": {"trace": "1"},
    # Of vendors, and of nobody.
    "top_k": 40,
    "min_p": 0.05,
    "chat_template_kwargs": {"enable_thinking": False},
    "guided_json": {"type": "object", "deep": [{"a": None}]},
    "x_unknown": "kept",
}
OWN: dict[str, Any] = {
    "optillm_approach": "none",
    "optillm_base_model": "sim",
    "optillm_budget": {"max_calls": 9},
    "optillm_options": {},
    "optillm_trace": True,
}


def seen(sim: SimulatorThread) -> dict[str, Any]:
    """The body of the only call that reached the model."""
    (call,) = sim.log.records
    assert call.body is not None
    return call.body


def shown(chunks: list[Any]) -> list[Any]:
    """The choices of each chunk that has some."""
    return [c["choices"] for c in chunks if c != "[DONE]" and c.get("choices")]


def of_choice(chunks: list[Any], index: int) -> list[Any]:
    """What a stream says for one choice, piece by piece."""
    return [c for choices in shown(chunks) for c in choices if c["index"] == index]


class TestWhatTheModelSees:
    def test_every_member_unchanged(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sent = {"model": "sim", "messages": TURNS, **PARAMS}
        assert proxy.post(json=sent).status_code == 200
        received = seen(sim)
        assert received.keys() == sent.keys()
        for name, value in sent.items():
            assert received[name] == value, name

    def test_in_a_stream_too(self, proxy: InProcess, sim: SimulatorThread) -> None:
        options = {"include_usage": True, "include_obfuscation": False}
        sent = {"model": "sim", "messages": TURNS, **PARAMS, "stream": True}
        response = proxy.post(json={**sent, "stream_options": options})
        assert events(response.get_data(as_text=True))[-1] == "[DONE]"
        assert seen(sim) == {**sent, "stream_options": options}

    def test_usage_is_asked_for_in_every_stream(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.stream(stream_options={"include_obfuscation": False})
        asked = {"include_obfuscation": False, "include_usage": True}
        assert seen(sim)["stream_options"] == asked

    def test_tools_and_their_choice(self, proxy: InProcess, sim: SimulatorThread) -> None:
        choice = {"type": "function", "function": {"name": "ask"}}
        proxy.ask(tools=[TOOL], tool_choice=choice)
        assert seen(sim)["tools"] == [TOOL]
        assert seen(sim)["tool_choice"] == choice

    @pytest.mark.parametrize("nested", [False, True])
    def test_nothing_of_what_was_meant_for_us(
        self, proxy: InProcess, sim: SimulatorThread, nested: bool
    ) -> None:
        own = {**OWN, "proxy_wrap": "none", "wrap": "none", "wrapped_approach": "none"}
        members = {"extra_body": {**own, "top_k": 3}} if nested else {**own, "top_k": 3}
        assert proxy.ask(**members).status_code == 200
        assert seen(sim) == {**chat_body(), "top_k": 3}

    @pytest.mark.parametrize(
        ("model", "members", "base"),
        [
            ("none-sim-2", {}, "sim-2"),
            ("proxy-sim-2", {}, "sim-2"),
            ("org/sim:2.5-b", {}, "org/sim:2.5-b"),
            ("none", {}, "sim"),
            ("sim", {"optillm_base_model": "other"}, "other"),
            ("sim", {"metadata": {"base_model": "other"}}, "other"),
        ],
    )
    def test_the_base_model(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        model: str,
        members: dict[str, Any],
        base: str,
    ) -> None:
        response = proxy.ask(model, **members)
        assert seen(sim)["model"] == base
        assert response.json["model"] == base

    def test_without_a_model_the_server_s_own(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        turn = {"role": "user", "content": QUESTION}
        make_proxy(model="house").post(json={"messages": [turn]})
        assert seen(sim)["model"] == "house"

    def test_n_only_where_the_client_gave_one(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask(n=1)
        proxy.ask()
        assert [record.body and record.body.get("n") for record in sim.log.records] == [1, None]

    def test_a_tag_stays_where_tags_are_not_allowed(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        content = f"<optillm_approach>moa</optillm_approach>{QUESTION}"
        response = proxy.ask(content=content)
        assert response.json["optillm"]["approach"] == "none"
        assert seen(sim)["messages"] == [{"role": "user", "content": content}]

    def test_a_tag_is_obeyed_and_taken_out_where_tags_are_allowed(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = make_proxy(allow_prompt_tags=True)
        tag = "<optillm_approach>cot_reflection</optillm_approach>"
        response = proxy.ask(content=f"{tag}{QUESTION}")
        assert response.json["optillm"]["approach"] == "cot_reflection"
        assert "optillm_approach" not in json.dumps(seen(sim))
        sim.reset()
        assert proxy.ask("none-sim", f"{tag}{QUESTION}").json["optillm"]["approach"] == "none"
        assert seen(sim)["messages"] == [{"role": "user", "content": QUESTION}]

    def test_a_draft_even_behind_a_transform(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.text("cot_reflection&re2-sim")
        draft, final = (record.body for record in sim.log.records)
        assert draft is not None
        assert "<draft>" not in json.dumps(draft)
        assert final is not None
        (turn,) = final["messages"]
        assert turn["content"].count(QUESTION) == 2
        assert turn["content"].count("<draft>") == 1

    def test_tools_where_an_approach_cannot_treat_them(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        response = proxy.ask("moa-sim", tools=[TOOL])
        assert seen(sim) == {**chat_body(), "tools": [TOOL]}
        assert response.json["optillm"]["approach"] == "none"
        assert response.json["optillm"]["skipped"] == ["moa: the request carries tools"]
        assert response.headers["x-optillm-skipped"] == "moa: the request carries tools"

    def test_images_where_an_approach_cannot_treat_them(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        content = [{"type": "text", "text": QUESTION}, IMAGE]
        response = proxy.ask("re2-sim", content)
        assert seen(sim)["messages"] == [{"role": "user", "content": content}]
        assert response.json["optillm"]["skipped"] == ["re2: the request carries images or files"]


class TestJsonAnswers:
    def test_are_the_model_s_with_usage_and_our_object_added(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        body = chat_body(n=2, seed=7, logprobs=True, top_logprobs=2)
        direct = httpx.post(f"{sim.url}/chat/completions", json=body).json()
        ours = proxy.post(json=body).json
        assert ours["choices"] == direct["choices"]
        assert ours["usage"] == direct["usage"]
        assert ours.keys() == direct.keys() | {"optillm"}

    @pytest.mark.parametrize("model", ["sim", "re2-sim", "bon-sim", "moa-sim", "bon|re2-sim"])
    def test_have_everything_that_clients_index(
        self, proxy: InProcess, sim: SimulatorThread, model: str
    ) -> None:
        response = proxy.ask(model)
        answer = response.json
        assert answer["id"].startswith("chatcmpl")
        assert answer["object"] == "chat.completion"
        assert isinstance(answer["created"], int)
        assert answer["model"] == "sim"
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["message"]["role"] == "assistant"
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
        assert usage["completion_tokens"] == sum(c.completion_tokens for c in sim.log.records)
        assert type(usage["completion_tokens_details"]["reasoning_tokens"]) is int
        said = answer["optillm"]
        assert said["calls"] == sim.log.choices
        assert said["unreported_calls"] == 0
        assert said["exhausted"] is None
        assert response.headers["x-optillm-approach"] == said["approach"]
        assert response.headers["x-optillm-calls"] == str(said["calls"])
        assert response.headers["x-optillm-rounds"] == str(said["rounds"])

    @pytest.mark.parametrize("model", ["sim", "re2-sim"])
    def test_count_reasoning(self, proxy: InProcess, sim: SimulatorThread, model: str) -> None:
        sim.behave(reasoning="I think about it." * 4)
        answer = proxy.ask(model).json
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 17
        assert answer["choices"][0]["message"]["reasoning_content"] == "I think about it." * 4

    @pytest.mark.parametrize("model", ["sim", "re2-sim"])
    def test_have_usage_even_where_the_model_reports_none(
        self, proxy: InProcess, sim: SimulatorThread, model: str
    ) -> None:
        sim.behave(usage=False)
        answer = proxy.ask(model).json
        assert answer["usage"] == {
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "total_tokens": 0,
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        assert answer["optillm"]["unreported_calls"] == 1

    @pytest.mark.parametrize("model", ["sim", "re2-sim", "moa-sim"])
    def test_tell_the_real_finish_reason(
        self, proxy: InProcess, sim: SimulatorThread, model: str
    ) -> None:
        answer = proxy.ask(model, max_tokens=5).json
        assert answer["choices"][0]["finish_reason"] == "length"
        chunks = proxy.stream(model, max_tokens=5)
        assert shown(chunks)[-1][0]["finish_reason"] == "length"

    def test_quote_whatever_the_model_says(self, proxy: InProcess) -> None:
        """Chat templates and role names inside an answer are text."""
        turn = f"{QUESTION} Say User: and Assistant: too."
        assert proxy.text(content=turn).count("391") == 1


class TestStreams:
    def test_have_the_same_deltas_as_the_model_s_own(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(reasoning="Let me think.")
        body = chat_body(n=2, seed=7, stream=True)
        for members in ({}, {"logprobs": True}, {"tools": [TOOL]}):
            direct = events(httpx.post(f"{sim.url}/chat/completions", json=body | members).text)
            ours = proxy.post(json=body | members).get_data(as_text=True)
            for index in (0, 1):
                assert of_choice(events(ours), index) == of_choice(direct, index)
                assert len(of_choice(direct, index)) > 3

    def test_pass_chunk_by_chunk(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(chunk_interval=0.2)
        response = proxy.post(json=chat_body(stream=True), buffered=False)
        pieces = iter(response.response)
        first, second = next(pieces), next(pieces)
        assert sim.log.inflight == 1, "the head must not wait for the end"
        assert b'"role":"assistant"' in first
        assert content_of(events(second.decode()))
        response.close()
        assert eventually(lambda: sim.log.inflight == 0)

    @pytest.mark.parametrize(
        "model", ["sim", "re2-sim", "bon-sim", "moa-sim", "cot_reflection-sim"]
    )
    def test_open_with_the_role_and_end_with_our_object(self, proxy: InProcess, model: str) -> None:
        *chunks, done = proxy.stream(model)
        assert done == "[DONE]"
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
        assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "stop"
        assert [i for i, chunk in enumerate(chunks) if "optillm" in chunk] == [len(chunks) - 1]
        assert chunks[-1]["optillm"]["approach"] == model.removesuffix("-sim").replace(
            "sim", "none"
        )
        assert "391" in content_of(chunks)

    @pytest.mark.parametrize("model", ["sim", "re2-sim", "bon-sim"])
    def test_tell_usage_only_to_those_who_ask(self, proxy: InProcess, model: str) -> None:
        asked = proxy.stream(model, stream_options={"include_usage": True})
        assert asked[-1] == "[DONE]"
        assert asked[-2]["choices"] == []
        assert asked[-2]["usage"]["total_tokens"] > 0
        assert type(asked[-2]["usage"]["completion_tokens_details"]["reasoning_tokens"]) is int
        assert "optillm" in asked[-2]
        for options in (None, {"include_usage": False}):
            silent = proxy.stream(model, stream_options=options)
            assert not [
                chunk for chunk in silent[:-1] if chunk.get("usage") or not chunk["choices"]
            ]

    @pytest.mark.parametrize("model", ["sim", "bon-sim", "re2-sim"])
    def test_count_the_same_as_json(self, proxy: InProcess, model: str) -> None:
        answer = proxy.ask(model, seed=7).json
        *_, last, _ = proxy.stream(model, seed=7, stream_options={"include_usage": True})
        assert last["usage"] == answer["usage"]
        assert last["optillm"]["calls"] == answer["optillm"]["calls"]

    def test_work_where_the_model_refuses_stream_options(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(stream_options="refused")
        chunks = proxy.stream(stream_options={"include_usage": True})
        assert chunks[-1] == "[DONE]"
        assert "391" in content_of(chunks)
        assert chunks[-2]["usage"]["total_tokens"] == 0

    def test_of_several_choices_carry_all(self, proxy: InProcess) -> None:
        for model in ("sim", "re2-sim", "re2|none-sim"):
            n = 1 if "|" in model else 2
            chunks = proxy.stream(model, n=n)
            assert "391" in content_of(chunks, 0)
            assert "391" in content_of(chunks, 1)
            finished = [c for chunk in chunks[:-1] for c in chunk["choices"] if c["finish_reason"]]
            assert sorted(choice["index"] for choice in finished) == [0, 1]


class TestToolCalls:
    @pytest.mark.parametrize("model", ["sim", "re2-sim", "moa-sim", "none|none-sim"])
    def test_make_a_round_trip(self, proxy: InProcess, sim: SimulatorThread, model: str) -> None:
        answer = proxy.ask(model, tools=[TOOL]).json
        (choice, *_) = answer["choices"]
        assert choice["finish_reason"] == "tool_calls"
        message = choice["message"]
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "ask"
        turns = [{"role": "user", "content": QUESTION}, message]
        turns.append({"role": "tool", "tool_call_id": call["id"], "content": "It is 391."})
        sim.reset()
        after = proxy.post(json={"model": model, "messages": turns, "tools": [TOOL]}).json
        assert "It is 391." in after["choices"][0]["message"]["content"]
        body = sim.log.records[0].body
        assert body is not None
        assert body["messages"][-2:] == turns[-2:]

    @pytest.mark.parametrize("model", ["sim", "re2-sim", "moa-sim", "none|none-sim"])
    def test_are_streamed_in_fragments_that_make_the_same_call(
        self, proxy: InProcess, model: str
    ) -> None:
        whole = proxy.ask(model, tools=[TOOL], seed=7).json["choices"][0]["message"]
        chunks = proxy.stream(model, tools=[TOOL], seed=7)
        deltas = [c["delta"] for choices in shown(chunks) for c in choices if c["index"] == 0]
        fragments = [delta["tool_calls"][0] for delta in deltas if delta.get("tool_calls")]
        (call,) = whole["tool_calls"]
        assert len(fragments) > 1
        assert fragments[0]["id"] == call["id"]
        arguments = "".join(f["function"].get("arguments") or "" for f in fragments)
        assert arguments == call["function"]["arguments"]
        reasons = {c["finish_reason"] for choices in shown(chunks) for c in choices}
        assert reasons == {None, "tool_calls"}


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
            ("mcts-sim", "approach_not_built"),
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


class Scripted:
    """An upstream that says exactly what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.content_type = "application/json"
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(scripted.status)
                self.send_header("Content-Type", scripted.content_type)
                self.send_header("Content-Length", str(len(scripted.body)))
                self.end_headers()
                self.wfile.write(scripted.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, answer: Any, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(answer).encode()

    def streams(self, *chunks: Any) -> None:
        self.content_type = "text/event-stream"
        parts = [*map(json.dumps, chunks), "[DONE]"]
        self.body = "".join(f"data: {part}\n\n" for part in parts).encode()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    upstream = Scripted()
    thread = Thread(target=upstream.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield upstream
    upstream.server.shutdown()
    upstream.server.server_close()
    thread.join()


def said(content: str | None, **members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"index": 0, "message": message, "finish_reason": "stop", **members}


class TestPeculiarUpstreams:
    def test_members_nobody_knows_come_through(
        self, make_proxy: MakeProxy, scripted: Scripted
    ) -> None:
        message = {"role": "assistant", "content": "a", "annotations": [{"x": 1}], "audio": None}
        answer = {
            "id": "abc",
            "object": "chat.completion",
            "created": 1,
            "model": "sim-2025-01-01",
            "system_fingerprint": "fp",
            "service_tier": "default",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "score": 0.5}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 0.25},
            "citations": ["https://example.org"],
        }
        scripted.says(answer)
        ours = make_proxy(base_url=scripted.url).ask().json
        usage = ours.pop("usage")
        assert usage == {
            **answer.pop("usage"),
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        ours.pop("optillm")
        assert ours == answer

    @pytest.mark.parametrize("details", [None, {}, {"reasoning_tokens": None, "audio_tokens": 0}])
    @pytest.mark.parametrize("model", ["sim", "re2-sim"])
    def test_reasoning_tokens_are_a_number_whatever_was_reported(
        self, make_proxy: MakeProxy, scripted: Scripted, model: str, details: Any
    ) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        scripted.says(
            {"choices": [said("a")], "usage": {**usage, "completion_tokens_details": details}}
        )
        answer = make_proxy(base_url=scripted.url).ask(model).json
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
        assert answer["usage"]["total_tokens"] == 3

    def test_an_answer_without_id_and_object_gets_them(
        self, make_proxy: MakeProxy, scripted: Scripted
    ) -> None:
        scripted.says({"choices": [said("a")]})
        answer = make_proxy(base_url=scripted.url).ask().json
        assert answer["id"]
        assert answer["object"] == "chat.completion"
        assert isinstance(answer["created"], int)
        assert answer["model"] == "sim"

    @pytest.mark.parametrize("code", ["two\r\nlines", "ungültig", "错误", "x" * 5])
    def test_an_error_code_that_no_header_can_carry_stays_in_the_body(
        self, make_proxy: MakeProxy, scripted: Scripted, code: str
    ) -> None:
        error = {"message": "No.", "type": "x", "param": "temperature", "code": code}
        scripted.says({"error": error}, status=400)
        response = make_proxy(base_url=scripted.url).ask()
        assert response.status_code == 400
        assert response.json["error"]["code"] == code
        assert response.json["error"]["param"] == "temperature"
        assert response.headers["x-optillm-error"].isascii()

    @pytest.mark.parametrize("model", ["sim", "re2-sim"])
    def test_a_stream_of_odd_chunks_comes_through(
        self, make_proxy: MakeProxy, scripted: Scripted, model: str
    ) -> None:
        scripted.streams(
            {"choices": [], "prompt_filter_results": [{"index": 0}]},
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"index": 0, "delta": {"content": "39"}, "vendor": 1}], "usage": None},
            {"choices": [{"index": 0, "delta": {"content": "1"}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        )
        proxy = make_proxy(base_url=scripted.url)
        *chunks, done = proxy.stream(model, stream_options={"include_usage": True})
        assert done == "[DONE]"
        assert content_of(chunks) == "391"
        assert shown(chunks)[-1][0]["finish_reason"] == "stop"
        assert chunks[-1]["usage"]["total_tokens"] == 3

    def test_a_stream_that_never_tells_the_role_gets_one(
        self, make_proxy: MakeProxy, scripted: Scripted
    ) -> None:
        scripted.streams(
            {"choices": [{"index": 0, "delta": {"content": "391"}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        )
        chunks = make_proxy(base_url=scripted.url).stream()
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert content_of(chunks) == "391"


def test_the_official_sdk_is_satisfied(start_service: StartService, sim: SimulatorThread) -> None:
    service = start_service("--optillm-api-key", "sk-right", "--model", "sim")
    turn: Any = {"role": "user", "content": QUESTION}
    base = f"{service.url}/v1"
    with openai.OpenAI(base_url=base, api_key="sk-right", max_retries=0, timeout=30) as client:
        chats = client.chat.completions
        answer = chats.create(model="bon-sim", messages=[turn])
        assert "391" in (answer.choices[0].message.content or "")
        assert answer.usage is not None
        assert answer.usage.total_tokens > 0
        assert answer._request_id
        assert answer.model_extra
        assert answer.model_extra["optillm"]["approach"] == "bon"

        own = {"optillm_approach": "re2", "optillm_options": {"trigger": False}}
        wrapped = chats.create(model="sim", messages=[turn], extra_body=own)
        assert wrapped.model_extra
        assert wrapped.model_extra["optillm"]["approach"] == "re2"

        pieces = []
        with chats.create(
            model="moa-sim", messages=[turn], stream=True, stream_options={"include_usage": True}
        ) as stream:
            for chunk in stream:
                pieces += [choice.delta.content or "" for choice in chunk.choices]
        assert "391" in "".join(pieces)
        assert chunk.usage is not None
        assert chunk.usage.total_tokens > 0

        with chats.stream(model="sim", messages=[turn], tools=[TOOL]) as followed:  # type: ignore[list-item]
            final = followed.get_final_completion().choices[0]
        assert final.finish_reason == "tool_calls"
        assert final.message.tool_calls
        called = final.message.tool_calls[0]
        result: Any = {"role": "tool", "tool_call_id": called.id, "content": "It is 391."}
        turns: Any = [turn, final.message.model_dump(exclude_none=True), result]
        after = chats.create(model="sim", messages=turns, tools=[TOOL])  # type: ignore[list-item]
        assert "It is 391." in (after.choices[0].message.content or "")

        several = chats.create(model="re2-sim", messages=[turn], n=3)
        assert [choice.index for choice in several.choices] == [0, 1, 2]

        legacy = client.completions.create(model="sim", prompt=QUESTION)
        assert "391" in legacy.choices[0].text
        assert [model.id for model in client.models.list()] == ["sim"]
        assert client.models.retrieve("moa-sim").id == "moa-sim"

        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nothing")
        with pytest.raises(openai.BadRequestError) as refused:
            chats.create(model="mcts-sim", messages=[turn])
        assert refused.value.code == "approach_not_built"
        assert refused.value.param == "model"
        sim.behave(faults=(Fault(429, times=1, retry_after=2),))
        with pytest.raises(openai.RateLimitError) as limited:
            chats.create(model="sim", messages=[turn])
        assert limited.value.response.headers["Retry-After"] == "2"
        sim.behave(faults=(Fault("hang"),))
        with pytest.raises(openai.APITimeoutError):
            chats.create(model="sim", messages=[turn], timeout=0.3)
        sim.behave(faults=())
        assert eventually(lambda: sim.log.inflight == 0)
        assert chats.create(model="sim", messages=[turn]).choices
    with (
        openai.OpenAI(base_url=base, api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="Invalid Authorization header"),
    ):
        stranger.models.list()
