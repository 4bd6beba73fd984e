"""What a provider was found not to do, model by model: learned once from its own refusals.

`Capabilities` remembers; what a refusal means is read in `proxy.upstream.wording`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.errors import ChoicesRefused, UpstreamError, UpstreamRejected
from proxy.upstream.port import Call, Json
from proxy.upstream.wording import refused_members, refused_role

#: What clients may be told of: the members that a feature stands for.
_LOGPROBS = ("logprobs", "top_logprobs")
#: One limit by two names, of which a provider may know either.
_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_INSTRUCTORS = ("system", "developer")
#: Never taken for a setting of ours that can be left out.
_ESSENTIAL = frozenset({"model", "messages"})
#: Models that are remembered; a provider that answers to any name could be asked for endless ones.
_MODELS = 1000


@dataclass(frozen=True, slots=True)
class Adapted:
    """A body that can be sent, and what the client should know of the difference."""

    body: Json
    notes: tuple[str, ...] = ()


class Capabilities:
    """What one provider does not do. Without I/O, and for one loop.

    A feature is the name of a member (``n``, ``stream``, ``logprobs``, ...), or ``system`` or
    ``developer`` for the role.
    """

    def __init__(self) -> None:
        self._refused: dict[str, set[str]] = {}

    def refuses(self, model: str, feature: str) -> bool:
        """Whether ``model``, by the provider's name, is known not to do ``feature``."""
        return feature in self._refused.get(model, ())

    def adapt(self, call: Call, body: Json) -> Adapted:
        """``body`` with what its model is known to refuse left out, renamed or rewritten.

        A member that the client has set is kept, so that the provider's words reach it, but for:
        ``logprobs`` (left out, and noted), ``max_tokens`` and its twin (renamed), system messages
        (moved into the first user turn, and noted). Raises `ChoicesRefused` where the client has
        asked for several choices, and the model gives one.
        """
        refused = self._refused.get(body["model"])
        return Adapted(body) if refused is None else _adapted(call, body, refused)

    def learn(self, call: Call, body: Json, error: UpstreamError) -> bool:
        """Whether ``error`` refuses something of ``body``, as it was sent, that `adapt` mends.

        Calls that were under way together are all refused, and may all go again; one that was
        sent without what is refused may not.
        """
        if not isinstance(error, UpstreamRejected) or error.http_status() not in (400, 422):
            return False
        known = self._refused.get(body["model"], set())
        found = set(refused_members(dict(_features(call, body, known)), body, error))
        role = refused_role(body, error)
        if role is not None:
            found.add(role)
        if not found:
            return False
        if body["model"] not in self._refused and len(self._refused) >= _MODELS:
            del self._refused[next(iter(self._refused))]
        self._refused.setdefault(body["model"], set()).update(found)
        return True


def _features(call: Call, body: Json, known: set[str]) -> Iterator[tuple[str, bool]]:
    """What of ``body`` can be done without, and whether no client would miss it."""
    if body.get("stream"):
        yield "stream", True
    if "stream_options" in body:
        yield "stream_options", True
    if "n" in body:
        yield "n", "n" in call.ours
    if any(name in body for name in _LOGPROBS):
        yield "logprobs", call.ours.issuperset(name for name in _LOGPROBS if name in body)
    for name, twin in _TWINS.items():
        if name in body and twin not in known:
            yield name, name in call.ours
    for name in call.ours - _ESSENTIAL - _TWINS.keys() - {"n", *_LOGPROBS}:
        if name in body:
            yield name, True


def _adapted(call: Call, body: Json, refused: set[str]) -> Adapted:
    adapted = dict(body)
    notes: list[str] = []
    if "stream" in refused and adapted.pop("stream", None) is not None:
        adapted.pop("stream_options", None)
    if "stream_options" in refused:
        adapted.pop("stream_options", None)
    if "n" in refused and (adapted.pop("n", None) or 1) > 1 and "n" not in call.ours:
        raise ChoicesRefused(
            f"The provider gives one choice a call for model '{body['model']}', not n={body['n']}."
        )
    if "logprobs" in refused:
        left_out = [name for name in _LOGPROBS if adapted.pop(name, None)]
        if missed := [name for name in left_out if name not in call.ours]:
            notes.append(f"{', '.join(missed)}: this provider does not support it")
    for name, twin in _TWINS.items():
        if name in refused and name in adapted:
            adapted.setdefault(twin, adapted.pop(name))
    if "system" in refused and _has(adapted["messages"], _INSTRUCTORS):
        adapted["messages"] = _without_system(adapted["messages"])
        if "messages" not in call.ours:
            notes.append(
                "system messages: this provider does not support them; "
                "they were put in front of the first user message"
            )
    elif "developer" in refused and _has(adapted["messages"], ("developer",)):
        adapted["messages"] = [_as_system(message) for message in adapted["messages"]]
    for name in refused & call.ours - _ESSENTIAL - _TWINS.keys():
        adapted.pop(name, None)
    return Adapted(adapted, tuple(notes))


def _has(messages: Iterable[Mapping[str, Any]], roles: tuple[str, ...]) -> bool:
    return any(message.get("role") in roles for message in messages)


def _as_system(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _without_system(messages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same instructions as the beginning of the first user turn."""
    instructions: list[Any] = []
    rest: list[Mapping[str, Any]] = []
    for message in messages:
        if message.get("role") in _INSTRUCTORS:
            instructions.append(message.get("content"))
        else:
            rest.append(message)
    at = next((i for i, message in enumerate(rest) if message.get("role") == "user"), None)
    if at is None:
        return [{"role": "user", "content": _joined(instructions)}, *rest]
    rest[at] = {**rest[at], "content": _joined([*instructions, rest[at].get("content")])}
    return rest


def _joined(contents: Iterable[Any]) -> Any:
    """Contents with a blank line between them: a string, or parts where any of them is parts."""
    said = [content for content in contents if content]
    if all(isinstance(content, str) for content in said):
        return "\n\n".join(said)
    parts: list[Any] = []
    for content in said:
        # Not a part of its own: some servers refuse a text of nothing but white space.
        if parts and isinstance(parts[-1].get("text"), str):
            parts[-1] = {**parts[-1], "text": f"{parts[-1]['text']}\n\n"}
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts
