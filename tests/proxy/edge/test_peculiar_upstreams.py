"""Upstreams that answer as no document says, and a client that reads every word: the SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import openai
import pytest
from conftest import (
    QUESTION,
    MakeProxy,
    StartService,
    content_of,
    eventually,
)

from optictl.simulator import Fault, SimulatorThread

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


def shown(chunks: list[Any]) -> list[Any]:
    """The choices of each chunk that has some."""
    return [c["choices"] for c in chunks if c != "[DONE]" and c.get("choices")]


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
            chats.create(model="memory-sim", messages=[turn])
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


def test_a_json_answer_is_the_same_where_every_call_is_streamed(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    sim.behave(reasoning="hm")
    plain = make_proxy().ask(seed=7, logprobs=True).json
    streamed = make_proxy(upstream_cancel="stream").ask(seed=7, logprobs=True).json
    assert [call.stream for call in sim.log.records] == [False, True]
    assert streamed["choices"] == plain["choices"]
    assert streamed["usage"] == plain["usage"]
    assert streamed.keys() >= {"id", "object", "created", "model"}
