"""``optictl degrade``: a switch that stays as it is until somebody turns it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from boxes import MakeBox, disk, found, make_box
from fake_manager import FakeManager
from typer.testing import CliRunner

from optictl.box import Box
from optictl.cli import build
from optictl.foreground import foreground
from optictl.install import Done, install_site, roll_back
from optictl.machine import Machine

__all__ = ["make_box"]  # a fixture, used by name

SWITCH = "etc/optillm-proxy/degraded"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "optictl.yaml"
    path.write_text("proxy: {base_model: b}\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


class TestTheCommand:
    """The whole way but for systemd."""

    @pytest.fixture(autouse=True)
    def _place(self, site: Path, root: Path) -> None:
        self.site, self.root, self.switch = site, root, root / SWITCH

    def run(self, *arguments: str) -> Any:
        common = ["--config", str(self.site), "--root", str(self.root)]
        systemd = ["--systemd", "252"] if {"on", "off", "install"} & set(arguments) else []
        return CliRunner().invoke(build(), [*arguments, *common, *systemd])

    def said(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.run(*arguments, "--json").stdout)
        return answer

    def test_on_and_off_again_change_one_file(self) -> None:
        assert self.run("install", "--yes").exit_code == 0
        on = self.said("degrade", "on", "--yes")
        assert (on["command"], on["exit_code"]) == ("degrade on", 0)
        assert on["data"]["changed"] == [f"/{SWITCH}"]
        assert on["data"]["degraded"] is True
        assert "optictl degrade off" in self.switch.read_text()
        off = self.said("degrade", "off", "--yes")
        assert off["data"]["changed"] == [f"/{SWITCH}"]
        assert off["data"]["degraded"] is False
        assert not self.switch.exists()

    @pytest.mark.parametrize("way", ["on", "off"])
    def test_twice_changes_nothing_and_says_so(self, way: str) -> None:
        self.run("install", "--yes")
        self.run("degrade", way, "--yes")
        again = self.run("degrade", way)
        assert again.exit_code == 0
        assert "already installed as declared" in again.stderr
        assert f"{way}: " in again.stderr
        assert self.switch.exists() is (way == "on")

    def test_a_dry_run_shows_it_and_does_nothing(self) -> None:
        self.run("install", "--yes")
        shown = self.run("degrade", "on", "--dry-run")
        assert shown.exit_code == 0
        assert "+# While this file is here" in shown.stdout
        assert "1 to add" in shown.stdout
        assert "a dry run" in shown.stderr
        assert not self.switch.exists()

    def test_nobody_there_to_ask_nothing_is_done(self) -> None:
        self.run("install", "--yes")
        assert self.said("degrade", "on")["errors"][0]["code"] == "needs_yes"
        assert not self.switch.exists()

    def test_status_tells_it(self) -> None:
        self.run("install", "--yes")
        for way in ("off", "on"):
            self.run("degrade", way, "--yes")
            shown = self.run("degrade", "status")
            assert (shown.exit_code, shown.stdout.partition(":")[0]) == (0, way)
            assert self.said("degrade", "status")["data"] == {"degraded": way == "on"}

    def test_an_installation_keeps_it_on_and_off(self) -> None:
        self.run("degrade", "on", "--yes")
        done = self.run("install", "--yes", "--set", "proxy.workers=2")
        assert done.exit_code == 0, done.output
        assert self.switch.exists()
        assert self.run("degrade", "off", "--yes", "--set", "proxy.workers=2").exit_code == 0
        assert self.said("install", "--yes", "--set", "proxy.workers=2")["data"]["already"]
        assert not self.switch.exists()

    def test_a_rollback_takes_it_back(self) -> None:
        self.run("install", "--yes")
        self.run("degrade", "on", "--yes")
        [last, *_] = self.said("rollback", "--list")["data"]["runs"]
        assert last["note"] == "degrade on"
        assert self.run("rollback", "--yes").exit_code == 0
        assert not self.switch.exists()

    def test_it_goes_with_the_service(self) -> None:
        self.run("install", "--yes")
        self.run("degrade", "on", "--yes")
        assert self.run("uninstall", "--yes").exit_code == 0
        assert not self.switch.exists()

    def test_one_that_somebody_has_put_there_is_theirs(self) -> None:
        self.run("install", "--yes")
        self.switch.touch()
        assert self.said("degrade", "status")["data"]["degraded"]
        refused = self.run("degrade", "off", "--yes")
        assert refused.exit_code == 13
        assert f"/{SWITCH}; remove it, then run: optictl reload" in refused.stderr
        assert self.run("degrade", "on", "--yes").exit_code == 13
        self.switch.unlink()
        assert self.run("degrade", "off").exit_code == 0

    def test_only_root_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        for way in ("on", "off"):
            shown = CliRunner().invoke(build(), ["degrade", way, "--config", str(self.site)])
            assert shown.exit_code == 77

    @pytest.mark.parametrize("flag", ["--degraded", "--degraded-file=/x", "--degraded_file=/x"])
    def test_the_site_is_no_second_switch(self, flag: str) -> None:
        self.site.write_text(f"proxy: {{base_model: b, flags: [{flag}]}}\n")
        refused = self.run("install", "--yes")
        assert refused.exit_code == 2
        assert "is no setting: use optictl degrade" in refused.stderr


def install(machine: Machine) -> Done:
    return install_site(machine, agree=lambda _: None, tell=lambda _: None)


class TestUnderSystemd:
    @pytest.fixture
    def box(self, make_box: MakeBox) -> Box:
        box = make_box("service: {user: root}\nproxy: {base_model: b}\n")
        install(box.machine)
        return box

    def test_the_service_is_reloaded_and_not_restarted(self, box: Box) -> None:
        manager = box.manager
        assert isinstance(manager, FakeManager)
        reload = [("reload", "optillm-proxy.service")]
        for degraded in (True, False):
            manager.calls.clear()
            install(box.machine.degraded_as(degraded))
            assert manager.changes == reload
            assert (Path(f"/{SWITCH}") in disk(box).files) is degraded
        manager.calls.clear()
        roll_back(box.machine.anew(), 1, tell=lambda _: None)
        assert reload[0] in manager.changes
        assert Path(f"/{SWITCH}") in disk(box).files

    def test_the_check_warns_while_it_is_on(self, box: Box) -> None:
        assert found("degraded", box).status == "ok"
        install(box.machine.degraded_as(True))
        finding = found("degraded", box.anew())
        assert finding.status == "warn"
        assert finding.fix.startswith("optictl degrade off")
        assert found("drift", box.anew()).status == "ok"

    def test_the_canary_does_not_take_one_call_for_a_failure(self, box: Box) -> None:
        install(box.machine.degraded_as(True))
        finding = found("canary", box.anew())
        assert (finding.status, finding.saw) == (
            "skipped",
            "no approach runs: see the check degraded",
        )

    def test_in_the_foreground_it_is_as_in_the_unit(self, box: Box) -> None:
        for degraded in (False, True):
            with foreground(box.machine.degraded_as(degraded)) as service:
                words = service.words
                assert Path(words[words.index("--degraded-file") + 1]).exists() is degraded
