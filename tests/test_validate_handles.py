"""``validate_handles.py``, in both places where it is looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = [ROOT / "scripts/validate_handles.py", ROOT / "platform/ops/scripts/validate_handles.py"]
EACH = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.parent.name)


def run(
    script: Path, *arguments: str, python: tuple[str, ...] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, script, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "", **environ},
        timeout=60,
    )


@EACH
def test_it_is_the_command(script: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("\n")
    bad.write_text("{\n")
    library = {"PYTHONPATH": str(ROOT)}
    well = run(script, str(good), **library)
    assert (well.returncode, well.stdout, well.stderr) == (0, f"ok: {good} (0 handles)\n", "")
    wrong = run(script, str(bad), **library)
    assert (wrong.returncode, wrong.stderr) == (1, "")
    assert wrong.stdout.startswith("line 1: row: is not JSON")
    lost = run(script, str(tmp_path / "nope"), **library)
    assert (lost.returncode, lost.stdout) == (2, "")
    assert os.access(script, os.X_OK)


# -I -S: a Python for which nothing is installed.
BARE = ("-I", "-S")


@EACH
def test_without_optictl_it_says_so(script: Path) -> None:
    ended = run(script, "x.jsonl", python=BARE)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{script}: optictl is not installed for {sys.executable}")
    assert len(ended.stderr.splitlines()) == 1


@EACH
@pytest.mark.parametrize("named", [True, False])
def test_without_optictl_in_its_python_it_is_the_one_named_or_in_path(
    script: Path, named: bool, tmp_path: Path
) -> None:
    program = tmp_path / "optictl"
    program.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    program.chmod(0o755)
    where = {"OPTICTL": str(program)} if named else {"PATH": str(tmp_path)}
    ended = run(script, "a file.jsonl", "--json", python=BARE, **where)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout == "handles validate a file.jsonl --json\n"


def test_both_are_one() -> None:
    first, second = SCRIPTS
    assert first.read_bytes() == second.read_bytes()
