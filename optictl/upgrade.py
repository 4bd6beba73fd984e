"""A new version beside the old: built, tried, switched to by one rename, or left alone.

Each version has a virtual environment of its own, ``optictl-1``, ``optictl-2``, … in one folder.
A link there, ``optictl-current``, leads to the one in use, and units call optictl by that link.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optictl import __version__
from optictl.bring_up import Tell
from optictl.errors import CannotWrite, RolledBack, UpgradeFailed
from optictl.exit_status import Exit
from optictl.machine import Machine
from optictl.program_path import LINK, linked

_NUMBERED = re.compile(r"optictl-(\d+)")


@dataclass(frozen=True, slots=True)
class Upgraded:
    """``already``: the new version is the old one."""

    old: str
    new: str
    environment: Path
    already: bool = False


class Upgrade:
    """One upgrade from the environment that this runs in."""

    def __init__(self, machine: Machine, tell: Tell) -> None:
        self._machine = machine
        self._tell = tell
        self._old = Path(sys.prefix).resolve()
        self._folder = Path(sys.prefix).parent
        self._link = self._folder / LINK
        self._linked = linked() is not None

    def run(self, requirement: Sequence[str], *, force: bool = False) -> Upgraded:
        """Raises `UpgradeFailed` where nothing was switched, `RolledBack` where it was undone.

        ``requirement`` is what pip is asked to install. ``force``: even the same version again.
        """
        if sys.prefix == sys.base_prefix:
            raise UpgradeFailed(
                f"optictl runs in {sys.prefix}, which is no virtual environment of its own; "
                "install the new version with what has installed this one"
            )
        with self._machine.system.lock(self._machine.records.folder / "upgrade.lock"):
            new = self._next()
            try:
                self._build(new, requirement)
                version = self._version(new)
                if version == __version__ and not force:
                    shutil.rmtree(new)
                    return Upgraded(__version__, version, self._old, already=True)
                self._try(new)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            self._change_over(new, version)
            self._prune(new)
            return Upgraded(__version__, version, new)

    def _next(self) -> Path:
        names = [path.name for path in self._folder.iterdir()]
        numbers = [int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name))]
        return self._folder / f"optictl-{max(numbers, default=0) + 1}"

    def _build(self, new: Path, requirement: Sequence[str]) -> None:
        self._tell(f"make {new} and install {' '.join(requirement)} there")
        _run([sys.executable, "-m", "venv", str(new)])
        pip = [str(new / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
        _run([*pip, "--quiet", *requirement])

    def _version(self, new: Path) -> str:
        said = _run([str(new / "bin/optictl"), "--version"])
        return said.strip().removeprefix("optictl ")

    def _try(self, new: Path) -> None:
        self._tell("have the new version load the settings")
        _run([str(new / "bin/optictl"), "validate", *self._site()])

    def _change_over(self, new: Path, version: str) -> None:
        self._tell(f"switch {self._link} to {new.name}, and install with optictl {version}")
        self._point_at(new)
        failed = self._install(self._link)
        if failed is None:
            return
        self._tell("it did not work: switch back")
        if self._linked:
            self._point_at(self._old)
        else:
            self._link.unlink()
        outcome = f"optictl {__version__} serves again"
        worse = self._install(self._link if self._linked else self._old)
        if worse is not None:
            outcome = f"optictl {__version__} is back, but does not come up either: {worse}"
        shutil.rmtree(new, ignore_errors=True)
        raise RolledBack(f"optictl {version}: {failed}\nrolled back: {outcome}")

    def _install(self, environment: Path) -> str | None:
        """Install with that environment's optictl, and check; why it failed, if it did."""
        command = [str(environment / "bin/optictl"), "install", "--yes", "--json", *self._site()]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode == Exit.OK:
            return None
        try:
            return str(json.loads(ended.stdout)["errors"][0]["message"])
        except (ValueError, KeyError, IndexError, TypeError):
            return ended.stderr.strip() or f"exit status {ended.returncode}"

    def _site(self) -> list[str]:
        user = ["--user"] if self._machine.site.service.scope == "user" else []
        return ["--config", str(self._machine.loaded.path), *user]

    def _point_at(self, environment: Path) -> None:
        beside = self._folder / f".{LINK}.new"
        try:
            beside.unlink(missing_ok=True)
            beside.symlink_to(environment.name)
            beside.replace(self._link)
        except OSError as error:
            raise CannotWrite(f"cannot write {self._link}: {error.strerror}") from error

    def _prune(self, new: Path) -> None:
        """Remove environments of ours that are neither the new one nor the one before."""
        for path in self._folder.iterdir():
            if _NUMBERED.fullmatch(path.name) and path.resolve() not in (new, self._old):
                self._tell(f"remove {path}")
                shutil.rmtree(path, ignore_errors=True)


def _run(command: Sequence[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-10:])
        raise UpgradeFailed(f"{' '.join(command)}: {said or ended.returncode}; nothing was changed")
    return ended.stdout
