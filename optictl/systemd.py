"""The one place that runs systemd's programs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence

from optictl.errors import OptictlError

#: Runs a command and gives what it has written to stdout.
Run = Callable[[Sequence[str]], str]


def run(command: Sequence[str]) -> str:
    """Raises `OptictlError` where it is not there, or says that it failed."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise OptictlError(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise OptictlError(f"{' '.join(command)} has not ended within 60 s") from None
    if ended.returncode:
        raise OptictlError(f"{' '.join(command)}: {ended.stderr.strip() or ended.returncode}")
    return ended.stdout


def version(run: Run = run) -> int:
    """systemd's major version; raises `OptictlError` where there is none."""
    said = run(["systemctl", "--version"])
    found = re.match(r"systemd (\d+)", said)
    if found is None:
        raise OptictlError(f"systemctl --version says no version: {said[:100]!r}")
    return int(found[1])
