"""When LiteLLM is restarted: after its files have changed, in whichever direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_manager import FakeManager

from optictl.errors import GatewayFailed, RolledBack
from optictl.fake_system import FakeSystem
from optictl.install import install_site, remove, roll_back
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.systemd import Unit

NAME = "opt-chat-balanced-m"
ROUTER, ENV = Path("/srv/router.yaml"), Path("/srv/env.local")
THEIRS = {ROUTER: b"model_list:\n- model_name: a\n", ENV: b"A=1"}
SITE = (
    "service: {user: root}\nproxy: {base_model: b}\nmodels: {large: a, medium: b, small: c}\n"
    f"gateway: {{router: {ROUTER}, env_file: {ENV}}}\n"
)


class Manager(FakeManager):
    """Knows the units of a disk in memory."""

    def __init__(self, disk: FakeSystem) -> None:
        super().__init__()
        self._disk = disk

    def daemon_reload(self) -> None:
        super().daemon_reload()
        there = {path.name for path in self._disk.files if path.parent.name == "system"}
        for name in there - self.units.keys():
            self.units[name] = Unit(name, load="loaded", file_state="disabled")
        for name in self.units.keys() - there:
            del self.units[name]


class World:
    """A machine in memory, and a LiteLLM that counts its restarts."""

    def __init__(self, folder: Path) -> None:
        self.restarts, self.fails = 0, 0
        self.disk = FakeSystem()
        for path, content in THEIRS.items():
            self.disk.put(path, content)
        (folder / "optictl.yaml").write_text(SITE)
        loaded = load(folder / "optictl.yaml", {})
        self.machine = Machine(
            loaded, self.disk, Manager(self.disk), systemd=252, restart_gateway=self.restart
        )

    def restart(self, tell: Callable[[str], None]) -> None:
        self.restarts += 1
        if self.fails:
            self.fails -= 1
            raise GatewayFailed("the gateway has not come back")

    def install(self, *handles: str) -> None:
        machine = self.machine.wired_as(handles)
        install_site(machine, agree=lambda _: None, tell=lambda _: None)

    def theirs(self) -> dict[Path, bytes]:
        return {path: self.disk.files[path].content for path in THEIRS}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_without_a_change_of_its_files_it_is_left_alone(world: World) -> None:
    world.install()
    assert world.restarts == 0
    world.install(NAME)
    assert world.restarts == 1
    world.install(NAME)
    assert world.restarts == 1


def test_a_rollback_restarts_it_with_its_old_files(world: World) -> None:
    world.install()
    world.install(NAME)
    roll_back(world.machine.anew(), 1, tell=lambda _: None)
    assert world.theirs() == THEIRS
    assert world.restarts == 2


def test_an_uninstallation_takes_our_part_out_and_restarts_it(world: World) -> None:
    world.install(NAME)
    remove(world.machine.anew(), purge=True, tell=lambda _: None)
    assert world.theirs() == THEIRS
    assert world.restarts == 2


def test_one_that_does_not_come_back_is_restarted_with_its_old_files(world: World) -> None:
    world.install()
    world.fails = 1
    with pytest.raises(RolledBack, match="has not come back"):
        world.install(NAME)
    assert world.theirs() == THEIRS
    assert world.restarts == 2


def test_and_where_that_fails_too_both_are_told(world: World) -> None:
    world.install()
    world.fails = 2
    with pytest.raises(RolledBack, match="LiteLLM does not come back either"):
        world.install(NAME)
    assert world.theirs() == THEIRS
