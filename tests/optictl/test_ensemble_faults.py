"""``optictl ensemble`` where something fails: killed, with a LiteLLM that is down, read-only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from litellm_world import HANDLES, LITELLM, NAME, SHARED, SITE, THEIRS, World, staged, world

from optictl.errors import CannotWrite, RolledBack
from optictl.fake_system import Died, DiesAt
from optictl.install import Done, remove, roll_back
from optictl.shared_files import without

__all__ = ["world"]  # a fixture, used by name

Work = Callable[[World], object]
#: What is killed, and what is done before it.
KILLED: dict[str, tuple[Work, Work]] = {
    "on": (lambda world: world.install(), lambda world: world.switch()),
    "off": (lambda world: world.switch(), lambda world: world.switch(off=True)),
    "changed": (
        lambda world: (world.switch(), world.switch(name="opt-clean-fast-s")),
        lambda world: world.switch(off=True),
    ),
}


@pytest.mark.parametrize(("before", "work"), KILLED.values(), ids=list(KILLED))
def test_killed_at_any_step_the_next_run_ends_right(
    before: Work, work: Work, tmp_path: Path
) -> None:
    """Every write, fsync, rename, word to systemd and restart of LiteLLM; before it, after it."""

    start = World(tmp_path)
    before(start)
    old = start.theirs()

    def begun(fuse: DiesAt) -> World:
        world = deepcopy(start)
        world.disk.fuse = fuse
        return world

    whole = begun(DiesAt())
    work(whole)
    new = whole.theirs()
    assert whole.disk.fuse.steps > 40
    for k in range(1, whole.disk.fuse.steps + 1):
        world = begun(DiesAt(k))
        with pytest.raises(Died):
            work(world)
        world.disk.fuse = DiesAt()
        world.disk.held.clear()
        for path, content in world.theirs().items():
            assert content in (old[path], new[path]), k
            assert without(SHARED[path], content, path) == THEIRS[path], k
        work(world)
        assert world.contents() == whole.contents(), k
        assert world.litellm == new, k


def test_killed_for_real_at_any_step_nothing_is_torn(tmp_path: Path) -> None:
    """In a staging tree, where half of a write is on the disk then."""
    script = Path(__file__).with_name("killed_install.py")
    tree = staged(tmp_path / "tree")
    site = tmp_path / "optictl.yaml"
    site.write_text(SITE)
    done = subprocess.run(
        [sys.executable, str(script), str(tree), str(site), NAME],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 30
    for path, content in THEIRS.items():
        now = (tree / path.relative_to("/")).read_bytes()
        assert without(SHARED[path], now, path) == content != now


class TestLiteLLMIsDown:
    """The service's warmup goes through it."""

    def test_before_it_is_brought_up_and_the_service_after_it(self, world: World) -> None:
        world.manager.litellm_is_up = False
        world.switch()
        assert world.litellm == world.theirs() != THEIRS
        assert world.manager.show("optillm-proxy.service").running

    def test_with_our_part_it_gets_its_files_back_and_the_service_goes_on(
        self, world: World
    ) -> None:
        before, pid = world.contents(), world.manager.show("optillm-proxy.service").main_pid
        world.fails = 1
        with pytest.raises(RolledBack, match="are as they were, and the old service serves"):
            world.switch()
        assert (world.contents(), world.litellm) == (before, THEIRS)
        assert world.manager.show("optillm-proxy.service").main_pid == pid
        assert not world.switch().already

    def test_with_and_without_our_part_the_service_is_left_alone_until_it_is_back(
        self, world: World
    ) -> None:
        before, pid = world.contents(), world.manager.show("optillm-proxy.service").main_pid
        world.fails = 2
        with pytest.raises(RolledBack, match="LiteLLM does not come back either"):
            world.switch()
        assert world.contents() == before
        assert world.manager.show("optillm-proxy.service").main_pid == pid
        restarts = world.restarts
        world.install()
        assert world.restarts == restarts + 1
        assert world.manager.show("optillm-proxy.service").running

    def test_at_a_rollback_it_is_brought_up(self, world: World) -> None:
        world.switch()
        world.manager.litellm_is_up = False
        roll_back(world.machine, 1, tell=world.told.append)
        assert world.litellm == world.theirs() == THEIRS
        assert world.manager.show("optillm-proxy.service").running


class TestLiteLLMIsOwedARestart:
    """A run that wrote LiteLLM's files and ended before LiteLLM had them."""

    def die_before_the_restart(self, world: World, work: Work) -> None:
        def dies(tell: Callable[[str], None]) -> None:
            raise Died

        world.restart, restart = dies, world.restart  # type: ignore[method-assign]
        with pytest.raises(Died):
            work(world)
        world.disk.held.clear()
        world.restart = restart  # type: ignore[method-assign]
        assert world.litellm != world.theirs()

    def test_whichever_command_comes_next_restarts_it_and_the_one_after_does_not(
        self, world: World
    ) -> None:
        world.switch()
        self.die_before_the_restart(world, lambda world: world.switch(off=True))
        world.install()
        assert world.litellm == world.theirs() == THEIRS
        restarts = world.restarts
        world.install()
        world.switch(off=True)
        assert world.restarts == restarts

    def test_also_after_a_rollback(self, world: World) -> None:
        world.switch()
        self.die_before_the_restart(
            world, lambda world: roll_back(world.machine, 1, tell=world.told.append)
        )
        assert not world.switch(off=True).already
        assert world.litellm == world.theirs() == THEIRS

    def test_also_after_an_uninstallation(self, world: World) -> None:
        world.switch()

        def gone(world: World) -> Done:
            return remove(world.machine, purge=False, tell=world.told.append)

        self.die_before_the_restart(world, gone)
        assert not gone(world).already
        assert world.litellm == world.theirs() == THEIRS
        assert gone(world).already

    def test_another_version_of_ours_is_no_reason(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.switch()
        restarts = world.restarts
        monkeypatch.setattr("optictl.settled.__version__", "99.0")
        world.install()
        assert ("restart", "optillm-proxy.service") in world.manager.changes
        assert world.restarts == restarts


class TestReadOnly:
    @pytest.mark.parametrize(
        "why",
        [
            "Read-only file system; make it writable",
            "Permission denied; run this as root, or as who owns it",
        ],
    )
    @pytest.mark.parametrize("folder", [LITELLM, HANDLES, Path("/etc/optillm-proxy")])
    def test_it_is_named_and_all_files_are_as_they_were(
        self, world: World, folder: Path, why: str
    ) -> None:
        before, litellm = world.contents(), world.litellm
        world.disk.read_only, world.disk.why = (str(folder),), why
        with pytest.raises(CannotWrite, match=rf"^cannot write {folder}.*: {why}"):
            world.switch()
        assert world.contents() == before
        assert (world.litellm, world.restarts) == (litellm, 0)
        world.disk.read_only = ()
        world.manager.calls.clear()
        world.install()
        assert (world.manager.changes, world.restarts) == ([], 0)
        world.switch()
        world.switch(off=True)
        assert world.contents() == before

    def test_taking_it_out_fails_as_cleanly(self, world: World) -> None:
        world.switch()
        before = world.contents()
        world.disk.read_only = (str(LITELLM),)
        with pytest.raises(CannotWrite, match=rf"^cannot write {LITELLM}"):
            world.switch(off=True)
        assert world.contents() == before
        assert world.restarts == 1
