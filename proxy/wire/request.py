"""A request's body to a `ChatRequest`: checked here once, never rebuilt.

Known members are checked for type and range; members we do not know go upstream as they came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from proxy.errors import BadRequest
from proxy.settings import Limits

Endpoint = Literal["chat", "text"]

#: Members that speak to us; none of them goes upstream.
_OWN = frozenset({
    "optillm_approach", "optillm_base_model", "optillm_budget", "optillm_options",
    "optillm_progress", "optillm_trace", "proxy_wrap", "wrap", "wrapped_approach",
})  # fmt: skip
#: What the pool is to serve, by the names that OptiLLM knows.
_WRAPPED = ("proxy_wrap", "wrapped_approach", "wrap")
#: Members that the proxy sets itself on each upstream call.
_SET_BY_US = frozenset({"model", "messages", "stream", "stream_options", "n"})
#: What an operator sets on a gateway's handle. A LiteLLM older than the option sends it along here
#: (1.74.3 does), and a strict backend would refuse it.
_OF_A_HANDLE = frozenset({"keepalive_seconds"})
#: Where a client was told to put its credentials (LangChain does): its key is for us, not for the
#: upstream, and LiteLLM would follow an address.
_CREDENTIALS = frozenset({
    "api_base", "api_key", "base_url", "openai_api_base", "openai_api_key", "openai_organization",
})  # fmt: skip
_NOT_PASSED_ON = _OWN | _SET_BY_US | _OF_A_HANDLE | _CREDENTIALS
_KEY = re.compile(rb'"\s*:')
#: The encoder on our way upstream refuses more than 254 levels.
_DEEPEST = 200
_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a client asked for. ``params`` are the sampling and shape parameters, vendors' too."""

    messages: list[dict[str, Any]]
    params: dict[str, Any]
    model: str | None = None
    endpoint: Endpoint = "chat"
    stream: bool = False
    stream_options: Mapping[str, Any] = field(default_factory=dict)
    choices: int | None = None
    approach: str | None = None
    #: Whether it asks for the providers of proxy_config.yaml.
    pooled: bool = False
    base_model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    trace: bool = False
    #: None where the request does not say.
    progress: bool | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options.get("include_usage"))


_Item = TypeVar("_Item")
#: Validation stops at the first wrong item: an error for each of millions would fill the memory.
_List = Annotated[list[_Item], Field(fail_fast=True)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Part(_Checked):
    type: str
    text: str | None = None


class _Message(_Checked):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | _List[_Part] | None = None
    tool_calls: _List[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _StreamOptions(_Checked):
    include_usage: bool | None = None


class _Budget(_Checked):
    max_calls: Annotated[int, Field(ge=1)] | None = None
    max_total_tokens: Annotated[int, Field(ge=1)] | None = None
    max_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


_Name = Annotated[str, StringConstraints(min_length=1)]
_Tokens = Annotated[int, Field(ge=1)]


class _Body(_Checked):
    messages: Annotated[_List[_Message], Field(min_length=1)]
    model: _Name = ""
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    seed: int | None = None
    stop: str | _List[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    logit_bias: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    tools: _List[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: _List[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    optillm_approach: Annotated[str, Field(max_length=_LONGEST_NAME)] | None = None
    optillm_base_model: _Name | None = None
    optillm_budget: _Budget | None = None
    optillm_options: dict[str, Any] | None = None
    optillm_progress: bool | None = None
    optillm_trace: bool | None = None
    proxy_wrap: str | None = None
    wrapped_approach: str | None = None
    wrap: str | None = None


def parse_object(body: bytes) -> dict[str, Any]:
    """``body`` as a JSON object whose members are each named once; raises `BadRequest`."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is no JSON: {error}.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    # A parser keeps the last of two equal names; another one on the way may keep the first. Each
    # name is followed by a colon, so the cheap count can only be too high, never too low.
    if len(_KEY.findall(body)) != _count_names(parsed):
        _refuse_duplicates(body)
    return parsed


def parse_chat(body: Mapping[str, Any], *, endpoint: Endpoint = "chat") -> ChatRequest:
    """Check a chat completion request; raises `BadRequest` naming the member that is wrong."""
    members = _unnested(body)
    _check(members)
    messages: list[dict[str, Any]] = members["messages"]
    for index, message in enumerate(messages):
        _check_content(message, f"messages[{index}]")
    budget = members.get("optillm_budget") or {}
    for name in budget.keys() - _Budget.model_fields.keys():
        raise BadRequest(
            f"'optillm_budget.{name}' is no limit; there are {', '.join(_Budget.model_fields)}.",
            param=f"optillm_budget.{name}",
        )
    stream = bool(members.get("stream"))
    stream_options = members.get("stream_options") or {}
    if stream_options and not stream:
        raise BadRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    tagged = (members.get("metadata") or {}).get("base_model")
    tagged = tagged if isinstance(tagged, str) and tagged else None
    _check_name(members.get("model"), "model")
    _check_name(members.get("optillm_base_model"), "optillm_base_model")
    _check_name(tagged, "metadata.base_model")
    approach = members.get("optillm_approach")
    pooled = approach == "proxy"
    if approach in (None, "proxy"):
        wrapped = next(filter(None, map(members.get, _WRAPPED)), None)
        pooled |= wrapped is not None
        approach = wrapped or approach
    return ChatRequest(
        model=members.get("model"),
        messages=messages,
        params={k: v for k, v in members.items() if k not in _NOT_PASSED_ON},
        endpoint=endpoint,
        stream=stream,
        stream_options=stream_options,
        choices=members.get("n"),
        approach=approach or None,
        pooled=pooled,
        base_model=members.get("optillm_base_model") or tagged,
        options=members.get("optillm_options") or {},
        limits=Limits(**budget),
        trace=bool(members.get("optillm_trace")),
        progress=members.get("optillm_progress"),
    )


def parse_completion(body: Mapping[str, Any]) -> ChatRequest:
    """A legacy completion request as a chat of one user turn."""
    members = dict(body)
    prompt = members.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise BadRequest("'prompt' must be one string.", param="prompt")
    if members.get("best_of") == members.get("n"):
        # As many are drawn as are wanted, so nothing is to be chosen.
        members.pop("best_of", None)
    for name, neutral in _UNSUPPORTED.items():
        if members.pop(name, neutral) not in (neutral, None):
            raise BadRequest(
                f"'{name}' is not supported on /v1/completions; use /v1/chat/completions.",
                param=name,
            )
    members["messages"] = [{"role": "user", "content": prompt}]
    return parse_chat(members, endpoint="text")


#: Members of the legacy endpoint that a chat upstream cannot honour, with their neutral values.
_UNSUPPORTED: Mapping[str, Any] = {"best_of": 1, "echo": False, "logprobs": None, "suffix": None}


def _unnested(body: Mapping[str, Any]) -> dict[str, Any]:
    """``extra_body`` as SDKs mean it: its members stand beside the others."""
    members = dict(body)
    nested = members.pop("extra_body", None)
    if nested is None:
        return members
    if not isinstance(nested, dict):
        raise BadRequest("'extra_body' must be an object.", param="extra_body")
    return {**nested, **members}


def _check(members: Mapping[str, Any]) -> None:
    try:
        _Body.model_validate(members)
    except ValidationError as error:
        # Of a union's members the one that got furthest is the one that was meant.
        first = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
        path = _path(first["loc"], members, missing=first["type"] == "missing")
        said = str(first["msg"])
        if first["type"] == "missing":
            said = "is required"
        elif first["type"] == "model_type":
            said = "must be an object"
        elif first["type"].endswith("_type"):
            said = f"has the wrong type: {said[0].lower()}{said[1:]}"
        else:
            said = f"is invalid: {said[0].lower()}{said[1:]}"
        raise BadRequest(f"'{path}' {said}.", param=path) from None


def _path(location: tuple[int | str, ...], members: Any, *, missing: bool) -> str:
    """``messages[0].content``: pydantic's location without the names of union members."""
    path, value = "", members
    for depth, step in enumerate(location, start=1):
        if isinstance(step, int) and isinstance(value, list):
            path += f"[{step}]"
            value = value[step]
        elif isinstance(value, dict) and (step in value or (missing and depth == len(location))):
            path += f".{step}" if path else str(step)
            value = value.get(step)
    return path


#: What an assistant's turn may hold in place of text.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")


def _check_content(message: Mapping[str, Any], path: str) -> None:
    content = message.get("content")
    said_otherwise = any(message.get(name) for name in _INSTEAD_OF_CONTENT)
    if content is None and not (message["role"] == "assistant" and said_otherwise):
        raise BadRequest(f"'{path}.content' must be a string or a list.", param=f"{path}.content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            if part["type"] == "text" and not isinstance(part.get("text"), str):
                where = f"{path}.content[{index}].text"
                raise BadRequest(f"'{where}' is required in a text part.", param=where)


def _check_name(name: str | None, param: str) -> None:
    if name is None:
        return
    if len(name) > _LONGEST_NAME:
        raise BadRequest(f"'{param}' is longer than {_LONGEST_NAME} characters.", param=param)
    if not name.isprintable():
        raise BadRequest(f"'{param}' holds a control character.", param=param)


def _count_names(parsed: Any) -> int:
    """How many members all objects have together; raises `BadRequest` for absurd nesting."""
    count, depth, level = 0, 0, [parsed]
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise BadRequest(f"The body is nested deeper than {_DEEPEST} levels.")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                count += len(value)
                below.extend(v for v in value.values() if isinstance(v, dict | list))
            else:
                below.extend(v for v in value if isinstance(v, dict | list))
        level = below
    return count


def _refuse_duplicates(body: bytes) -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadRequest(f"The member '{twice}' is given twice.", code="invalid_json")
        return members

    json.loads(body, object_pairs_hook=once)
