"""What was used by day and handle: a small file that survives restarts and has a bound.

Workers append what each batch of requests has used; a reader adds it up. Where the file has grown,
the sums take the place of what was appended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from proxy.telemetry.lines import append, locked

#: Days and, of each day, handles that are kept apart.
_DAYS = 400
_HANDLES = 100
_OTHERS = "(others)"
_LONGEST_HANDLE = 128
#: Bytes below which a file is left as it is.
_SMALL = 2**20


@dataclass(slots=True)
class Used:
    """What requests of one handle have used on one day (UTC)."""

    day: str
    handle: str
    requests: int = 0
    #: Requests that got no answer.
    failed: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: How long upstream calls took, added up.
    model_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summed(rows: Iterable[Used]) -> list[Used]:
    """One row for each day and handle, in their order."""
    grouped: dict[tuple[str, str], list[Used]] = {}
    for row in rows:
        grouped.setdefault((row.day, row.handle), []).append(row)
    return [_sum(day, handle, grouped[day, handle]) for day, handle in sorted(grouped)]


def _sum(day: str, handle: str, rows: Sequence[Used]) -> Used:
    return Used(
        day,
        handle,
        requests=sum(row.requests for row in rows),
        failed=sum(row.failed for row in rows),
        calls=sum(row.calls for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        model_seconds=round(sum(row.model_seconds for row in rows), 3),
    )


def used(entry: Mapping[str, Any]) -> Used:
    """What the request of a trace has used."""
    failed = entry["status"] >= 400 or entry["code"] is not None
    row = Used(entry["began"][:10], "-", requests=1, failed=int(failed))
    for call in entry["calls"]:
        if call["outcome"] == "ok":
            # Where nobody has answered, the name may be of the client's invention.
            row.handle = entry["handle"][:_LONGEST_HANDLE]
        if not call["shared"]:
            row.calls += 1
            row.prompt_tokens += call["prompt_tokens"]
            row.completion_tokens += call["completion_tokens"]
            if call["end"] is not None:
                row.model_seconds += call["end"] - call["sent"]
    return row


class UsageFile:
    """The file. Every method raises `OSError`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._large = _SMALL

    def add(self, rows: Iterable[Used]) -> None:
        text = _lines(summed(rows))
        append(self.file, text)
        if self.file.stat().st_size > self._large:
            self._large = max(_SMALL, 2 * self._compact())

    def read(self) -> list[Used]:
        return summed(_rows(self.file.read_bytes())) if self.file.exists() else []

    def _compact(self) -> int:
        """Put the sums in the place of the file; their size in bytes."""
        with locked(self.file):
            text = _lines(_bounded(summed(_rows(self.file.read_bytes()))))
            beside = self.file.with_name(f"{self.file.name}.new")
            beside.write_bytes(text)
            beside.chmod(0o600)
            with beside.open("rb") as written:
                os.fsync(written.fileno())
            beside.replace(self.file)
        return len(text)


def _bounded(rows: list[Used]) -> list[Used]:
    """The last days, and of each the handles with most calls; the others as one."""
    kept: list[Used] = []
    for day in sorted({row.day for row in rows})[-_DAYS:]:
        of_day = [row for row in rows if row.day == day]
        of_day.sort(key=lambda row: row.calls, reverse=True)
        kept += of_day[:_HANDLES]
        kept += [replace(row, handle=_OTHERS) for row in of_day[_HANDLES:]]
    return summed(kept)


def _lines(rows: Iterable[Used]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _rows(text: bytes) -> Iterator[Used]:
    """What is no such row is passed over: half of a line, or the line of a later version."""
    for line in text.split(b"\n"):
        try:
            yield Used(**orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError):
            continue
