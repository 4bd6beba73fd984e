"""What the client sent reaches the model, and what the model said reaches the client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from conftest import (
    QUESTION,
    InProcess,
    MakeProxy,
    chat_body,
    content_of,
    events,
    eventually,
)

from optictl.simulator import SimulatorThread

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
        response = proxy.ask("rto-sim", tools=[TOOL])
        assert seen(sim) == {**chat_body(), "tools": [TOOL]}
        assert response.json["optillm"]["approach"] == "none"
        assert response.json["optillm"]["skipped"] == ["rto: the request carries tools"]
        assert response.headers["x-optillm-skipped"] == "rto: the request carries tools"

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
        # A vote that is over cancels calls, which may be seen only after the reset.
        bodies = [record.body or {} for record in sim.log.records]
        assert any(body["messages"][-2:] == turns[-2:] for body in bodies)

    @pytest.mark.parametrize("model", ["sim", "re2-sim", "rto-sim", "none|none-sim"])
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
