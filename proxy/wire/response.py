"""What leaves for the client: one envelope for each request, in JSON or in chunks."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from proxy.chat import Reply
from proxy.errors import ProxyError
from proxy.wire.request import Endpoint
from proxy.wire.sse import event

Json = dict[str, Any]


class Envelope:
    """Id, time and model that all parts of one response share, in the endpoint's own shape."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._text = endpoint == "text"
        # An id, not a secret: no system call for it.
        self.id = f"{'cmpl' if self._text else 'chatcmpl'}-{random.getrandbits(128):032x}"
        self.created = int(time.time())
        self.model = model

    def body(self, choices: Sequence[tuple[int, Reply]], usage: Json, optillm: Json) -> Json:
        """A complete response."""
        return {
            "id": self.id,
            "object": "text_completion" if self._text else "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(index, reply) for index, reply in choices],
            "usage": usage,
            "optillm": optillm,
        }

    def forwarded_body(self, answer: Json, usage: Json, optillm: Json) -> Json:
        """An upstream's response: its members stay, ours are added."""
        if self._text:
            choices = [
                {
                    "index": choice.get("index", position),
                    "text": choice["message"].get("content") or "",
                    "logprobs": None,
                    "finish_reason": choice.get("finish_reason"),
                }
                for position, choice in enumerate(answer["choices"])
            ]
            answer = {**answer, "object": "text_completion", "choices": choices}
        ours = {"id": self.id, "object": "chat.completion", "created": self.created}
        return {**ours, "model": self.model, **answer, "usage": usage, "optillm": optillm}

    def role(self, index: int) -> bytes:
        """The chunk that opens a choice."""
        return self.chunk(index, {"role": "assistant", "content": ""})

    def chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Any = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice: Json = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        return self._event({"choices": [choice]})

    def last(self, finish: Sequence[tuple[int, str]], usage: Json | None, optillm: Json) -> bytes:
        """The finish chunks, the usage chunk where it was asked for, and our own object.

        The object stands in the last chunk, behind which only ``[DONE]`` follows.
        """
        chunks: list[Json] = [
            {"choices": [{"index": index, "delta": {}, "finish_reason": reason}]}
            for index, reason in finish
        ]
        if usage is not None or not chunks:
            chunks.append({"choices": []} if usage is None else {"choices": [], "usage": usage})
        chunks[-1]["optillm"] = optillm
        return b"".join(map(self._event, chunks))

    def forwarded(self, chunk: Json) -> bytes:
        """An upstream's chunk: its members stay."""
        if not self._text:
            return event(orjson.dumps(chunk))
        choices = [self._text_choice(choice) for choice in chunk.get("choices") or ()]
        return event(orjson.dumps({**chunk, "object": "text_completion", "choices": choices}))

    def _event(self, members: Json) -> bytes:
        if self._text:
            members = {**members, "choices": [self._text_choice(c) for c in members["choices"]]}
        kind = "text_completion" if self._text else "chat.completion.chunk"
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return event(orjson.dumps({**head, **members}))

    def _choice(self, index: int, reply: Reply) -> Json:
        if self._text:
            choice: Json = {"index": index, "text": reply.text, "logprobs": None}
        else:
            choice = {"index": index, "message": reply.message}
            if reply.logprobs is not None:
                choice["logprobs"] = reply.logprobs
        return {**choice, "finish_reason": reply.finish_reason}

    @staticmethod
    def _text_choice(choice: Mapping[str, Any]) -> Json:
        delta = choice.get("delta") or {}
        return {
            "index": choice.get("index", 0),
            "text": delta.get("content") or "",
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
        }


def error_event(error: ProxyError) -> bytes:
    """An error in a stream that has begun; no ``[DONE]`` follows it."""
    return event(orjson.dumps(error.body()))
