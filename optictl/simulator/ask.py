"""A chat completion request, read as far as a simulated model needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


class RefusedError(Exception):
    """The request is refused with an OpenAI error object."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Ask:
    """The request's own words; `user` is the text of the last user message, `tool_result` that of a
    tool message after it, `draft` that of the last assistant message."""

    body: dict[str, Any]
    model: str
    messages: list[dict[str, Any]]
    user: str
    system: str
    draft: str
    tool_result: str | None
    prompt_chars: int
    stream: bool
    n: int
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    json: bool
    tool: dict[str, Any] | None
    logprobs: bool
    top_logprobs: int
    include_usage: bool


def read_ask(raw: bytes) -> Ask:
    """Parse a request body.

    Raises:
        RefusedError: it is no JSON object with a model and a list of messages.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RefusedError(f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedError("The body is not a JSON object.")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise RefusedError("You must provide a model parameter.", param="model")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise RefusedError("'messages' is not a list of messages.", param="messages")
    if not messages:
        raise RefusedError("'messages' is empty.", param="messages")
    n = body.get("n")
    if n is not None and (not isinstance(n, int) or not 1 <= n <= 128):
        raise RefusedError("'n' is not an integer in 1..128.", param="n")
    top = body.get("top_logprobs")
    if top is not None and (not isinstance(top, int) or not 0 <= top <= 20):
        raise RefusedError("'top_logprobs' is not an integer in 0..20.", param="top_logprobs")

    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    if max_tokens is not None and not isinstance(max_tokens, int):
        raise RefusedError("'max_tokens' is not an integer.", param="max_tokens")

    last: dict[str, str] = {}
    tool_result = None
    chars = 0
    for message in messages:
        role, text = str(message.get("role")), text_of(message)
        chars += len(text)
        last[role] = text
        if role == "tool":
            tool_result = text
        elif role == "user" and "<candidate" not in text:
            # One that shows candidates asks about what stands before it.
            tool_result = None
    stop = body.get("stop")
    form, options = body.get("response_format"), body.get("stream_options")
    return Ask(
        body=body,
        model=model,
        messages=messages,
        user=last.get("user", ""),
        system=last.get("system", last.get("developer", "")),
        draft=last.get("assistant", ""),
        tool_result=tool_result,
        prompt_chars=chars,
        stream=body.get("stream") is True,
        n=n or 1,
        seed=seed if isinstance(seed := body.get("seed"), int) else None,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        json=isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"),
        tool=_chosen_tool(body),
        logprobs=body.get("logprobs") is True,
        top_logprobs=top or 0,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def text_of(message: dict[str, Any]) -> str:
    """The text of a message; of content parts, those that are text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        str(part.get("text", ""))
        for part in content
        if isinstance(part, dict) and part.get("type") in ("text", "input_text")
    )


def _chosen_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """The function the model is to call: the one asked for, else the first."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not isinstance(tools, list) or choice == "none":
        return None
    functions = [tool.get("function") for tool in tools if tool.get("type") == "function"]
    if not all(isinstance(function, dict) for function in functions):
        raise RefusedError("Every tool of type 'function' needs a 'function'.", param="tools")
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        functions = [function for function in functions if function.get("name") == name]
    return functions[0] if functions else None
