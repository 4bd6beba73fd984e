"""What a call sends: the client's parameters, the member's and the approach's, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.chat import Message
from proxy.ensembles import Member
from proxy.upstream.port import Json

#: What shapes the text that the client sees. Never sent on helper calls.
SHAPE_PARAMS = frozenset({
    "audio", "function_call", "functions", "logprobs", "max_completion_tokens", "max_tokens",
    "modalities", "parallel_tool_calls", "prediction", "response_format", "stop", "tool_choice",
    "tools", "top_logprobs", "verbosity",
})  # fmt: skip
#: Who asks, not what is asked: sent on every call.
_IDENTITY_PARAMS = frozenset({"user", "safety_identifier", "service_tier"})
#: For samples that are material for another stage, not the answer: none of the client's shape.
DRAFT: Mapping[str, Any] = dict.fromkeys(sorted(SHAPE_PARAMS))
#: Samples at the client's temperature 0 would all be the same one (arXiv:2203.11171 uses 0.5–0.7).
_DIVERSE = 0.7
#: Keeps the seeds of one choice's samples apart from the next choice's.
_SEED_STRIDE = 1000
#: Seeds are 64-bit integers: behind the largest come the smallest.
_SEEDS = 2**63


def helper(
    client: Mapping[str, Any],
    member: Member,
    messages: Sequence[Message],
    params: Mapping[str, Any],
) -> Json:
    """The body of a helper call: none of the client's parameters but identity."""
    identity = {name: client[name] for name in _IDENTITY_PARAMS if name in client}
    members = {n: v for n, v in member.params.items() if n not in SHAPE_PARAMS}
    return _body(client, messages, {**identity, **members}, params)


def candidate(
    client: Mapping[str, Any],
    member: Member,
    messages: Sequence[Message],
    params: Mapping[str, Any],
    nth: int | None,
    index: int,
) -> Json:
    """The body of a candidate, the ``nth`` of several, for the choice at ``index``."""
    inherited = over(client, member.params)
    if nth is not None and inherited.get("temperature") == 0:
        inherited["temperature"] = _DIVERSE
    offset = (nth or 0) + _SEED_STRIDE * index
    seed = inherited.get("seed")
    if isinstance(seed, int) and offset:
        seed += offset
        inherited["seed"] = seed if seed < _SEEDS else seed % _SEEDS
    return _body(client, messages, inherited, params)


def _body(
    client: Mapping[str, Any],
    messages: Sequence[Message],
    inherited: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Json:
    """Arguments win over what is inherited; an argument of None takes a member away."""
    body = over(inherited, given)
    if "max_completion_tokens" in client and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    return {"messages": list(messages), **{n: v for n, v in body.items() if v is not None}}


def over(inherited: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` before ``inherited``; a token limit has two names and displaces the other one."""
    merged = {**inherited, **given}
    if "max_completion_tokens" in given:
        merged.pop("max_tokens", None)
    elif "max_tokens" in given and "max_completion_tokens" in inherited:
        # Models that want the newer name refuse the older one.
        merged["max_completion_tokens"] = merged.pop("max_tokens")
    return merged
