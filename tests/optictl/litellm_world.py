"""A machine in memory whose LiteLLM has files of others, and what they have written there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_manager import FakeManager

from optictl.artifact import Shared
from optictl.ensembling import switched
from optictl.errors import CannotWrite, GatewayFailed
from optictl.fake_system import FakeSystem
from optictl.install import Done, install_site
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.systemd import Unit
from optictl.vetting import vet

NAME = "opt-chat-balanced-m"
LITELLM = Path("/srv/litellm")
ROUTER, ENV = LITELLM / "router.yaml", LITELLM / "env.local"
HANDLES = Path("/srv/handles.jsonl")
UNITS = Path("/etc/systemd/system")
#: As others have written it: CRLF, tabs, comments, anchors, another tool's block, no last end.
THEIRS = {
    ROUTER: (
        b"# theirs\t\r\nmodel_list:\r\n"
        b"  - model_name: a # a\t\r\n    litellm_params: &backend\r\n"
        b'      {model: openai/a, api_base: "http://10.0.0.1/v1"}\r\n'
        b"  # BEGIN MLXCTL AUTO\r\n"
        b"  - {model_name: b, litellm_params: *backend}\r\n"
        b"  - {model_name: c, litellm_params: *backend}\r\n"
        b"  # END MLXCTL AUTO\r\n"
        b"litellm_settings: {drop_params: true}"
    ),
    ENV: b"# theirs\r\nexport\tA=1\r\n\r\nB='2 # 3'",
    HANDLES: b'{"handle":  "a"}\r\n\r\n{"handle": "b", "notes": "\t"}',
}
SHARED: dict[Path, Shared] = {ROUTER: "router", ENV: "env", HANDLES: "handles"}
SITE = (
    "service: {user: root}\nproxy: {base_model: b}\nmodels: {large: a, medium: b, small: c}\n"
    f"gateway: {{router: {ROUTER}, env_file: {ENV}, handles: {HANDLES}}}\n"
)


class Disk(FakeSystem):
    """Refuses to write below the folders in ``read_only``, as a file system does."""

    read_only: tuple[str, ...] = ()
    why = "Read-only file system; make it writable"

    def write(self, path: Path, content: bytes, mode: int, *owner: Any) -> None:
        if any(path.is_relative_to(folder) for folder in self.read_only):
            raise CannotWrite(f"cannot write {path}: {self.why}")
        super().write(path, content, mode, *owner)


class Manager(FakeManager):
    """Knows the units of a disk in memory; dies with it. No service starts without LiteLLM."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self.litellm_is_up = True

    def daemon_reload(self) -> None:
        super().daemon_reload()
        there = {path.name for path in self._disk.files if path.parent == UNITS}
        for name in there - self.units.keys():
            self.units[name] = Unit(name, load="loaded", file_state="disabled")
        for name in self.units.keys() - there:
            del self.units[name]

    def _called(self, verb: str, *units: str) -> None:
        self._disk.fuse.step()
        self.fails = set() if self.litellm_is_up else {"start", "restart"}
        super()._called(verb, *units)
        self._disk.fuse.step()


class World:
    """A machine in memory, and a LiteLLM that runs with what its files were at its last start."""

    def __init__(self, folder: Path) -> None:
        self.disk = Disk()
        for path, content in THEIRS.items():
            self.disk.put(path, content, 0o640)
        self.site = folder / "optictl.yaml"
        self.site.write_text(SITE)
        self.manager = Manager(self.disk)
        self.told: list[str] = []
        self.fails, self.restarts = 0, 0
        self.litellm = self.theirs()

    @property
    def machine(self) -> Machine:
        loaded = load(self.site, {})
        return Machine(loaded, self.disk, self.manager, systemd=252, restart_gateway=self.restart)

    def restart(self, tell: Callable[[str], None]) -> None:
        self.disk.fuse.step()
        self.restarts += 1
        self.manager.litellm_is_up = self.fails == 0
        if self.fails:
            self.fails -= 1
            raise GatewayFailed("the gateway has not come back")
        self.litellm = self.theirs()
        self.disk.fuse.step()

    def install(self) -> None:
        install_site(self.machine, agree=lambda _: None, tell=self.told.append)

    def switch(self, *, off: bool = False, name: str = NAME) -> Done:
        machine = switched(self.machine, name, off=off)
        return install_site(
            machine,
            agree=lambda each: None if off else vet(machine, each, name, self.told.append),
            tell=self.told.append,
        )

    def put(self, path: Path, content: bytes) -> None:
        self.disk.put(path, content, 0o640)

    def theirs(self) -> dict[Path, bytes]:
        return {path: self.disk.files[path].content for path in THEIRS}

    def contents(self) -> dict[Path, bytes]:
        """Every file but our own records."""
        return {
            path: found.content
            for path, found in self.disk.files.items()
            if not path.is_relative_to("/var/lib/optictl")
        }


def staged(tree: Path) -> Path:
    """A staging tree with the files of others."""
    for path, content in THEIRS.items():
        place = tree / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return tree


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.install()
    return made
