"""A real systemd as PID 1 of its own namespaces, with the service in it (`real_systemd.sh`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parent / "real_systemd.sh"

_ROOT = Path(__file__).parents[2]
#: What the service does not need: copying it would take most of the time.
_LEFT_OUT = shutil.ignore_patterns(
    "mypy*", "ruff*", "sympy*", "hypothesis*", "openai*", "pip*", "*.pth", "__editable__*"
)


class Lab:
    """Commands run inside; the host's files are seen copy-on-write."""

    def __init__(self, state: Path) -> None:
        self._env = {**os.environ, "LAB": str(state)}

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(_SCRIPT), *arguments], env=self._env, capture_output=True, text=True, timeout=120
        )

    def run(self, *command: str, check: bool = True) -> str:
        """The standard output of ``command`` in the lab."""
        done = self.script("run", *command)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self, *command: str) -> subprocess.Popen[str]:
        """``command`` in the lab, not waited for."""
        return subprocess.Popen(
            [str(_SCRIPT), "run", *command], env=self._env, stdout=subprocess.PIPE, text=True
        )

    def push(self, source: Path, destination: str) -> None:
        done = self.script("push", str(source), destination)
        assert done.returncode == 0, done.stderr

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run("sh", "-c", 'printf "%s" "$1" > "$2"; chmod "$3" "$2"', "_", text, path, mode)

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", unit)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "-u", unit, "-o", "cat")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with the packages under /opt/optictl; booted for each module."""
    state = Path(f"/tmp/optictl-lab-{os.getpid()}")
    lab = Lab(state)
    booted = lab.script("up")
    assert booted.returncode == 0, booted.stdout + booted.stderr
    try:
        packages = tmp_path_factory.mktemp("lab") / "optictl"
        shutil.copytree(sysconfig.get_path("purelib"), packages, ignore=_LEFT_OUT)
        for name in ("optictl", "proxy"):
            shutil.copytree(_ROOT / name, packages / name, dirs_exist_ok=True)
        lab.push(packages, "/opt/optictl")
        program = (
            "#!/bin/sh\n"
            f"PYTHONPATH=/opt/optictl exec {Path(sys.executable).resolve()} -c "
            '"from optictl.cli import main; main()" "$@"\n'
        )
        lab.write("/usr/local/bin/optictl", program, "755")
        yield lab
    finally:
        lab.script("down")
