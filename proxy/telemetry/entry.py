"""A request as its trace tells it, in JSON types."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.chat import Message, text_of
from proxy.run.ledger import CallRecord, Decision, Ledger
from proxy.run.plan import Plan
from proxy.telemetry.record import Record
from proxy.telemetry.times import utc

#: Bytes of one entry, and characters of its prompt, its answer, and each candidate.
_LARGEST = 512 * 1024
_PROMPT = 64 * 1024
_CANDIDATE = 16 * 1024
#: Characters of a name.
_NAME = 256
#: Calls and decisions of an entry that would be larger.
_CALLS = 1_000
_DECISIONS = 100
#: Calls end a little after what ended them.
_SLACK = 0.005
#: More tokens than any call has; an upstream may say what it likes.
_INTEGER = 2**40


def request_of(record: Record) -> dict[str, Any]:
    """What is known of the request itself; cheap, and holds on to none of its text."""
    plan = record.plan
    return {
        "id": record.id,
        "path": record.path,
        "began": utc(record.began, 3),
        "seconds": round(record.seconds, 4),
        "status": record.status,
        "code": _short(record.code) or None,
        "stream": record.stream,
        "tenant": record.tenant,
        "trace_id": record.trace.trace_id,
        "span_id": record.trace.span_id,
        "parent_id": record.trace.parent_id or None,
        "approach": _short(record.approach),
        "model": _short(record.model),
        "handle": "-" if plan is None else _short(_handle(plan)),
        "ensemble": None if plan is None else plan.ensemble,
        "task": None if plan is None else plan.task,
        "members_missing": list(record.missing),
    }


@dataclass(frozen=True, slots=True)
class Texts:
    """What was asked, and the answer as JSON where it was no stream."""

    messages: Sequence[Message]
    body: bytes | None


def entry_of(request: Mapping[str, Any], ledger: Ledger, texts: Texts | None) -> dict[str, Any]:
    """The whole entry, with prompt, candidates and answer where there are ``texts``.

    The ledger may still be written to: an entry tells of what it holds at this moment.
    """
    made = [call for call in list(ledger.calls) if call.sent is not None]
    entry = {
        **request,
        # An answer that was shared has been waited for by somebody else.
        "rounds": max((call.round for call in made if not call.shared), default=0),
        "first": _first(made),
        "prompt_tokens": sum(_whole(call.prompt_tokens) for call in made),
        "completion_tokens": sum(_whole(call.completion_tokens) for call in made),
        "exhausted": ledger.exhausted,
        "skipped": [_short(reason) for reason in list(ledger.skipped)],
        "calls": _calls(made),
        "decisions": [_decision(each, texts is not None) for each in list(ledger.decisions)],
        "cut": False,
    }
    if texts is not None:
        entry["prompt"] = _prompt(texts.messages)
        entry["answer"] = _answer(texts.body, ledger)[:_PROMPT]
    return entry


def dumped(entry: dict[str, Any]) -> bytes:
    """``entry`` as one line of JSON without its newline; cut where it would be too large."""
    line = orjson.dumps(entry)
    if len(line) <= _LARGEST:
        return line
    entry = {**entry, "cut": True, "prompt": None, "answer": None}
    entry["decisions"] = [_without_text(each) for each in entry["decisions"][-_DECISIONS:]]
    line = orjson.dumps(entry)
    if len(line) <= _LARGEST:
        return line
    entry |= {"skipped": [], "calls": entry["calls"][-_CALLS:], "decisions": []}
    return orjson.dumps(entry)


def _handle(plan: Plan) -> str:
    """What the client has asked for, as far as we know it by a name."""
    if plan.handle is not None or plan.approach == "none":
        return plan.handle or plan.base
    return f"{plan.approach}-{plan.base}"


def _calls(made: Sequence[CallRecord]) -> list[dict[str, Any]]:
    """The calls as a tree: ``after`` is the index of the call that each has waited for."""
    after: list[int | None] = [None] * len(made)
    if len(made) > 1:
        ends = sorted((call.end, index) for index, call in enumerate(made) if call.end is not None)
        after = [_waited_for(made, call, ends) for call in made]
    path = _critical(made, after)
    return [
        {
            **call.as_json(),
            "model": _short(call.model),
            "outcome": _short(call.outcome),
            "prompt_tokens": _whole(call.prompt_tokens),
            "completion_tokens": _whole(call.completion_tokens),
            "after": before,
            "critical": index in path,
        }
        for index, (call, before) in enumerate(zip(made, after, strict=True))
    ]


def _waited_for(
    made: Sequence[CallRecord], call: CallRecord, ends: Sequence[tuple[float, int]]
) -> int | None:
    """The last of the calls that had to end before ``call`` could begin."""
    for _, index in reversed(ends[: bisect(ends, (call.start + _SLACK, len(made)))]):
        other = made[index]
        before = other.round < call.round or (other.repeated and other.start < call.start)
        if before and other.outcome != "cancelled":
            return index
    return None


def _first(made: Sequence[CallRecord]) -> float | None:
    """Seconds to the first byte of any answer."""
    seen = [call.first for call in made if call.first is not None]
    return round(min(seen), 4) if seen else None


def _critical(made: Sequence[CallRecord], after: Sequence[int | None]) -> set[int]:
    """The chain of calls that the answer waited for, from its last one back."""
    answered = [index for index, call in enumerate(made) if call.outcome == "ok"]
    index = max(answered, key=lambda each: made[each].end or 0.0, default=None)
    path: set[int] = set()
    while index is not None:
        path.add(index)
        index = after[index]
    return path


def _decision(decision: Decision, text: bool) -> dict[str, Any]:
    candidates: list[dict[str, Any]] = []
    for each in decision.candidates:
        said = each.said
        model = None if isinstance(said, str) else _short(said.model)
        candidate = {"model": model, "score": each.score}
        if text:
            candidate["text"] = (said if isinstance(said, str) else said.rendered)[:_CANDIDATE]
        candidates.append(candidate)
    return {
        "approach": decision.approach,
        "kind": decision.kind,
        "at": round(decision.at, 4),
        "why": decision.why,
        "winner": decision.winner,
        "candidates": candidates,
    }


def _without_text(decision: Mapping[str, Any]) -> dict[str, Any]:
    told = [{**each, "text": None} for each in decision["candidates"]]
    return {**decision, "candidates": told}


def _prompt(messages: Sequence[Message]) -> str:
    """The end of the conversation."""
    texts = (f"{each.get('role')}: {text_of(each.get('content'))}" for each in messages)
    return "\n\n".join(text[-_PROMPT:] for text in texts)[-_PROMPT:]


def _answer(body: bytes | None, ledger: Ledger) -> str:
    """What the client was told; its choices one below the other."""
    if body is None:
        return "\n\n".join(choice.text for _, choice in sorted(ledger.streamed.items()))
    choices = orjson.loads(body).get("choices") or ()
    said = (choice.get("message", choice) for choice in choices)
    return "\n\n".join(text_of(each.get("content", each.get("text"))) for each in said)


def _short(text: str) -> str:
    """A name or a code, which may be of a client's or an upstream's invention."""
    return text[:_NAME]


def _whole(number: int) -> int:
    return min(number, _INTEGER)
