"""A message put together from the deltas of a stream, equal to the one a JSON body carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.chat import Reply


class Assembler:
    """Collects one choice's deltas.

    Strings are concatenated, ``tool_calls`` merged by their ``index``, the older
    ``function_call`` likewise, anything else is kept as it last came.
    """

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._others: dict[str, Any] = {}
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self.finish_reason: str | None = None

    def add(self, choice: Mapping[str, Any]) -> None:
        """One chunk's choice: ``{"delta": ..., "finish_reason": ..., "logprobs": ...}``."""
        self.delta(choice.get("delta") or {})
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        logprobs = choice.get("logprobs")
        for name, entries in logprobs.items() if isinstance(logprobs, Mapping) else ():
            if isinstance(entries, list | None):
                self._logprobs.setdefault(name, []).extend(entries or ())

    def delta(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if name == "role":
                continue
            if name == "tool_calls" and isinstance(value, list):
                self._merge_tool_calls(value)
            elif name == "function_call" and isinstance(value, Mapping):
                _merge_function(self._others.setdefault(name, _nameless()), value)
            elif isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
            elif value is not None:
                self._others[name] = value

    @property
    def text(self) -> str:
        return "".join(self._texts.get("content", ()))

    @property
    def complete(self) -> bool:
        return self.finish_reason is not None

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message.update({name: "".join(pieces) for name, pieces in self._texts.items()})
        message.update(self._others)
        if self._tool_calls:
            message["tool_calls"] = [self._tool_calls[i] for i in sorted(self._tool_calls)]
        if self._tool_calls or "function_call" in self._others:
            # The opening chunk says "" where the JSON message says null.
            message["content"] = message["content"] or None
        return message

    def reply(self, *, model: str = "", usage: Any = None) -> Reply:
        return Reply(
            message=self.message(),
            finish_reason=self.finish_reason or "stop",
            model=model,
            usage=usage,
            logprobs={name: said or None for name, said in self._logprobs.items()} or None,
        )

    def _merge_tool_calls(self, fragments: list[Any]) -> None:
        for position, fragment in enumerate(fragments):
            if not isinstance(fragment, Mapping):
                continue
            index = fragment.get("index")
            call = self._tool_calls.setdefault(index if isinstance(index, int) else position, {})
            for name, value in fragment.items():
                if name == "function" and isinstance(value, Mapping):
                    _merge_function(call.setdefault(name, _nameless()), value)
                elif name != "index" and value not in (None, ""):
                    # Some servers repeat an empty id in every fragment.
                    call[name] = value


def _nameless() -> dict[str, Any]:
    return {"name": "", "arguments": ""}


def _merge_function(function: dict[str, Any], fragment: Mapping[str, Any]) -> None:
    for name, piece in fragment.items():
        if isinstance(piece, str):
            function[name] = function.get(name, "") + piece


def completion(
    choices: Mapping[int, Assembler], model: str, usage: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Choices by their index as the body of a response; one cut off has no ``finish_reason``."""
    return {
        "object": "chat.completion",
        "model": model,
        "choices": [
            {"index": index, "message": said.message(), "finish_reason": said.finish_reason}
            for index, said in sorted(choices.items())
        ],
        "usage": usage,
    }


def deltas_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """A complete message as a single delta: the reverse of assembling."""
    delta = {name: value for name, value in message.items() if name != "role" and value is not None}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return delta
