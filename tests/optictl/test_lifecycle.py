"""start, stop, restart, reload, logs: what is asked of systemd, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_manager import FakeManager
from typer.testing import CliRunner

from optictl import lifecycle
from optictl.cli import build
from optictl.errors import NeedsRoot, NotRunning, UnitFailed, UnknownUnit
from optictl.lifecycle import log_entries, require_root
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.system import RealSystem
from optictl.systemd import Unit

SERVICE, SOCKET = "optillm-proxy.service", "optillm-proxy.socket"
RUNNING = Unit(SERVICE, load="loaded", active="active", sub="running", main_pid=4711)
STOPPED = Unit(SERVICE, load="loaded")
FAILED = Unit(SERVICE, load="loaded", active="failed", sub="failed", result="exit-code")
LISTENING = Unit(SOCKET, load="loaded", active="active", sub="listening")
CLOSED = Unit(SOCKET, load="loaded")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


def machine(folder: Path, manager: FakeManager | None, *sets: str) -> Machine:
    path = folder / "optictl.yaml"
    path.write_text("proxy: {base_model: qwen3}\n")
    return Machine(load(path, {}, sets), RealSystem(folder), manager, systemd=252)


class TestStart:
    @pytest.mark.parametrize("unit", [STOPPED, FAILED])
    def test_failures_are_forgotten_then_socket_and_service_start(
        self, tmp_path: Path, unit: Unit
    ) -> None:
        manager = FakeManager(unit, CLOSED)
        assert lifecycle.start(machine(tmp_path, manager)).outcome == "started"
        assert manager.changes == [("reset_failed", SOCKET, SERVICE), ("start", SOCKET, SERVICE)]
        assert manager.units[SERVICE].running
        assert manager.units[SOCKET].running

    def test_one_that_runs_is_left_alone(self, tmp_path: Path) -> None:
        manager = FakeManager(RUNNING, LISTENING)
        done = lifecycle.start(machine(tmp_path, manager))
        assert (done.outcome, manager.changes) == ("already_running", [])

    def test_one_that_does_not_come_up_shows_its_log(self, tmp_path: Path) -> None:
        manager = FakeManager(STOPPED, CLOSED, fails={"start"}, said=["the key is wrong"])
        with pytest.raises(UnitFailed, match="the key is wrong"):
            lifecycle.start(machine(tmp_path, manager))


class TestStop:
    def test_the_socket_stops_too_and_that_is_said(self, tmp_path: Path) -> None:
        manager = FakeManager(RUNNING, LISTENING)
        done = lifecycle.stop(machine(tmp_path, manager))
        assert manager.changes == [("stop", SERVICE, SOCKET)]
        assert done.outcome == "stopped"
        assert SOCKET in done.line

    def test_a_socket_that_listens_alone_is_stopped(self, tmp_path: Path) -> None:
        manager = FakeManager(STOPPED, LISTENING)
        assert lifecycle.stop(machine(tmp_path, manager)).outcome == "stopped"
        assert manager.units[SOCKET].active == "inactive"

    @pytest.mark.parametrize("unit", [STOPPED, FAILED])
    def test_twice_is_once(self, tmp_path: Path, unit: Unit) -> None:
        manager = FakeManager(unit, CLOSED)
        done = lifecycle.stop(machine(tmp_path, manager))
        assert (done.outcome, manager.changes) == ("already_stopped", [])


class TestRestart:
    @pytest.mark.parametrize("unit", [RUNNING, STOPPED, FAILED])
    def test_the_socket_stays(self, tmp_path: Path, unit: Unit) -> None:
        manager = FakeManager(unit, LISTENING)
        assert lifecycle.restart(machine(tmp_path, manager)).outcome == "restarted"
        assert manager.changes == [("reset_failed", SERVICE), ("restart", SERVICE)]


class TestReload:
    def test_one_that_runs(self, tmp_path: Path) -> None:
        manager = FakeManager(RUNNING, LISTENING)
        assert lifecycle.reload(machine(tmp_path, manager)).outcome == "reloaded"
        assert manager.changes == [("reload", SERVICE)]

    def test_one_that_does_not(self, tmp_path: Path) -> None:
        manager = FakeManager(STOPPED, LISTENING)
        with pytest.raises(NotRunning, match="optictl start"):
            lifecycle.reload(machine(tmp_path, manager))
        assert manager.changes == []


@pytest.mark.parametrize(
    "turn", [lifecycle.start, lifecycle.stop, lifecycle.restart, lifecycle.reload]
)
class TestWhoMayAndWhat:
    def test_a_service_that_is_not_installed(
        self, tmp_path: Path, turn: Callable[[Machine], Any]
    ) -> None:
        manager = FakeManager()
        with pytest.raises(UnknownUnit, match="optictl install"):
            turn(machine(tmp_path, manager))
        assert manager.changes == []

    def test_only_root_and_with_the_line_to_type(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: Callable[[Machine], Any]
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        monkeypatch.setattr("sys.argv", ["/opt/optictl/bin/optictl", "stop", "--set", "a=b c"])
        manager = FakeManager(RUNNING, LISTENING)
        with pytest.raises(NeedsRoot) as refused:
            turn(machine(tmp_path, manager))
        assert str(refused.value).endswith("run: sudo /opt/optictl/bin/optictl stop --set 'a=b c'")
        assert manager.calls == []

    def test_a_service_of_ones_own_needs_no_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: Callable[[Machine], Any]
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        manager = FakeManager(RUNNING, LISTENING, scope="user")
        turn(machine(tmp_path, manager, "service.scope=user"))


def test_a_staging_tree_needs_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    require_root(machine(tmp_path, None))


def test_log_entries_whoever_wrote_them() -> None:
    at = "1763704800500000"
    lines = [
        {"__REALTIME_TIMESTAMP": at, "_SYSTEMD_UNIT": SERVICE, "PRIORITY": "4", "MESSAGE": "slow"},
        {
            "__REALTIME_TIMESTAMP": at,
            "_SYSTEMD_UNIT": "init.scope",
            "UNIT": SERVICE,
            "MESSAGE": "x",
        },
        {"__REALTIME_TIMESTAMP": at, "_SYSTEMD_USER_UNIT": SERVICE, "MESSAGE": [104, 105, 255]},
        {"__REALTIME_TIMESTAMP": at, "MESSAGE": None},
    ]
    found = list(log_entries("\n".join(map(json.dumps, lines))))
    assert [entry["message"] for entry in found] == ["slow", "x", "hi�", ""]
    assert [entry["unit"] for entry in found] == [SERVICE, SERVICE, SERVICE, ""]
    assert [entry["priority"] for entry in found] == [4, 6, 6, 6]
    assert {entry["time"] for entry in found} == {"2025-11-21T06:00:00.500000+00:00"}


class TestTheCommands:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        site = tmp_path / "optictl.yaml"
        site.write_text("proxy: {base_model: qwen3}\n")
        manager = FakeManager(RUNNING, LISTENING)
        monkeypatch.setattr("optictl.systemd.Systemd", lambda scope: manager)
        return lambda command, *more: CliRunner().invoke(
            build(), [command, "--config", str(site), *more]
        )

    @pytest.mark.parametrize("command", ["start", "stop", "restart", "reload"])
    def test_each_answers_in_words(self, run: Callable[..., Any], command: str) -> None:
        shown = run(command)
        assert (shown.exit_code, shown.stdout) == (0, "")
        assert SERVICE in shown.stderr

    def test_in_json(self, run: Callable[..., Any]) -> None:
        answer = json.loads(run("start", "--json").stdout)
        assert answer["data"] == {"unit": SERVICE, "outcome": "already_running"}

    def journalctl(self, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
        program = folder / "journalctl"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def test_logs_ask_journalctl_for_both_units(
        self, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.journalctl(tmp_path, monkeypatch, 'echo "$@"')
        assert run("logs").stdout == f"{SERVICE} {SOCKET} --lines 50\n"
        assert run("logs", "--since", "-10min").stdout == f"{SERVICE} {SOCKET} --since -10min\n"
        assert run("logs", "-n", "5", "--since", "today").stdout.endswith("today --lines 5\n")

    def test_an_empty_log_is_said_to_be(
        self, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.journalctl(tmp_path, monkeypatch, "true")
        assert run("logs").stderr == "warning: no lines\n"
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert "sudo optictl logs" in run("logs").stderr

    def test_logs_that_go_on_are_journalctls(
        self, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        became: list[list[str]] = []
        monkeypatch.setattr("os.execvp", lambda file, command: became.append(command))
        run("logs", "--follow")
        assert became == [["journalctl", SERVICE, SOCKET, "--lines", "50", "--follow"]]

    def test_logs_in_json_come_to_an_end(
        self, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = '{"__REALTIME_TIMESTAMP": "0", "MESSAGE": "hi"}'
        self.journalctl(tmp_path, monkeypatch, f"echo '{line}'")
        [entry] = json.loads(run("logs", "--json").stdout)["data"]
        assert (entry["message"], entry["time"]) == ("hi", "1970-01-01T00:00:00+00:00")
        shown = run("logs", "--json", "--follow")
        assert shown.exit_code == 2
        assert json.loads(shown.stdout)["errors"][0]["code"] == "usage"
