"""Usage by day and handle: added up, bounded, and right after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.telemetry import usage
from proxy.telemetry.usage import UsageFile, Used, summed, used


def row(day: str, handle: str, calls: int = 1, **members: float) -> Used:
    return Used(day, handle, requests=1, calls=calls, **members)  # type: ignore[arg-type]


def call(outcome: str = "ok", **members: object) -> dict[str, object]:
    times = {"sent": 0.5, "end": 2.0, "shared": False}
    return {"outcome": outcome, "prompt_tokens": 3, "completion_tokens": 4, **times, **members}


def entry(*calls: dict[str, object], status: int = 200, code: str | None = None) -> Used:
    return used({
        "began": "2026-11-21T23:59:59.999+00:00",
        "handle": "moa-sim",
        "status": status,
        "code": code,
        "calls": list(calls),
    })  # fmt: skip


def test_a_request_uses_what_its_calls_used() -> None:
    found = entry(call(), call("cancelled", prompt_tokens=0, completion_tokens=0))
    assert found == Used("2026-11-21", "moa-sim", 1, 0, 2, 3, 4, 3.0)


def test_answers_that_others_have_paid_for_count_once() -> None:
    assert entry(call(), call(shared=True)).calls == 1


def test_a_call_that_never_ended_has_no_seconds() -> None:
    assert entry(call(), call("running", end=None)).model_seconds == 1.5


def test_names_that_nobody_answers_to_are_not_kept() -> None:
    found = entry(call("model_not_found"), status=400, code="model_not_found")
    assert (found.handle, found.failed) == ("-", 1)


def test_a_stream_that_broke_off_has_failed() -> None:
    assert entry(call(), code="upstream_error").failed == 1


def test_rows_of_one_day_and_handle_are_added_up(tmp_path: Path) -> None:
    file = UsageFile(tmp_path / "usage.jsonl")
    file.add([row("2026-11-21", "b"), row("2026-11-20", "a", 2), row("2026-11-21", "b", 3)])
    UsageFile(tmp_path / "usage.jsonl").add([row("2026-11-21", "b", 4, model_seconds=0.1)])
    assert [(each.day, each.handle, each.calls) for each in file.read()] == [
        ("2026-11-20", "a", 2),
        ("2026-11-21", "b", 8),
    ]
    assert file.read()[1].requests == 3


def test_half_a_line_and_lines_of_another_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    file = UsageFile(path)
    file.add([row("2026-11-21", "a")])
    with path.open("ab") as raw:
        raw.write(b'{"day":"2026-11-21","novel":1}\n[]\n{"day":"2026-1')
    assert [each.calls for each in file.read()] == [1]
    file.add([row("2026-11-21", "a")])
    assert [each.calls for each in file.read()] == [2]


def test_a_file_that_has_grown_is_made_small_and_stays_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_SMALL", 2_000)
    path = tmp_path / "usage.jsonl"
    file, other = UsageFile(path), UsageFile(path)
    for _ in range(100):
        file.add([row("2026-11-21", "a")])
        other.add([row("2026-11-21", "b")])
        assert path.stat().st_size < 2_500
    assert [(each.handle, each.calls) for each in file.read()] == [("a", 100), ("b", 100)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_days_and_handles_have_a_bound_and_no_call_is_lost_of_those_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_SMALL", 0)
    monkeypatch.setattr(usage, "_DAYS", 2)
    monkeypatch.setattr(usage, "_HANDLES", 3)
    file = UsageFile(tmp_path / "usage.jsonl")
    file.add([row(f"2026-11-{day}", f"h{n}", n + 1) for day in (19, 20, 21) for n in range(6)])
    found = [(each.day, each.handle, each.calls) for each in file.read()]
    assert [each for each in found if each[0] == "2026-11-20"] == [
        ("2026-11-20", "(others)", 6),
        ("2026-11-20", "h3", 4),
        ("2026-11-20", "h4", 5),
        ("2026-11-20", "h5", 6),
    ]
    assert {day for day, _, _ in found} == {"2026-11-20", "2026-11-21"}


def test_nothing_is_used_where_there_is_no_file(tmp_path: Path) -> None:
    assert UsageFile(tmp_path / "usage.jsonl").read() == []
    assert summed([]) == []
