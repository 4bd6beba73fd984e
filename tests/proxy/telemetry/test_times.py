"""Times of day as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from proxy.telemetry.times import local, utc


@pytest.mark.parametrize(
    "seconds", [0.0, 0.5, 1_700_000_000.0, 1_700_000_000.000001, 1_699_999_999.999999, -1.25]
)
def test_utc_is_that_of_datetime_cut_off(seconds: float) -> None:
    told = datetime.fromisoformat(utc(seconds, 6))
    assert told.utcoffset() == timedelta()
    assert 0 <= seconds - told.timestamp() < 2e-6
    assert utc(seconds, 3) == f"{utc(seconds, 6)[:-9]}+00:00"


def test_seconds_are_told_apart() -> None:
    times = [1_700_000_000.05 + number / 10 for number in range(200)]
    assert [utc(each, 1) for each in times] == [
        datetime.fromtimestamp(each, UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{number % 10}+00:00")
        for number, each in enumerate(times)
    ]


def test_local_time_has_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert local(1_234_567_890.9) == "2009-02-14T05:01:30+0530"
    finally:
        monkeypatch.undo()
        time.tzset()
