"""A request's upstream calls as a small waterfall: lines of text. Pure.

    round  role      model  0 s                        0.85 s   ms   tokens  outcome
        1  proposer  sim    ━━━━━━━━━━━                        262  21 → 40  ok
        1  proposer  sim    ╌╌╌╌╌╌╌╌╌╌╌╌╌╌✗                    410        –  cancelled
        2  final     sim                   ━━━━━━━━━█████████  428  98 → 61  ok

A bar is drawn heavy while its call waits for the first byte and full while the answer streams in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

#: What bars are drawn with: waiting, streaming, a call that was cancelled or failed, its end.
WAITING, STREAMING, LOST, CROSS = "━", "█", "╌", "✗"
#: An answer that came in one read did not stream, however long that took; seconds.
_ONE_READ = 0.005
_NARROWEST_BAR = 12
_LONGEST_NAME = 20
_HEADING = ("round", "role", "model", "ms", "tokens", "outcome")


@dataclass(frozen=True, slots=True)
class Call:
    """One upstream call as the proxy tells it; times are seconds since the request began."""

    role: str
    model: str
    round: int
    choices: int
    start: float
    first: float | None
    end: float | None
    outcome: str
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Call:
        """A member of ``optillm.trace``. Raises `KeyError` for anything else."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What beginning and end of one call have in common.

        Two calls that share it began at the same moment in the same part: until they end there is
        nothing to tell them apart by.
        """
        return self.role, self.model, self.round, self.start


def waterfall(calls: Sequence[Call], *, width: int = 100, now: float = 0.0) -> list[str]:
    """A heading and one line a call, in the order in which they began; nothing without calls.

    ``width`` is that of a line in characters, exceeded only where no bar would be left. ``now``,
    in seconds since the request began, is how far the calls that still run have come.
    """
    if not calls:
        return []
    total = max(now, *(call.start if call.end is None else call.end for call in calls))
    table = [_HEADING, *(_cells(call, _end(call, total)) for call in calls)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    size = max(_NARROWEST_BAR, width - sum(widths) - 2 * len(widths))
    scale = f"0 s{f'{total:.2f} s':>{size - 3}}"
    bars = [scale, *(_bar(call, total, size) for call in calls)]
    return [_line(cells, widths, bar) for cells, bar in zip(table, bars, strict=True)]


def _cells(call: Call, end: float) -> tuple[str, ...]:
    told = call.prompt_tokens or call.completion_tokens
    return (
        str(call.round),
        call.role if call.choices == 1 else f"{call.role} ×{call.choices}",
        _cut(call.model),
        f"{1000 * (end - call.start):,.0f}",
        f"{call.prompt_tokens} → {call.completion_tokens}" if told else "–",
        call.outcome,
    )


def _line(cells: Sequence[str], widths: Sequence[int], bar: str) -> str:
    before = (f"{cells[0]:>{widths[0]}}", *map(_left, cells[1:3], widths[1:3]))
    behind = (f"{cells[3]:>{widths[3]}}", f"{cells[4]:>{widths[4]}}", cells[5])
    return "  ".join((*before, bar, *behind))


def _bar(call: Call, total: float, size: int) -> str:
    """``size`` characters over ``total`` seconds; each call shows, however short it was."""
    end = _end(call, total)

    def cell(seconds: float) -> int:
        return round(seconds / total * size) if total else 0

    left = min(size - 1, cell(call.start))
    right = min(size, max(left + 1, cell(end)))
    if call.outcome in ("ok", "running"):
        first = end if call.first is None or end - call.first < _ONE_READ else call.first
        turn = min(right, max(left, cell(first)))
        drawn = WAITING * (turn - left) + STREAMING * (right - turn)
    else:
        drawn = LOST * (right - left - 1) + CROSS
    return f"{' ' * left}{drawn:<{size - left}}"


def _end(call: Call, now: float) -> float:
    return now if call.end is None else call.end


def _left(text: str, width: int) -> str:
    return f"{text:<{width}}"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
