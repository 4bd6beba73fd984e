"""A folder of lines by day: midnight, sizes, ages, and what kills and clocks do to it."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.telemetry.folder import DailyFiles

MIB = 1024 * 1024


class Clock:
    """A time of day that is set by hand."""

    def __init__(self) -> None:
        self.at("2026-11-21T23:59:59")

    def at(self, moment: str) -> None:
        self.now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


def files(folder: Path, clock: Clock, days: int = 30, size: int = 8 * MIB) -> DailyFiles:
    daily = DailyFiles(folder, "lines", days=days, size=size, clock=clock)
    daily.open()
    return daily


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_midnight_in_utc_begins_a_file(folder: Path, clock: Clock) -> None:
    daily = files(folder, clock)
    daily.append(b"1\n")
    clock.at("2026-11-22T00:00:00")
    daily.append(b"2\n")
    assert names(folder) == ["lines_2026-11-21.jsonl", "lines_2026-11-22.jsonl"]
    assert (folder / "lines_2026-11-22.jsonl").read_bytes() == b"2\n"


def test_a_full_file_is_followed_by_another_and_the_oldest_make_room(
    folder: Path, clock: Clock
) -> None:
    daily = files(folder, clock)
    (folder / "somebody-elses.jsonl").write_bytes(b"x" * 8 * MIB)
    for number in range(20):
        daily.append(f"{number}".encode().ljust(MIB - 1) + b"\n")
    kept = sorted(folder.glob("lines_*"), key=lambda file: int(file.name.split(".")[1]))
    assert [file.name for file in kept] == [f"lines_2026-11-21.{n}.jsonl" for n in range(12, 20)]
    assert (folder / "somebody-elses.jsonl").exists()


def test_old_days_are_removed(folder: Path, clock: Clock) -> None:
    folder.mkdir()
    for day in ("2026-11-10", "2026-11-18", "2026-11-19"):
        (folder / f"lines_{day}.jsonl").write_bytes(b"1\n")
    daily = files(folder, clock, days=2)
    daily.append(b"2\n")
    assert names(folder) == ["lines_2026-11-19.jsonl", "lines_2026-11-21.jsonl"]


def test_a_clock_that_jumps_removes_nothing(folder: Path, clock: Clock) -> None:
    daily = files(folder, clock, days=2)
    daily.append(b"1\n")
    clock.at("2031-01-01T00:00:00")
    daily.append(b"2\n")
    clock.at("1970-01-01T00:00:00")
    daily.append(b"3\n")
    clock.at("2026-11-22T00:00:00")
    daily.append(b"4\n")
    written = b"".join(sorted(file.read_bytes() for file in folder.iterdir()))
    assert written == b"1\n2\n3\n4\n"


def test_what_a_killed_process_left_half_is_cut_off(folder: Path, clock: Clock) -> None:
    folder.mkdir()
    for day in ("2026-11-20", "2026-11-21"):
        (folder / f"lines_{day}.jsonl").write_bytes(b'{"a": 1}\n{"a": ')
    files(folder, clock).append(b'{"a": 2}\n')
    assert (folder / "lines_2026-11-20.jsonl").read_bytes() == b'{"a": 1}\n'
    assert (folder / "lines_2026-11-21.jsonl").read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_a_folder_that_has_vanished_is_made_again(folder: Path, clock: Clock) -> None:
    daily = files(folder, clock)
    daily.append(b"1\n")
    shutil.rmtree(folder)
    daily.append(b"2\n")
    assert (folder / "lines_2026-11-21.jsonl").read_bytes() == b"2\n"


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("in the way")
    daily = DailyFiles(tmp_path / "file/log", "lines", days=1, size=MIB, clock=clock)
    with pytest.raises(OSError, match="file"):
        daily.append(b"1\n")


def _writes(folder: Path, who: int) -> None:
    daily = files(folder, Clock())
    for number in range(100):
        line = {"who": who, "number": number, "text": "x" * 5000}
        daily.append(json.dumps(line).encode() + b"\n")


def test_several_processes_write_whole_lines(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writes, args=(folder, who)) for who in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    lines = [
        json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()
    ]
    assert sorted((line["who"], line["number"]) for line in lines) == [
        (who, number) for who in range(2) for number in range(100)
    ]
