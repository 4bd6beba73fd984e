"""The checks of the units, the process and its port."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from boxes import PID, SERVICE, SOCKET, MakeBox, found, make_box
from fake_manager import FakeManager

from optictl.errors import SystemdFailed
from optictl.systemd import Unit

__all__ = ["make_box"]  # a fixture, used by name

OF_SYSTEMD = ["active", "enabled", "restarts", "daemon_reload", "drop_ins", "exposure", "port"]


class Deaf(FakeManager):
    def show(self, unit: str) -> Unit:
        raise SystemdFailed(f"systemctl show {unit}: Failed to connect to bus: Host is down")


@pytest.mark.parametrize("name", OF_SYSTEMD)
def test_a_staging_tree_has_no_systemd(make_box: MakeBox, name: str) -> None:
    finding = found(name, make_box(manager=None))
    assert (finding.status, finding.saw) == ("skipped", "a staging tree has no systemd")


def test_a_systemd_that_does_not_answer_is_one_failure(make_box: MakeBox) -> None:
    box = make_box(manager=Deaf())
    found_of = {name: found(name, box) for name in OF_SYSTEMD if name != "exposure"}
    assert [name for name, each in found_of.items() if each.status == "fail"] == ["active"]
    said = "systemd does not answer: Failed to connect to bus: Host is down"
    assert {each.saw for each in found_of.values()} == {said}


class TestActive:
    def test_it_runs(self, make_box: MakeBox) -> None:
        finding = found("active", make_box())
        assert finding.status == "ok"
        assert f"pid {PID}" in finding.saw

    def test_it_is_not_installed(self, make_box: MakeBox) -> None:
        finding = found("active", make_box(units=()))
        assert finding.status == "fail"
        assert finding.fix.startswith("optictl install")

    def test_it_was_stopped_and_can_be_started(self, make_box: MakeBox) -> None:
        stopped = replace(SERVICE, active="inactive", sub="dead", main_pid=0)
        box = make_box(units=(stopped, replace(SOCKET, active="inactive")))
        finding = found("active", box)
        assert finding.status == "fail"
        assert finding.fix.startswith("optictl start")
        finding.repair()
        assert found("active", box.anew()).status == "ok"

    def test_it_has_failed_and_its_log_says_why(self, make_box: MakeBox) -> None:
        failed = replace(SERVICE, active="failed", result="exit-code")
        finding = found("active", make_box(units=(failed, SOCKET)))
        assert finding.status == "fail"
        assert "exit-code" in finding.saw
        assert finding.fix.startswith("optictl logs")

    def test_without_the_socket_a_restart_refuses(self, make_box: MakeBox) -> None:
        finding = found("active", make_box(units=(SERVICE, replace(SOCKET, active="inactive"))))
        assert finding.status == "warn"
        assert SOCKET.name in finding.saw


class TestEnabled:
    def test_both_units(self, make_box: MakeBox) -> None:
        assert found("enabled", make_box()).status == "ok"

    def test_one_is_not_and_can_be(self, make_box: MakeBox) -> None:
        box = make_box(units=(SERVICE, replace(SOCKET, file_state="disabled")))
        finding = found("enabled", box)
        assert (finding.status, finding.fix) == ("warn", f"systemctl enable {SOCKET.name}")
        finding.repair()
        assert found("enabled", box.anew()).status == "ok"

    def test_what_is_not_installed_is_another_checks_matter(self, make_box: MakeBox) -> None:
        assert found("enabled", make_box(units=())).status == "skipped"

    def test_a_service_of_a_user_ends_with_the_login(
        self, make_box: MakeBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("optictl.checks.enabled.lingers", lambda user: user == "somebody")
        monkeypatch.setenv("LOGNAME", "ada")
        manager = FakeManager(SERVICE, SOCKET, scope="user")
        finding = found("enabled", make_box(manager=manager))
        assert (finding.status, finding.fix) == ("warn", "loginctl enable-linger ada")
        monkeypatch.setenv("LOGNAME", "somebody")
        assert found("enabled", make_box(manager=manager)).status == "ok"


class TestRestarts:
    def test_never(self, make_box: MakeBox) -> None:
        assert found("restarts", make_box()).status == "ok"

    def test_some(self, make_box: MakeBox) -> None:
        finding = found("restarts", make_box(units=(replace(SERVICE, restarts=3),)))
        assert (finding.status, finding.saw) == ("warn", "died and was started again 3 times")
        assert finding.fix == f"journalctl -u {SERVICE.name} -n 50"

    def test_in_between_two(self, make_box: MakeBox) -> None:
        loop = replace(
            SERVICE, active="activating", sub="auto-restart", result="signal", restarts=2
        )
        finding = found("restarts", make_box(units=(loop,)))
        assert finding.status == "fail"
        assert "signal" in finding.saw

    def test_systemd_has_given_up(self, make_box: MakeBox) -> None:
        dead = replace(SERVICE, active="failed", result="start-limit-hit", restarts=5)
        finding = found("restarts", make_box(units=(dead,)))
        assert finding.status == "fail"
        assert "start-limit-hit" in finding.saw
        assert "optictl restart" in finding.fix


class TestDaemonReload:
    def test_nothing_to_read(self, make_box: MakeBox) -> None:
        assert found("daemon_reload", make_box()).status == "ok"

    def test_a_unit_changed_on_disk(self, make_box: MakeBox) -> None:
        box = make_box(units=(replace(SERVICE, need_daemon_reload=True), SOCKET))
        finding = found("daemon_reload", box)
        assert (finding.status, finding.fix) == ("warn", "systemctl daemon-reload")
        assert SERVICE.name in finding.saw
        finding.repair()
        assert found("daemon_reload", box.anew()).status == "ok"


class TestDropIns:
    def test_none(self, make_box: MakeBox) -> None:
        assert found("drop_ins", make_box()).saw == "none"

    def test_they_are_named(self, make_box: MakeBox) -> None:
        theirs = Path("/etc/systemd/system/optillm-proxy.service.d/mine.conf")
        finding = found("drop_ins", make_box(units=(replace(SERVICE, drop_ins=(theirs,)),)))
        assert (finding.status, finding.saw) == ("ok", str(theirs))


class TestExposure:
    @pytest.mark.parametrize(
        ("profile", "level", "status"),
        [
            ("strict", 1.2, "ok"),
            ("strict", 1.3, "warn"),
            ("torch", 1.4, "ok"),
            ("torch", 2, "warn"),
        ],
    )
    def test_against_what_the_profile_should_have(
        self, make_box: MakeBox, profile: str, level: float, status: str
    ) -> None:
        asked: list[Path] = []

        def analyze(command: Sequence[str]) -> str:
            asked.append(Path(command[-1]))
            assert b"ExecStart=" in asked[0].read_bytes()
            return f"→ Overall exposure level for optillm-proxy.service: {level} OK"

        site = f"service: {{profile: {profile}}}\nproxy: {{base_model: sim}}"
        assert found("exposure", make_box(site, run=analyze)).status == status
        assert asked[0].name == "optillm-proxy.service"
        assert not asked[0].exists()

    def test_a_user_may_confine_nothing(self, make_box: MakeBox) -> None:
        finding = found("exposure", make_box(manager=FakeManager(scope="user")))
        assert finding.status == "skipped"


class Proc:
    """A /proc with sockets that listen, and processes that hold them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, list[str]] = {"tcp": [], "tcp6": []}
        (folder / "net").mkdir(parents=True)

    def listen(self, address: str, inode: int, port: int = 4020, state: str = "0A") -> None:
        ip = ip_address(address)
        words = struct.unpack(f"={len(ip.packed) // 4}I", ip.packed)
        at = f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"
        lines = self._lines["tcp" if ip.version == 4 else "tcp6"]
        lines.append(f"   0: {at} 00000000:0000 {state} 0:0 00:0 0  0  0 {inode} 1 0 100")
        for name, each in self._lines.items():
            (self.folder / "net" / name).write_text(
                "\n".join(["  sl  local_address", *each]) + "\n"
            )

    def process(self, pid: int, name: str, *inodes: int, cgroup: str = "/init.scope") -> None:
        folder = self.folder / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
        for number, inode in enumerate(inodes):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


class TestPort:
    OURS = f"/system.slice/{SERVICE.name}"

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
    def test_the_service_and_systemd_hold_it(
        self, make_box: MakeBox, proc: Proc, address: str
    ) -> None:
        proc.listen(address, 77)
        proc.process(1, "systemd", 77)
        proc.process(PID, "optillm-proxy", 76, 77, cgroup="/somewhere/else")
        proc.process(PID + 1, "optillm-proxy", 77, cgroup=self.OURS)
        finding = found("port", make_box())
        assert finding.status == "ok"
        assert address.removeprefix("::ffff:") in finding.saw

    def test_nobody_listens(self, make_box: MakeBox, proc: Proc) -> None:
        proc.listen("127.0.0.1", 77, port=4021)
        proc.listen("127.0.0.1", 78, state="01")  # a connection, no listener
        finding = found("port", make_box())
        assert finding.status == "fail"
        assert finding.fix.startswith("optictl start")

    def test_somebody_else_has_it(self, make_box: MakeBox, proc: Proc) -> None:
        proc.listen("127.0.0.1", 77)
        proc.process(900, "nginx", 77, cgroup="/system.slice/nginx.service")
        finding = found("port", make_box())
        assert finding.status == "fail"
        assert "process 900 (nginx)" in finding.saw

    def test_a_socket_unit_that_is_down_has_no_port(self, make_box: MakeBox, proc: Proc) -> None:
        proc.listen("127.0.0.1", 77)
        proc.process(1, "systemd", 77)
        box = make_box(units=(SERVICE, replace(SOCKET, active="inactive")))
        assert "process 1 (systemd)" in found("port", box).saw

    @pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.71", "::"])
    def test_open_to_others(self, make_box: MakeBox, proc: Proc, address: str) -> None:
        proc.listen(address, 77)
        proc.process(PID, "optillm-proxy", 77, cgroup=self.OURS)
        finding = found("port", make_box())
        assert finding.status == "fail"
        assert f"listens on {address}" in finding.saw

    def test_open_to_others_as_declared(self, make_box: MakeBox, proc: Proc) -> None:
        proc.listen("0.0.0.0", 77)
        proc.process(PID, "optillm-proxy", 77, cgroup=self.OURS)
        box = make_box("proxy: {base_model: sim, host: 0.0.0.0, allow_external: true}")
        assert found("port", box).status == "ok"

    def test_whose_it_is_cannot_be_seen(self, make_box: MakeBox, proc: Proc) -> None:
        proc.listen("127.0.0.1", 77)
        finding = found("port", make_box())
        assert finding.status == "skipped"
        assert "only root sees" in finding.saw

    @pytest.fixture
    def listening(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def test_a_real_socket_of_this_process(self, make_box: MakeBox, listening: int) -> None:
        site = f"proxy: {{base_model: sim, port: {listening}}}"
        real = Path("/proc")
        ours = replace(SERVICE, main_pid=os.getpid())
        assert found("port", make_box(site, units=(ours, SOCKET), proc=real)).status == "ok"
        finding = found("port", make_box(site, proc=real))
        assert f"process {os.getpid()}" in finding.saw
