"""What the service remembers of a request, told to people. Pure.

A trace is the JSON object of ``GET /v1/traces/{request_id}``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optictl.waterfall import Call, waterfall

if TYPE_CHECKING:
    from rich.table import Table

Trace = Mapping[str, Any]

#: Stands in front of the calls that the answer has waited for.
CRITICAL = "▸ "
_GLIMPSE = 60

_CANCELLED = {
    "decided": "the answer was decided without them",
    "client_gone": "the client had gone",
    "deadline": "time had run out",
    "shutdown": "the service was told to stop",
    "overtaken": "another attempt was faster",
}
_EXHAUSTED = {
    "deadline": "Time ran out: the answer is the best that there was by then.",
    "shutdown": "The service was told to stop: the answer is the best that there was by then.",
}


def drawn(trace: Trace, *, width: int = 100) -> list[str]:
    """Its head line, and the waterfall of its calls with the critical path marked."""
    calls = trace["calls"]
    several = len({call["approach"] for call in calls}) > 1
    lines = waterfall([_call(call, several) for call in calls], width=width - len(CRITICAL))
    marks = ["", *(CRITICAL * call["critical"] for call in calls)]
    return [
        headline(trace),
        *(f"{mark:<{len(CRITICAL)}}{line}" for mark, line in zip(marks, lines, strict=False)),
    ]


def headline(trace: Trace) -> str:
    """One line: when, which, and what it took. Also of an entry of the list of traces."""
    made = trace["calls"] if isinstance(trace["calls"], int) else len(trace["calls"])
    tokens = trace["prompt_tokens"] + trace["completion_tokens"]
    ended = str(trace["status"]) if trace["code"] is None else f"{trace['status']} {trace['code']}"
    return (
        f"{_clock(trace['began'])}  {trace['id']}  {trace['handle']}  {ended} · "
        f"{_count(made, 'call')} · {_count(trace['rounds'], 'round')} · "
        f"{_count(tokens, 'token')} · {trace['seconds']:.2f} s"
    )


def reasons(trace: Trace) -> list[str]:
    """How the answer came about, in sentences, but for what was decided."""
    calls = trace["calls"]
    said = [_run(trace)]
    said += [f"Skipped: {reason}." for reason in trace["skipped"]]
    if trace["task"] is not None:
        said.append(f"It was recognised as a chore ({trace['task']}), on which one call is spent.")
    if trace["members_missing"]:
        said.append(f"Members missing: {', '.join(trace['members_missing'])}.")
    if trace["exhausted"] is not None:
        other = f"The budget ran out ({trace['exhausted']})."
        said.append(_EXHAUSTED.get(trace["exhausted"], other))
    for why, count in Counter(call["why"] for call in calls if call["why"]).items():
        said.append(f"{_count(count, 'call')} cancelled: {_CANCELLED.get(why, why)}.")
    failed = Counter(
        call["outcome"] for call in calls if call["outcome"] not in ("ok", "cancelled", "running")
    )
    said += [f"{_count(count, 'call')} failed: {code}." for code, count in failed.items()]
    if not trace["decisions"] and trace["exhausted"] is None and trace["code"] is None:
        said.append(_undecided(calls))
    return said


def decision(told: Mapping[str, Any]) -> str:
    """One decision as a sentence."""
    among = _count(len(told["candidates"]), "candidate")
    ending = "" if told["winner"] is None else f" Number {told['winner'] + 1} won."
    why = f": {told['why']}" if told["why"] else ""
    return f"{told['approach']} · {told['kind']} among {among}{why}.{ending}"


def candidates(told: Mapping[str, Any]) -> Table:
    """Those that a decision was made among, the winner marked."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("NUMBER", "SCORE"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MODEL", no_wrap=True)
    table.add_column("SAID", no_wrap=True)
    for place, each in enumerate(told["candidates"]):
        score = "–" if each["score"] is None else f"{each['score']:g}"
        mark = CRITICAL.strip() if place == told["winner"] else ""
        said = _glimpse(each.get("text") or "") or "–"
        table.add_row(mark, str(place + 1), score, each["model"] or "–", said)
    return table


def usage_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Usage by day and handle, and its sum."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("DAY", no_wrap=True)
    table.add_column("HANDLE", no_wrap=True)
    for name in ("REQUESTS", "FAILED", "CALLS", "PROMPT", "COMPLETION", "MODEL SECONDS"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in [*rows, {"day": "", "handle": "all", **total(rows)}]:
        numbers = (f"{row[name]:,}" for name in _COUNTS)
        table.add_row(row["day"], row["handle"], *numbers, f"{row['model_seconds']:,.1f}")
    return table


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All rows of usage together."""
    sums: dict[str, Any] = {name: sum(row[name] for row in rows) for name in _COUNTS}
    return {**sums, "model_seconds": round(sum(row["model_seconds"] for row in rows), 3)}


_COUNTS = ("requests", "failed", "calls", "prompt_tokens", "completion_tokens")


def _run(trace: Trace) -> str:
    seconds = f"{trace['seconds']:.2f} s"
    if trace["code"] is not None:
        return f"{trace['handle']} failed after {seconds}: {trace['code']}."
    made = f"{_count(len(trace['calls']), 'call')} in {_count(trace['rounds'], 'round')}"
    return f"{trace['approach']} answered for {trace['model']}: {made}, {seconds}."


def _undecided(calls: Sequence[Mapping[str, Any]]) -> str:
    answered = [call for call in calls if call["outcome"] == "ok"]
    if not answered:
        return "No model had to be asked."
    last = max(answered, key=lambda call: call["end"])
    if len(answered) == 1:
        return f"{last['model']} answered, and nothing had to be chosen."
    others = _count(len(answered) - 1, "earlier reply", "earlier replies")
    return f"{last['model']} ({last['role']}) wrote the answer behind {others}."


def _call(record: Mapping[str, Any], several: bool) -> Call:
    told = dict(record)
    if record["why"]:
        told["outcome"] = f"{record['outcome']}: {record['why']}"
    if several and record["approach"]:
        told["role"] = f"{record['approach']} {record['role']}"
    return Call.of(told)


def _count(number: int, thing: str, things: str = "") -> str:
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def _clock(began: str) -> str:
    return began[:19].replace("T", " ")


def _glimpse(text: str) -> str:
    line = " ".join(text.split())
    # An answer stands behind its reasons.
    return line if len(line) <= _GLIMPSE else f"…{line[1 - _GLIMPSE :]}"
