"""What an operator waits for: the wall time of commands, from exec to exit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.processes import Proxy

_RUNS = 5
_NOBODY = "http://127.0.0.1:9/v1"
_OPTICTL = (sys.executable, "-c", "from optictl.cli import main; main()")


def commands(seconds: float) -> Iterator[Figure]:
    """Help, a plan with nothing to do, the fast checks. ``seconds`` is not used."""
    with tempfile.TemporaryDirectory() as folder, Proxy(_NOBODY) as proxy:
        site, root = Path(folder) / "optictl.yaml", Path(folder) / "root"
        site.write_text(f"proxy: {{base_model: sim, port: {proxy.port}}}\n")
        staged = ("--config", str(site), "--root", str(root), "--systemd", "252")
        _run(folder, "install", "--yes", *staged)
        for name, promise, arguments in (
            ("optictl --help", 0.4, ["--help"]),
            ("optictl plan, nothing to do", 0.6, ["plan", "--detailed-exitcode", *staged]),
            ("optictl check --fast", 2.0, ["check", "--fast", "--config", str(site)]),
        ):
            # The first one compiles what an installed package has compiled.
            # The checks find much that is wrong with a service that no systemd runs.
            fails = "check" in arguments
            times = [_run(folder, *arguments, fails=fails) for _ in range(_RUNS + 1)][1:]
            yield Figure(
                f"{name}, median of {_RUNS}",
                f"{median(times):.2f} s",
                f"≤ {promise} s",
                {"wall_s": median(times), "most_s": max(times)},
            )


def _run(folder: str, *arguments: str, fails: bool = False) -> float:
    compiled = {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "PYTHONDONTWRITEBYTECODE": ""}
    command, env = [*_OPTICTL, *arguments], {**os.environ, **compiled}
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=not fails, env=env)
    return time.perf_counter() - began
