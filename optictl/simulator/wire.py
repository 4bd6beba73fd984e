"""Replies as OpenAI's JSON and as its event stream."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Any

import orjson

from optictl.simulator.ask import Ask, RefusedError
from optictl.simulator.replies import Reply, tokens

DONE = b"data: [DONE]\n\n"
_TOKEN = re.compile(r"\s*\S{1,8}|\s+")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class Answer:
    """All that a response is made of; `created` in Unix seconds."""

    id: str
    created: int
    ask: Ask
    replies: Sequence[Reply]
    usage: bool

    @property
    def completion_tokens(self) -> int:
        """Of all choices together."""
        return sum(reply.completion_tokens for reply in self.replies)


def completion(answer: Answer) -> dict[str, Any]:
    """The `chat.completion` object."""
    body: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.ask.model,
        "choices": [_choice(answer.ask, i, reply) for i, reply in enumerate(answer.replies)],
    }
    if answer.usage:
        body["usage"] = usage(answer)
    return body


def usage(answer: Answer) -> dict[str, Any]:
    """Token counts at four characters each."""
    prompt, written = tokens(answer.ask.prompt_chars), answer.completion_tokens
    thought = sum(tokens(len(r.reasoning)) for r in answer.replies if r.reasoning)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def events(answer: Answer, chunk_chars: int) -> Iterator[bytes]:
    """The event stream, ``[DONE]`` included; the choices take turns.

    A usage chunk comes if `answer.usage` says so.
    """
    head = {
        "id": answer.id,
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.ask.model,
    }
    streams = [_deltas(answer.ask, reply, chunk_chars) for reply in answer.replies]
    for turn in zip_longest(*streams):
        for index, delta in enumerate(turn):
            if delta is not None:
                yield event({**head, "choices": [{"index": index, **delta}]})
    if answer.usage:
        yield event({**head, "choices": [], "usage": usage(answer)})
    yield DONE


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def error(refused: RefusedError) -> bytes:
    """OpenAI's error object."""
    kind = _TYPES.get(refused.status)
    kind = kind or ("server_error" if refused.status >= 500 else "invalid_request_error")
    return orjson.dumps(
        {
            "error": {
                "message": refused.message,
                "type": kind,
                "param": refused.param,
                "code": refused.code,
            }
        }
    )


def _choice(ask: Ask, index: int, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_call:
        message["tool_calls"] = [_tool_call(reply)]
    logprobs = None
    if ask.logprobs and reply.content:
        logprobs = {"content": _logprobs(ask, reply)}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reply.finish_reason,
    }


def _deltas(ask: Ask, reply: Reply, chunk_chars: int) -> Iterator[dict[str, Any]]:
    yield {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    for piece in _slices(reply.reasoning, chunk_chars):
        yield {"delta": {"reasoning_content": piece}, "finish_reason": None}
    if call := reply.tool_call:
        first = _tool_call(reply)
        first["function"]["arguments"] = ""
        yield {"delta": {"tool_calls": [{"index": 0, **first}]}, "finish_reason": None}
        for piece in _slices(call.arguments, chunk_chars):
            part = {"index": 0, "function": {"arguments": piece}}
            yield {"delta": {"tool_calls": [part]}, "finish_reason": None}
    elif ask.logprobs:
        for entry in _logprobs(ask, reply):
            delta = {"content": entry["token"]}
            yield {"delta": delta, "logprobs": {"content": [entry]}, "finish_reason": None}
    else:
        for piece in _slices(reply.content or "", chunk_chars):
            yield {"delta": {"content": piece}, "finish_reason": None}
    yield {"delta": {}, "finish_reason": reply.finish_reason}


def _tool_call(reply: Reply) -> dict[str, Any]:
    call = reply.tool_call
    assert call is not None
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _slices(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _logprobs(ask: Ask, reply: Reply) -> list[dict[str, Any]]:
    """Exponential surprises: a right answer's tokens are three times as sure as a wrong one's.

    What a token leaves of the probability goes to the other candidates, less to each after the
    first: the surer a token, the less likely are they.
    """
    content = reply.content or ""
    random = Random(content)
    rate = 3.0 if reply.right is False else 9.0
    entries = []
    for token in _TOKEN.findall(content):
        sure = -random.expovariate(rate)
        top = [_logprob(token, sure)]
        rest = max(-30.0, math.log(-math.expm1(sure))) if sure else -30.0
        top += [_logprob(f" or{rank}", rest - 1.5 * rank) for rank in range(1, ask.top_logprobs)]
        entries.append({**_logprob(token, sure), "top_logprobs": top[: ask.top_logprobs]})
    return entries


def _logprob(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}
