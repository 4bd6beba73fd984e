"""The envelope: what every response has, in JSON and in chunks, in both endpoints' shapes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.chat import Reply
from proxy.errors import UpstreamError
from proxy.wire.request import Endpoint
from proxy.wire.response import Envelope, error_event
from proxy.wire.sse import Decoder

SUMMARY = {"approach": "bon", "calls": 2}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chunks(written: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(payload) for payload in Decoder().feed(written)]


@pytest.fixture
def envelope() -> Envelope:
    return Envelope("chat", "base")


@pytest.fixture
def text_envelope() -> Envelope:
    return Envelope("text", "base")


class TestJson:
    def test_a_body_has_all_that_openai_s_has(self, envelope: Envelope) -> None:
        body = envelope.body([(0, Reply.of("Hi"))], USAGE, SUMMARY)
        assert body["id"].startswith("chatcmpl-")
        assert body["object"] == "chat.completion"
        assert isinstance(body["created"], int)
        assert body["model"] == "base"
        assert body["usage"] == USAGE
        assert body["optillm"] == SUMMARY
        message = {"role": "assistant", "content": "Hi"}
        assert body["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]

    def test_messages_finish_reasons_and_logprobs_are_the_replies_own(
        self, envelope: Envelope
    ) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL], "vendor": 1}
        called = Reply(message, finish_reason="tool_calls")
        cut = Reply({"role": "assistant", "content": "He"}, "length", logprobs={"content": []})
        body = envelope.body([(0, called), (3, cut)], USAGE, SUMMARY)
        first, second = body["choices"]
        assert first == {"index": 0, "message": message, "finish_reason": "tool_calls"}
        assert (second["index"], second["finish_reason"]) == (3, "length")
        assert second["logprobs"] == {"content": []}

    def test_a_legacy_body_has_text(self, text_envelope: Envelope) -> None:
        body = text_envelope.body([(1, Reply.of("Hi", finish_reason="length"))], USAGE, SUMMARY)
        assert body["id"].startswith("cmpl-")
        assert body["object"] == "text_completion"
        choice = {"index": 1, "text": "Hi", "logprobs": None, "finish_reason": "length"}
        assert body["choices"] == [choice]

    def test_a_forwarded_answer_keeps_its_members(self, envelope: Envelope) -> None:
        choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop", "vendor": 1}
        answer = {"id": "theirs", "created": 7, "model": "m-2025", "choices": [choice], "extra": 2}
        body = envelope.forwarded_body(answer, USAGE, SUMMARY)
        assert body == {**answer, "object": "chat.completion", "usage": USAGE, "optillm": SUMMARY}

    def test_a_forwarded_answer_gets_what_it_lacks(self, envelope: Envelope) -> None:
        body = envelope.forwarded_body({"choices": []}, USAGE, SUMMARY)
        assert (body["id"], body["model"]) == (envelope.id, "base")
        assert {"object", "created", "choices", "usage"} <= body.keys()

    def test_a_forwarded_answer_as_legacy_text(self, text_envelope: Envelope) -> None:
        message = {"role": "assistant", "content": "Hi"}
        choices = [{"message": message, "finish_reason": "stop"}, {"message": {"content": None}}]
        body = text_envelope.forwarded_body({"object": "x", "choices": choices}, USAGE, SUMMARY)
        assert body["object"] == "text_completion"
        assert [(c["index"], c["text"]) for c in body["choices"]] == [(0, "Hi"), (1, "")]
        assert [c["finish_reason"] for c in body["choices"]] == ["stop", None]
        assert all("message" not in choice for choice in body["choices"])


class TestChunks:
    def test_the_opening_chunk_gives_the_role(self, envelope: Envelope) -> None:
        (chunk,) = chunks(envelope.role(2))
        assert chunk["object"] == "chat.completion.chunk"
        delta = {"role": "assistant", "content": ""}
        assert chunk["choices"] == [{"index": 2, "delta": delta, "finish_reason": None}]

    def test_all_chunks_share_one_head(self, envelope: Envelope) -> None:
        written = envelope.role(0) + envelope.chunk(0, {"content": "a"})
        written += envelope.last([(0, "stop")], USAGE, SUMMARY)
        heads = {(c["id"], c["object"], c["created"], c["model"]) for c in chunks(written)}
        assert heads == {(envelope.id, "chat.completion.chunk", envelope.created, "base")}

    def test_logprobs_stand_beside_their_delta(self, envelope: Envelope) -> None:
        logprobs = {"content": [{"token": "a", "logprob": -0.1}]}
        (chunk,) = chunks(envelope.chunk(0, {"content": "a"}, logprobs))
        assert chunk["choices"][0]["logprobs"] == logprobs
        (plain,) = chunks(envelope.chunk(0, {"content": "a"}))
        assert "logprobs" not in plain["choices"][0]

    def test_our_object_stands_in_the_last_chunk_only(self, envelope: Envelope) -> None:
        written = chunks(envelope.last([(0, "stop"), (1, "length")], USAGE, SUMMARY))
        assert [c["choices"][0]["finish_reason"] for c in written[:2]] == ["stop", "length"]
        assert written[-1]["choices"] == []
        assert written[-1]["usage"] == USAGE
        assert [chunk.get("optillm") for chunk in written] == [None, None, SUMMARY]

    def test_without_usage_the_finish_chunk_is_the_last(self, envelope: Envelope) -> None:
        written = chunks(envelope.last([(0, "stop")], None, SUMMARY))
        assert len(written) == 1
        assert written[0]["optillm"] == SUMMARY
        assert "usage" not in written[0]

    def test_with_nothing_to_finish_there_is_still_a_chunk_to_stand_in(
        self, envelope: Envelope
    ) -> None:
        (chunk,) = chunks(envelope.last([], None, SUMMARY))
        assert chunk["choices"] == []
        assert chunk["optillm"] == SUMMARY

    def test_legacy_chunks_have_text(self, text_envelope: Envelope) -> None:
        written = text_envelope.role(0) + text_envelope.chunk(0, {"content": "a"})
        written += text_envelope.last([(0, "stop")], None, SUMMARY)
        parts = chunks(written)
        assert {part["object"] for part in parts} == {"text_completion"}
        assert [part["choices"][0]["text"] for part in parts] == ["", "a", ""]
        assert [part["choices"][0]["finish_reason"] for part in parts] == [None, None, "stop"]
        assert all("delta" not in part["choices"][0] for part in parts)

    def test_a_forwarded_chunk_is_unchanged(self, envelope: Envelope) -> None:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}
        chunk = {"id": "theirs", "choices": [{"index": 0, "delta": delta}], "vendor": [1]}
        assert chunks(envelope.forwarded(chunk)) == [chunk]

    def test_a_forwarded_chunk_as_legacy_text(self, text_envelope: Envelope) -> None:
        choice = {"index": 1, "delta": {"content": "a"}, "finish_reason": None}
        (chunk,) = chunks(text_envelope.forwarded({"id": "theirs", "choices": [choice]}))
        assert (chunk["id"], chunk["object"]) == ("theirs", "text_completion")
        (said,) = chunk["choices"]
        assert (said["index"], said["text"], said["finish_reason"]) == (1, "a", None)

    @pytest.mark.parametrize("endpoint", ["chat", "text"])
    def test_each_response_has_an_id_of_its_own(self, endpoint: Endpoint) -> None:
        assert len({Envelope(endpoint, "m").id for _ in range(20)}) == 20

    def test_an_error_in_a_stream_is_openai_s_object(self) -> None:
        (said,) = chunks(error_event(UpstreamError("It broke\noff.")))
        assert said == {
            "error": {
                "message": "It broke\noff.",
                "type": "upstream_error",
                "param": None,
                "code": "upstream_error",
            }
        }
