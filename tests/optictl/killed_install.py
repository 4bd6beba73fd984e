"""Installs into a staging tree again and again, killed for real at each of its steps in turn.

``python killed_install.py TREE SITE [HANDLE]``: changes settings, or switches the ensemble HANDLE
on. Prints the number of steps, and fails where a run after a killed one does not bring the tree to
what is declared. A process of its own, since it forks.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from optictl.install import install_site
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.system import RealSystem, temporary

_KILLED = 9
_CHANGE = "proxy.workers=2", "proxy.approach=none", "upstream.base_url=http://127.0.0.1:4001/v1"


class Killed(RealSystem):
    """Ends the process at the ``k``-th write, fsync, rename or removal; half of a write is done."""

    def __init__(self, root: Path, k: int | None) -> None:
        super().__init__(root)
        self._k = k
        self.steps = 0

    def _step(self) -> bool:
        self.steps += 1
        return self.steps == self._k

    def _fill(self, fd: int, content: bytes) -> None:
        if self._step():
            os.write(fd, content[: len(content) // 2])
            os._exit(_KILLED)
        super()._fill(fd, content)

    def _fsync(self, fd: int) -> None:
        if self._step():
            os._exit(_KILLED)
        super()._fsync(fd)

    def _replace(self, old: Path, new: Path) -> None:
        if self._step():
            os._exit(_KILLED)
        super()._replace(old, new)
        if self._step():
            os._exit(_KILLED)


Run = Callable[[RealSystem], None]


def install(system: RealSystem, site: Path, *sets: str, handles: tuple[str, ...] = ()) -> None:
    machine = Machine(load(site, {}, sets), system, None, systemd=252).wired_as(handles)
    install_site(machine, agree=lambda _: None, tell=lambda _: None)


def contents(tree: Path) -> dict[str, tuple[int, bytes]]:
    """Every file by its path: mode and content; the records only by name."""
    found = {}
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            ours = "var/lib/optictl" in str(path)
            name = str(path.relative_to(tree))
            found[name] = (path.stat().st_mode, b"" if ours else path.read_bytes())
    return {name: each for name, each in found.items() if "checkpoints" not in name}


def killed_at_each_step(tree: Path, change: Run) -> int:
    """Bring ``tree`` from how it is to what ``change`` makes of it. Returns the steps of that."""
    start = tree.with_name("start")
    shutil.copytree(tree, start)
    old = contents(tree)
    whole = Killed(tree, None)
    change(whole)
    new = contents(tree)
    assert old != new
    for k in range(1, whole.steps + 1):
        shutil.rmtree(tree)
        shutil.copytree(start, tree)
        child = os.fork()
        if child == 0:
            change(Killed(tree, k))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == _KILLED, k
        for path, (_, content) in contents(tree).items():
            whole_ones = {old.get(path, (0, b""))[1], new.get(path, (0, b""))[1]}
            assert content in whole_ones or path.endswith(".optictl-new"), (k, path)
        change(RealSystem(tree))
        assert contents(tree) == new, k
        assert not list(tree.rglob(temporary(Path("/x")).name.replace("x", "*"))), k
    return whole.steps


def main(tree: Path, site: Path, *handles: str) -> None:
    install(RealSystem(tree), site)
    sets = () if handles else _CHANGE
    print(killed_at_each_step(tree, lambda system: install(system, site, *sets, handles=handles)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
