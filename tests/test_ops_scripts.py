"""platform/ops/scripts: what they call, and what they end with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "platform/ops/scripts"
NAMES = ["healthcheck.sh", "restart-all.sh"]
FAKE = """#!/bin/sh
echo "$@" >> "$CALLS"
[ "$1" != "$FAILS" ] || { echo "optictl: it did not" >&2; exit 14; }
"""


class Box:
    """A machine with nothing but a shell, and an optictl that takes note of how it is called."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.put("optictl", FAKE)
        for tool in ("sh", "cat", "dirname", "readlink", "sed"):
            found = next(at for at in (Path("/usr/bin"), Path("/bin")) if (at / tool).exists())
            (self.bin / tool).symlink_to(found / tool)

    def put(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(
        self, name: str | Path, *arguments: str, fails: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / name, *arguments],
            capture_output=True,
            text=True,
            env={"PATH": str(self.bin), "CALLS": str(self.calls), "FAILS": fails, **environ},
            timeout=30,
        )

    @property
    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_they_help_and_do_nothing(box: Box, name: str, flag: str) -> None:
    ended = box.run(name, flag)
    assert (ended.returncode, ended.stderr, box.called) == (0, "", [])
    assert ended.stdout.startswith(f"usage: {name}")


@pytest.mark.parametrize("name", NAMES)
def test_they_begin_as_the_house_has_it(name: str) -> None:
    first, second, third, *_ = (SCRIPTS / name).read_text().splitlines()
    assert (first, third) == ("#!/bin/sh", "set -eu")
    assert second.startswith("# ")
    assert os.access(SCRIPTS / name, os.X_OK)


def test_a_healthy_box_is_one_line(box: Box) -> None:
    ended = box.run("healthcheck.sh", "--config", "/etc/with a space")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "all is well\n")
    assert box.called == ["check --fast --quiet --config /etc/with a space"]


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_or_none_where_it_shall_be_quiet(box: Box, flag: str) -> None:
    ended = box.run("healthcheck.sh", flag)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_one_that_is_not_healthy_ends_as_optictl_does(box: Box) -> None:
    ended = box.run("healthcheck.sh", fails="check")
    assert (ended.returncode, ended.stderr) == (14, "optictl: it did not\n")


def test_all_are_restarted_then_looked_at(box: Box) -> None:
    ended = box.run("restart-all.sh", "--user")
    assert (ended.returncode, ended.stderr) == (0, "all is well\n")
    assert box.called == ["restart --all --user", "check --fast --quiet --user"]


def test_where_a_restart_fails_nothing_else_is_said(box: Box) -> None:
    ended = box.run("restart-all.sh", fails="restart")
    assert (ended.returncode, ended.stderr) == (14, "optictl: it did not\n")
    assert box.called == ["restart --all"]


def test_where_the_checks_fail_it_fails(box: Box) -> None:
    assert box.run("restart-all.sh", fails="check").returncode == 14


@pytest.mark.parametrize("name", NAMES)
def test_optictl_is_the_one_named_or_the_services(box: Box, tmp_path: Path, name: str) -> None:
    elsewhere = (box.bin / "optictl").rename(tmp_path / "optictl")
    lost = box.run(name)
    assert lost.returncode == 1
    assert lost.stderr.startswith(f"{name}: there is no optictl in PATH")
    assert box.run(name, OPTICTL=str(elsewhere)).returncode == 0
    shown = f"{{ path={elsewhere} ; argv[]={elsewhere} serve --port 4020 ; ignore_errors=no }}"
    box.put("systemctl", f"#!/bin/sh\necho '{shown}'\n")
    assert box.run(name).returncode == 0


def test_they_can_be_linked_to(box: Box, tmp_path: Path) -> None:
    link = tmp_path / "health"
    link.symlink_to(SCRIPTS / "healthcheck.sh")
    assert box.run(link).returncode == 0
