"""What was measured, beside what is promised: a table that is Markdown too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_HEADING = ("figure", "measured", "promise")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``values`` are the numbers behind it, units in their names."""

    name: str
    measured: str
    promise: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them lie below, by nearest rank; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def ms(seconds: float) -> str:
    """Milliseconds, to three digits or so."""
    value = 1000 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} ms"


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(figures: Sequence[Figure]) -> list[str]:
    """The lines of a Markdown table, aligned for reading as it is."""
    return aligned([_HEADING, *((f.name, f.measured, f.promise) for f in figures)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same of any rows, the heading first."""
    escaped = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [_row(row, widths) for row in escaped]
    lines.insert(1, _row(["-" * width for width in widths], widths))
    return lines


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"
