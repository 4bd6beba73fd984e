"""The record of how ensembles did when they were last tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from boxes import MakeBox, disk, install, make_box
from fake_manager import FakeManager
from typer.testing import CliRunner

from optictl.apply import uninstall
from optictl.box import Box
from optictl.cli import build
from optictl.ensemble_listing import Listed, listed
from optictl.ensembling import prove, switched
from optictl.errors import CannotRead, EnsembleFailed
from optictl.fake_system import FakeSystem
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.state import Records
from optictl.systemd import Unit
from optictl.tried import Tried, forget, last_tries, remember
from proxy.ensembles import Ensemble, Member, Team

__all__ = ["make_box"]  # a fixture, used by name

NAME = "opt-chat-balanced-m"
ROW = Ensemble(NAME, "moa", Team((Member("a"), Member("b"))))
RECORDS = Records(Path("/var/lib/optictl"), "optillm-proxy")
NOW = 1_763_715_990.0
WHEN = "2025-11-21T09:06:30+00:00"

GATEWAY = "http://127.0.0.1:4000"
ROUTER, ENV = Path("/srv/router.yaml"), Path("/srv/litellm.env")
SITE = f"""\
proxy: {{base_model: b}}
upstream: {{base_url: "{GATEWAY}/v1"}}
models: {{large: a, medium: b, small: c}}
gateway: {{router: {ROUTER}, env_file: {ENV}, base_url: "{GATEWAY}/v1"}}
"""


def entry(name: str, **params: str) -> str:
    led = {"model": f"openai/{name}", "api_base": "http://192.168.1.72:8100/v1", **params}
    return f"- {json.dumps({'model_name': name, 'litellm_params': led})}\n"


BASES = "".join(map(entry, "abc"))


@pytest.fixture
def system() -> FakeSystem:
    found = FakeSystem()
    found.make_folder(RECORDS.folder)
    return found


class TestTheRecord:
    def test_the_last_try_of_each_is_remembered(self, system: FakeSystem) -> None:
        tried = Tried(1.5, {"a": 0.5}, {"b": "HTTP 500: not loaded"})
        remember(system, RECORDS, ROW, "no answer", NOW - 1)
        remember(system, RECORDS, ROW, tried, NOW)
        remember(system, RECORDS, replace(ROW, name="opt-x-fast-s"), "too few", NOW)
        found = last_tries(system, RECORDS)
        assert {name: each.tried for name, each in found.items()} == {
            NAME: tried,
            "opt-x-fast-s": None,
        }
        assert (found[NAME].at, found["opt-x-fast-s"].failed) == (WHEN, "too few")

    def test_it_is_of_the_row_that_was_tried(self, system: FakeSystem) -> None:
        remember(system, RECORDS, ROW, Tried(1.0), NOW)
        attempt = last_tries(system, RECORDS)[NAME]
        assert attempt.is_of(ROW)
        assert not attempt.is_of(replace(ROW, approach="bon"))

    def test_one_that_is_off_is_forgotten(self, system: FakeSystem) -> None:
        forget(system, RECORDS, NAME)
        assert RECORDS.tried not in system.files
        remember(system, RECORDS, ROW, Tried(1.0), NOW)
        remember(system, RECORDS, replace(ROW, name="opt-x-fast-s"), "too few", NOW)
        forget(system, RECORDS, NAME)
        assert set(last_tries(system, RECORDS)) == {"opt-x-fast-s"}

    def test_anybody_may_read_it(self, system: FakeSystem) -> None:
        remember(system, RECORDS, ROW, Tried(1.0), NOW)
        assert system.files[RECORDS.tried].mode == 0o644

    @pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99}', b'{"version": "x"}', b"[]"])
    def test_one_that_cannot_be_read_is_begun_anew(
        self, system: FakeSystem, content: bytes
    ) -> None:
        system.put(RECORDS.tried, content)
        assert last_tries(system, RECORDS) == {}
        remember(system, RECORDS, ROW, Tried(1.0), NOW)
        assert set(last_tries(system, RECORDS)) == {NAME}

    @pytest.mark.parametrize("purge", [False, True])
    def test_an_uninstallation_removes_it(self, system: FakeSystem, purge: bool) -> None:
        remember(system, RECORDS, ROW, Tried(1.0), NOW)
        uninstall(system, RECORDS, service="x.service", socket="x.socket", purge=purge)
        assert RECORDS.tried not in system.files


class Unreadable(FakeSystem):
    """As an ordinary user sees a machine: some files are root's."""

    hidden: frozenset[Path] = frozenset()

    def read(self, path: Path) -> Any:
        if path in self.hidden:
            raise CannotRead(f"cannot read {path}: Permission denied")
        return super().read(path)


class World:
    """A site with LiteLLM's files, on which the ensemble may be switched on."""

    def __init__(self, make_box: MakeBox) -> None:
        self.down: set[str] = set()
        self.box: Box = make_box(SITE, at={GATEWAY: self.answer})
        self.disk.put(ROUTER, f"model_list:\n{BASES}".encode())
        self.disk.put(ENV, b"X=1\n")
        self.disk.make_folder(self.box.machine.records.folder)
        install(self.box)

    @property
    def disk(self) -> FakeSystem:
        return disk(self.box)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if json.loads(request.content)["model"] in self.down:
            return httpx.Response(500, json={"error": {"message": "not loaded"}})
        return httpx.Response(200, json={"choices": [{"message": {"content": "Hello"}}]})

    def switch_on(self) -> Ensemble:
        machine = switched(self.box.machine, NAME, off=False)
        for artifact in machine.artifacts:
            self.disk.put(artifact.path, artifact.content, artifact.mode)
        [ensemble] = machine.ensembles
        return ensemble

    def prove(self, ensemble: Ensemble, *, warm: bool = True) -> None:
        prove(self.box, ensemble, lambda line: None, warm=warm)

    def add(self, text: str) -> None:
        content = self.disk.files[ROUTER].content
        self.disk.put(ROUTER, content + text.encode())

    def replace(self, old: str, new: str) -> None:
        content = self.disk.files[ROUTER].content.decode()
        assert old in content
        self.disk.put(ROUTER, content.replace(old, new).encode())

    def listed(self, machine: Machine | None = None) -> Listed:
        [found] = listed(machine or self.box.machine.anew(), NAME)
        return found

    def state(self) -> tuple[str, str]:
        found = self.listed()
        return found.state, found.why

    def tried(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.listed().as_json()["tried"]
        return found


@pytest.fixture
def world(make_box: MakeBox) -> World:
    return World(make_box)


class TestStates:
    def test_declared_until_litellm_has_it(self, world: World) -> None:
        assert world.state() == ("declared", f"not in LiteLLM; run optictl ensemble {NAME}")
        assert world.listed().as_json()["tried"] is None

    def test_installed_until_it_is_tried(self, world: World) -> None:
        world.switch_on()
        assert world.state() == ("installed", "")

    def test_warm_when_it_has_answered(self, world: World) -> None:
        world.prove(world.switch_on())
        when = world.tried()["at"]
        assert world.state() == ("warm", f"tried at {when}")
        assert set(world.tried()["members"]) == {"a", "b", "c"}
        assert (world.tried()["missing"], world.tried()["failed"]) == ({}, "")

    def test_warm_and_who_was_missing(self, world: World) -> None:
        world.down = {"a"}
        world.prove(world.switch_on())
        state, why = world.state()
        assert state == "warm"
        assert why.endswith(" without a (HTTP 500: not loaded)")

    def test_only_installed_where_nobody_asked_its_members(self, world: World) -> None:
        world.prove(world.switch_on(), warm=False)
        state, why = world.state()
        assert state == "installed"
        assert why.endswith(", its members were not asked")

    def test_broken_when_it_has_failed(self, world: World) -> None:
        world.down = {"b", "c"}
        with pytest.raises(EnsembleFailed):
            world.prove(world.switch_on())
        state, why = world.state()
        assert state == "broken"
        when = world.tried()["at"]
        assert why.startswith(
            f"tried at {when}: {NAME}: too few of its members answer: b: HTTP 500"
        )

    def test_a_try_says_nothing_of_another_row(self, world: World) -> None:
        ensemble = world.switch_on()
        world.prove(replace(ensemble, approach="bon"))
        assert world.state() == ("installed", "")

    def test_broken_where_a_member_has_no_entry(self, world: World) -> None:
        world.prove(world.switch_on())
        world.replace(entry("c"), "")
        assert world.state() == ("broken", "LiteLLM has no entry for c")

    def test_not_where_its_entries_are_in_a_database(self, world: World) -> None:
        world.prove(world.switch_on())
        world.replace(entry("c"), "")
        world.add("general_settings: {store_model_in_db: true}\n")
        assert world.state()[0] == "warm"

    def test_broken_where_a_member_leads_back(self, world: World) -> None:
        world.prove(world.switch_on())
        back = entry("c", api_base="http://localhost:4020/v1", model="openai/moa-a")
        world.replace(entry("c"), back)
        state, why = world.state()
        assert state == "broken"
        assert why.startswith(f"c leads back to the proxy ({ROUTER}:")

    def test_broken_where_it_leads_back_by_another_name(self, world: World) -> None:
        world.prove(world.switch_on())
        back = entry("d", api_base="http://localhost:4020/v1", model="openai/moa-a")
        world.replace(entry("c"), entry("c") + back)
        world.add("router_settings: {fallbacks: [{c: [d]}]}\n")
        assert "c leads back to the proxy" in world.state()[1]

    def test_names_that_grow_at_each_turn_come_to_an_end(self, world: World) -> None:
        world.switch_on()
        world.replace(entry("c"), entry("c*", api_base=f"{GATEWAY}/v1", model="openai/cc*"))
        assert world.state()[0] == "installed"

    def test_broken_where_litellms_file_is(self, world: World) -> None:
        world.switch_on()
        world.add("# END OPTICTL AUTO\n")
        state, why = world.state()
        assert state == "broken"
        assert why.startswith(f"{ROUTER}:")

    def test_one_whose_files_are_not_for_this_user(self, world: World) -> None:
        world.prove(world.switch_on())
        machine = world.box.machine
        system = Unreadable(world.disk.files, world.disk.folders)

        def state(*hidden: Path) -> str:
            system.hidden = frozenset(hidden)
            return world.listed(machine.on(system, machine.manager)).state

        assert state(ENV, machine.places.env) == "warm"
        assert state(ROUTER) == "warm"
        assert state(machine.records.tried) == "installed"

    def test_a_site_that_names_none_of_litellms_files(self, make_box: MakeBox) -> None:
        box = make_box("proxy: {base_model: b}\nmodels: {large: a, medium: b, small: c}\n")
        install(box)
        [found] = listed(box.machine.anew(), NAME)
        assert (found.state, found.why) == ("installed", "")


class TestTheCommand:
    """With a service that is said to run, and no LiteLLM that would answer."""

    @pytest.fixture
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
        path = tmp_path / "optictl.yaml"
        path.write_text(f"service: {{user: root}}\n{SITE.replace(':4000', ':9')}")
        system = FakeSystem()
        system.put(ROUTER, f"model_list:\n{BASES}".encode())
        system.put(ENV, b"X=1\n")
        units = (
            Unit(name, load="loaded", active="active", sub="running", file_state="enabled")
            for name in ("optillm-proxy.service", "optillm-proxy.socket")
        )
        made = Machine(
            load(path, {}),
            system,
            FakeManager(*units),
            systemd=252,
            restart_gateway=lambda tell: None,
        )
        monkeypatch.setattr("optictl.commands.ensemble.open_machine", lambda *a, **k: made.anew())
        monkeypatch.setattr("os.geteuid", lambda: 0)
        return made

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(build(), ["ensemble", NAME, "--yes", "--json", *arguments])

    def test_what_came_of_it_is_remembered_until_it_is_off(self, machine: Machine) -> None:
        failed = json.loads(self.run().stdout)["errors"][0]
        assert failed["code"] == "ensemble_failed"
        assert last_tries(machine.system, machine.records)[NAME].failed == failed["message"]
        [found] = listed(machine.anew(), NAME)
        assert found.state == "broken"

        assert json.loads(self.run("--off", "--dry-run").stdout)["data"]["changed"]
        assert set(last_tries(machine.system, machine.records)) == {NAME}
        assert json.loads(self.run("--off").stdout)["data"]["changed"]
        assert last_tries(machine.system, machine.records) == {}
        assert listed(machine.anew(), NAME)[0].state == "declared"
