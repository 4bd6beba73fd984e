"""``optictl status``: the verdict first, from what systemd knows and the service says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_manager import FakeManager
from typer.testing import CliRunner

from optictl.cli import build
from optictl.errors import UnknownUnit
from optictl.exit_status import Exit
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.standing import Standing, standing
from optictl.system import RealSystem
from optictl.systemd import Unit

SERVICE, SOCKET = "optillm-proxy.service", "optillm-proxy.socket"
RUNNING = Unit(
    SERVICE,
    load="loaded",
    active="active",
    sub="running",
    file_state="enabled",
    main_pid=4711,
    memory=93 * 2**20,
    since="Sat 2026-11-21 06:00:00 UTC",
    status_text="serving on 127.0.0.1:4020: 2 workers, 0 requests",
)
STOPPED = Unit(SERVICE, load="loaded", file_state="disabled")
LISTENING = Unit(SOCKET, load="loaded", active="active", sub="listening", file_state="enabled")
CLOSED = Unit(SOCKET, load="loaded")
READY = {"status": "ok", "reason": None, "reload": None, "providers": []}

Answer = Callable[[httpx.Request], httpx.Response]


def machine(folder: Path, manager: FakeManager) -> Machine:
    path = folder / "optictl.yaml"
    path.write_text("proxy: {base_model: qwen3}\n")
    return Machine(load(path, {}), RealSystem(folder), manager, systemd=252)


def stands(folder: Path, manager: FakeManager, answer: Answer) -> Standing:
    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        return standing(machine(folder, manager), http)


def says(status: int, body: Any) -> Answer:
    return lambda request: httpx.Response(status, json=body)


def nobody_may_ask(request: httpx.Request) -> httpx.Response:
    raise AssertionError("the socket would start the service")


def test_a_service_that_is_ready(tmp_path: Path) -> None:
    found = stands(tmp_path, FakeManager(RUNNING, LISTENING), says(200, READY))
    assert found.verdict == (
        "optillm-proxy is running: ready; serving on 127.0.0.1:4020: 2 workers, 0 requests"
    )
    assert found.exit_code == Exit.OK
    assert ("pid", "4711", "-") in found.table()
    assert ("memory", "93 MiB", "-") in found.table()
    assert found.log == ()


def test_it_is_asked_where_the_site_says(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json=READY)

    stands(tmp_path, FakeManager(RUNNING, LISTENING), answer)
    assert asked == ["http://127.0.0.1:4020/health/ready"]


def test_running_but_not_ready_is_running_and_said(tmp_path: Path) -> None:
    body = {**READY, "status": "not ready", "reason": "the upstream does not answer"}
    found = stands(tmp_path, FakeManager(RUNNING, LISTENING), says(503, body))
    assert found.verdict.endswith("is running, but not ready: the upstream does not answer")
    assert found.exit_code == Exit.OK


def test_a_degraded_one_says_so_and_how_to_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {**READY, "degraded": True}
    found = stands(tmp_path, FakeManager(RUNNING, LISTENING), says(200, body))
    assert "is running: ready, but degraded; serving" in found.verdict
    assert found.health is not None
    assert found.as_json()["health"]["degraded"] is True
    monkeypatch.setattr("optictl.standing.standing", lambda *_: found)
    shown = CliRunner().invoke(build(), ["status", "--config", str(tmp_path / "optictl.yaml")])
    assert "every request is answered by none; to end it: optictl degrade off" in shown.stdout


def test_a_service_that_hangs(tmp_path: Path) -> None:
    def hang(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out")

    found = stands(tmp_path, FakeManager(RUNNING, LISTENING), hang)
    assert "not ready: no answer within 3 s" in found.verdict


@pytest.mark.parametrize("body", [["no object"], {"detail": "Not Found"}, "text", None])
def test_a_stranger_on_the_port(tmp_path: Path, body: Any) -> None:
    found = stands(tmp_path, FakeManager(RUNNING, LISTENING), says(200, body))
    assert "no optillm-proxy" in found.verdict


def test_a_stopped_one_is_not_asked_since_that_would_start_it(tmp_path: Path) -> None:
    found = stands(tmp_path, FakeManager(STOPPED, CLOSED), nobody_may_ask)
    assert found.verdict == "optillm-proxy is stopped; start it: optictl start"
    assert (found.exit_code, found.health) == (Exit.NOT_RUNNING, None)


def test_a_stopped_one_whose_socket_listens(tmp_path: Path) -> None:
    found = stands(tmp_path, FakeManager(STOPPED, LISTENING), nobody_may_ask)
    assert "the next request starts it" in found.verdict
    assert found.exit_code == Exit.NOT_RUNNING


@pytest.mark.parametrize(
    ("state", "log", "said"),
    [
        ({"active": "failed", "result": "watchdog"}, [], "it hung"),
        ({"active": "failed", "result": "novel"}, [], "has failed: novel;"),
        ({"active": "failed", "result": "start-limit-hit"}, [], "given up"),
        (
            {"active": "failed", "result": "exit-code"},
            ["optillm-proxy.service: Start request repeated too quickly."],
            "it ended with an error, again and again, and systemd has given up (start-limit)",
        ),
        (
            {"active": "activating", "sub": "auto-restart", "result": "signal"},
            [],
            "about to be started again: it was killed",
        ),
        (
            {"active": "activating", "sub": "start-post", "result": "success", "restarts": 1},
            [],
            "is being started again (1 time by now)",
        ),
        (
            {"active": "deactivating", "sub": "stop-sigterm", "result": "exit-code"},
            [],
            "is going down, to be started again: it ended with an error",
        ),
    ],
)
def test_a_failed_one_shows_its_log(
    tmp_path: Path, state: dict[str, Any], log: list[str], said: str
) -> None:
    failed = Unit(SERVICE, load="loaded", **state)
    manager = FakeManager(failed, LISTENING, said=log or ["why"])
    found = stands(tmp_path, manager, nobody_may_ask)
    assert said in found.verdict
    assert found.log == tuple(log or ["why"])
    assert found.more == f"journalctl {SERVICE} {SOCKET} --since -10min"
    assert found.exit_code == Exit.NOT_RUNNING


@pytest.mark.parametrize(
    ("active", "said"), [("activating", "is starting"), ("deactivating", "is stopping")]
)
def test_one_on_its_way(tmp_path: Path, active: str, said: str) -> None:
    moving = Unit(SERVICE, load="loaded", active=active, result="success")
    found = stands(tmp_path, FakeManager(moving, LISTENING), nobody_may_ask)
    assert said in found.verdict
    assert not found.log


def test_a_unit_that_systemd_cannot_load(tmp_path: Path) -> None:
    found = stands(tmp_path, FakeManager(Unit(SERVICE, load="bad-setting")), nobody_may_ask)
    assert "cannot be used (bad-setting)" in found.verdict


def test_a_unit_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownUnit, match="optictl install"):
        stands(tmp_path, FakeManager(), nobody_may_ask)


class TestTheCommand:
    def run(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *units: Unit) -> Any:
        site = folder / "optictl.yaml"
        site.write_text("proxy: {base_model: qwen3}\n")
        manager = FakeManager(*units, said=["it went wrong"])
        monkeypatch.setattr("optictl.systemd.Systemd", lambda scope: manager)
        return lambda *more: CliRunner().invoke(build(), ["status", "--config", str(site), *more])

    def test_the_verdict_is_the_first_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drop_in = Path("/etc/systemd/system/optillm-proxy.service.d/own.conf")
        failed = Unit(SERVICE, load="loaded", active="failed", drop_ins=(drop_in,))
        shown = self.run(tmp_path, monkeypatch, failed, CLOSED)()
        assert shown.exit_code == 3
        lines = shown.stdout.splitlines()
        assert lines[0].startswith("optillm-proxy has failed: ")
        assert lines[-1] == "  it went wrong"
        assert str(drop_in) in shown.stdout
        assert shown.stderr.startswith("more: journalctl ")

    def test_in_json_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shown = self.run(tmp_path, monkeypatch, STOPPED, CLOSED)("--json")
        assert shown.exit_code == 3
        answer = json.loads(shown.stdout)
        assert (answer["exit_code"], answer["status"]) == (3, "success")
        assert answer["data"]["verdict"].startswith("optillm-proxy is stopped")
        assert [unit["name"] for unit in answer["data"]["units"]] == [SERVICE, SOCKET]

    def test_one_that_is_not_installed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = self.run(tmp_path, monkeypatch)("--json")
        assert shown.exit_code == 4
        assert json.loads(shown.stdout)["errors"][0]["code"] == "unknown_unit"
