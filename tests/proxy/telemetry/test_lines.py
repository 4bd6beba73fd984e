"""Files of whole lines that several processes write to."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.telemetry.lines import append


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes: what a full disk is like, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_appended_and_for_nobody_else_to_read(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    append(file, b"one\n")
    append(file, b"two\nthree\n")
    assert file.read_bytes() == b"one\ntwo\nthree\n"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rest", [b"half a li", b"x" * 200_000], ids=["short", "long"])
def test_the_half_line_of_a_killed_writer_goes(tmp_path: Path, rest: bytes) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"whole\n" + rest)
    append(file, b"next\n")
    assert file.read_bytes() == b"whole\nnext\n"


def test_a_file_that_was_nothing_but_half_a_line_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"half")
    append(file, b"next\n")
    assert file.read_bytes() == b"next\n"


def test_a_disk_that_is_full_in_mid_line_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    append(file, b"whole\n")
    with room_for(20), pytest.raises(OSError, match="File too large") as full:
        append(file, b"this does not fit any more\n")
    assert full.value.errno == errno.EFBIG
    assert file.read_bytes() == b"whole\n"
    append(file, b"there is room again\n")
    assert file.read_bytes() == b"whole\nthere is room again\n"


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        append(tmp_path / "gone" / "lines", b"line\n")


def test_processes_that_write_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    children = []
    for letter in (b"a", b"b", b"c"):
        child = os.fork()
        if child == 0:
            for _ in range(50):
                append(file, letter * 3_000 + b"\n")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    lines = file.read_bytes().splitlines()
    assert len(lines) == 150
    assert {len(set(line)) for line in lines} == {1}
