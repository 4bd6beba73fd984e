"""Tool calls as ballots: the same calls are the same answer, however they were written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def tool_call_key(tool_calls: Sequence[Mapping[str, Any]]) -> str:
    """The canonical key of an assistant's ``tool_calls``, in OpenAI's shape.

    Names and arguments count. The order of the calls and of an argument's keys, white space, 1
    against 1.0, and ids do not. Arguments that are no JSON count as their text.
    """
    return f"[{','.join(sorted(map(_call, tool_calls)))}]"


def canonical_json(value: object) -> str:
    """JSON of a decoded value: one text for what JSON does not tell apart."""
    return json.dumps(
        _whole_numbers(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def _call(call: Mapping[str, Any]) -> str:
    function = call.get("function") or call.get("custom") or {}
    arguments = function.get("arguments") or function.get("input") or {}
    try:
        decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
        return canonical_json([function.get("name"), decoded])
    except (ValueError, RecursionError):
        return canonical_json([function.get("name"), str(arguments).strip()])


def _whole_numbers(value: object) -> object:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {str(key): _whole_numbers(item) for key, item in value.items()}
        case list():
            return [_whole_numbers(item) for item in value]
    return value
