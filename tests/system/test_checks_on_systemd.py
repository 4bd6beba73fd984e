"""``optictl check`` on a real systemd: a service that is well, and what goes wrong with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, lab

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

SERVICE = "optillm-proxy.service"
UNITS = "/etc/systemd/system"
OPTICTL = "/usr/local/bin/optictl"
DECLARED = """\
service: {user: optillm}
proxy:
  base_model: sim
  key: {file: /etc/optillm-clients.key}
upstream:
  key: {env_file: /etc/litellm.env, name: LITELLM_MASTER_KEY}
neighbours:
  - {name: litellm, port: "4000"}
"""


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Lab:
    """The service as rendered, started; curl's part of its warmup is left out."""
    lab.run("useradd", "--create-home", "optillm")
    lab.write("/etc/optillm-clients.key", "sk-clients\n", "600")
    lab.write("/etc/litellm.env", "LITELLM_MASTER_KEY=sk-master\n", "600")
    lab.write("/etc/upstream.key", "sk-master\n", "600")
    lab.run("ln", "-sf", OPTICTL, str(Path(sys.executable).resolve().parent / "optictl"))
    lab.run("mkdir", "-p", "/etc/optillm-proxy", f"{UNITS}/{SERVICE}.d")
    lab.write("/etc/optillm-proxy/optictl.yaml", DECLARED)
    lab.write(f"{UNITS}/{SERVICE}.d/alone.conf", "[Service]\nExecStartPost=\n")
    simulate = (OPTICTL, "simulate", "--port", "4000", "--api-key-file", "/etc/upstream.key")
    lab.run("systemd-run", "--quiet", "--collect", "--unit=litellm", *simulate)
    lab.run(OPTICTL, "render", "--output", "/rendered")
    lab.run("cp", "-a", "/rendered/etc", "/")
    lab.run("systemctl", "daemon-reload")
    lab.run("systemctl", "enable", "--quiet", SERVICE)
    return lab


@pytest.fixture
def running(machine: Lab) -> Iterator[Lab]:
    machine.run("systemctl", "reset-failed", SERVICE, check=False)
    started = machine.script("run", "systemctl", "start", SERVICE)
    assert started.returncode == 0, machine.journal(SERVICE)
    yield machine
    machine.run("systemctl", "stop", "optillm-proxy.socket", SERVICE)


def check(lab: Lab, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and what each check has found."""
    done = lab.script("run", OPTICTL, "check", "--json", *arguments)
    assert "sk-" not in done.stdout + done.stderr
    told = json.loads(done.stdout)["data"]["checks"]
    return done.returncode, {each["name"]: each for each in told}


def of(found: dict[str, Any], status: str) -> set[str]:
    return {name for name, each in found.items() if each["status"] == status}


def test_a_service_that_is_well(running: Lab) -> None:
    status, found = check(running, "--deep")
    assert status == 0, found
    assert of(found, "fail") == of(found, "warn") == set()
    assert of(found, "skipped") == {"gateway", "gateway_settings", "members", "router", "routing"}
    assert found["drop_ins"]["saw"] == f"{UNITS}/{SERVICE}.d/alone.conf"
    assert found["port"]["saw"] == f"127.0.0.1 port 4020, held by {SERVICE}"


def test_a_unit_changed_on_disk(running: Lab) -> None:
    running.run("sh", "-c", f"echo '# mine' >> {UNITS}/{SERVICE}")
    status, found = check(running)
    assert status == 1
    assert of(found, "fail") == {"drift"}
    assert of(found, "warn") == {"daemon_reload"}
    status, found = check(running, "daemon_reload", "--fix")
    assert (status, of(found, "ok")) == (0, {"daemon_reload"})
    running.run("cp", "-a", f"/rendered{UNITS}/{SERVICE}", f"{UNITS}/{SERVICE}")
    running.run("systemctl", "daemon-reload")


def test_a_service_that_has_died_once(running: Lab) -> None:
    pid = running.show(SERVICE, "MainPID")
    running.run("kill", "-9", pid)
    for _ in range(200):
        if running.show(SERVICE, "NRestarts") == "1":
            break
        time.sleep(0.05)
    _, found = check(running, "restarts")
    assert found["restarts"]["status"] != "ok"
    running.run("systemctl", "restart", SERVICE)
    _, found = check(running, "restarts")
    assert found["restarts"]["status"] == "ok"


def test_another_service_on_the_port(machine: Lab) -> None:
    thief = (OPTICTL, "simulate", "--port", "4020")
    machine.run("systemd-run", "--quiet", "--collect", "--unit=thief", *thief)
    try:
        for _ in range(200):
            if machine.run("ss", "-Hltn", "sport", "=", ":4020"):
                break
            time.sleep(0.05)
        _, found = check(machine, "port", "ready", "active")
        assert of(found, "fail") == {"port", "ready", "active"}
        assert f"not by {SERVICE}" in found["port"]["saw"]
    finally:
        machine.run("systemctl", "stop", "thief")


def test_fix_starts_what_was_stopped(machine: Lab) -> None:
    try:
        status, found = check(machine, "--fast", "--fix")
        assert status == 0, found
        assert {"active", "ready", "port", "auth"} <= of(found, "ok")
    finally:
        machine.run("systemctl", "stop", "optillm-proxy.socket", SERVICE)
