"""The commands of the running service, under a real systemd."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import eventually
from lab import Lab, lab

from optictl.places import Places
from optictl.render import FLOOR, Facts, render
from optictl.site_loading import load
from proxy.settings import Secret

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

NAME = "optillm-proxy"
SERVICE, SOCKET = f"{NAME}.service", f"{NAME}.socket"
HOME = Path("/home/optillm")
KEY = "sk-up-never-shown"
SITE = f"""\
proxy:
  base_model: gpt-4o-mini
  warmup_timeout: 20
  key: {{file: /etc/{NAME}/clients.key}}
upstream:
  base_url: http://127.0.0.1:4000/v1
  key: {{file: /etc/litellm.key}}
"""
CONFIG = f"/etc/{NAME}/proxy_config.yaml"


def optictl(lab: Lab, *words: str) -> CompletedProcess[str]:
    return lab.script("run", "/usr/local/bin/optictl", *words)


def simulate(lab: Lab, *flags: str) -> None:
    """The upstream, as LiteLLM would stand there."""
    lab.script("run", "systemctl", "stop", "litellm")
    program = ("/usr/local/bin/optictl", "simulate", "--port", "4000")
    lab.run("systemd-run", "--quiet", "--collect", "--unit=litellm", *program, *flags)


@pytest.fixture(scope="module")
def machine(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The lab with the site's files, as installing writes them."""
    # validate looks for the program beside the interpreter.
    beside = Path(sys.executable).resolve().parent / "optictl"
    lab.run("ln", "-sf", "/usr/local/bin/optictl", str(beside))
    lab.run("useradd", "--create-home", "--home-dir", str(HOME), "optillm")
    lab.run("mkdir", "-p", f"/etc/{NAME}")
    lab.write(f"/etc/{NAME}/clients.key", "sk-clients\n", "600")
    lab.write("/etc/litellm.key", f"{KEY}\n", "600")
    lab.write(f"/etc/{NAME}/optictl.yaml", SITE)
    file = tmp_path_factory.mktemp("site") / "optictl.yaml"
    file.write_text(SITE)
    facts = Facts(
        optictl=Path("/usr/local/bin/optictl"),
        systemd=FLOOR,
        home=HOME,
        python=Path(sys.base_prefix).resolve(),
    )
    site = load(file, {}).site
    for artifact in render(site, facts, {"upstream.key": Secret(KEY)}, Places.of(site, home=HOME)):
        lab.write(str(artifact.path), artifact.content.decode(), f"{artifact.mode:o}")
    lab.run("systemctl", "daemon-reload")
    return lab


@pytest.fixture
def running(machine: Lab) -> Iterator[Lab]:
    """The service, warm."""
    simulate(machine)
    started = optictl(machine, "start")
    assert started.returncode == 0, started.stderr + machine.journal(SERVICE)
    yield machine
    optictl(machine, "stop")


def test_start_is_done_when_the_service_has_answered(running: Lab) -> None:
    said = running.journal(SERVICE)
    assert "router: absent (" in said
    assert "warm: gpt-4o-mini answered after" in said
    assert "sk-" not in said
    again = optictl(running, "start", "--json")
    assert json.loads(again.stdout)["data"]["outcome"] == "already_running"


def test_warmup_by_hand_needs_no_flags(running: Lab) -> None:
    done = optictl(running, "warmup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("warm: ")


def test_status_of_a_running_service(running: Lab) -> None:
    shown = optictl(running, "status")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"{NAME} is running: ready; serving on 127.0.0.1:4020: 1 worker")
    assert "provider litellm: in use" in lines
    assert json.loads(optictl(running, "status", "--json").stdout)["data"]["health"]["ready"]


def test_running_without_its_upstream_is_running_and_said(running: Lab) -> None:
    running.run("systemctl", "stop", "litellm")
    # What was known of it a moment ago holds for a moment.
    assert eventually(lambda: "is running, but not ready: " in optictl(running, "status").stdout)
    assert optictl(running, "status").returncode == 0


def test_status_does_not_start_what_is_stopped(machine: Lab) -> None:
    assert optictl(machine, "stop").returncode == 0
    machine.run("systemctl", "start", SOCKET)
    shown = optictl(machine, "status")
    assert shown.returncode == 3
    assert "the next request starts it" in shown.stdout
    assert machine.show(SERVICE, "ActiveState") == "inactive"
    stopped = optictl(machine, "stop", "--json")
    assert json.loads(stopped.stdout)["data"]["outcome"] == "stopped"
    assert machine.show(SOCKET, "ActiveState") == "inactive"


def test_status_of_what_systemd_does_not_know(machine: Lab) -> None:
    shown = optictl(machine, "status", "--set", "service.name=another", "--json")
    assert shown.returncode == 4
    assert json.loads(shown.stdout)["errors"][0]["code"] == "unknown_unit"


def test_a_reload_that_cannot_be_used_keeps_the_old_one_serving(running: Lab) -> None:
    before = running.run("cat", CONFIG)
    pid = running.show(SERVICE, "MainPID")
    running.write(CONFIG, before.replace("base_url", "bass_url"))
    try:
        refused = optictl(running, "reload")
        assert refused.returncode == 1
        assert f"{CONFIG}:" in refused.stderr
        assert "bass_url" in refused.stderr
        assert running.show(SERVICE, "ActiveState") == "active"
        assert optictl(running, "warmup").returncode == 0
    finally:
        running.write(CONFIG, before)
    done = optictl(running, "reload")
    assert done.returncode == 0, done.stderr
    assert running.show(SERVICE, "MainPID") == pid
    assert "valid: " in running.journal(SERVICE)


def test_restart_forgets_failures_and_keeps_the_socket(running: Lab) -> None:
    pid = running.show(SERVICE, "MainPID")
    done = optictl(running, "restart")
    assert done.returncode == 0, done.stderr
    assert running.show(SERVICE, "MainPID") != pid
    assert running.show(SOCKET, "ActiveState") == "active"


def test_logs_of_both_units(running: Lab) -> None:
    shown = optictl(running, "logs", "-n", "200")
    assert "warm: gpt-4o-mini" in shown.stdout
    entries = json.loads(optictl(running, "logs", "--since", "-1h", "--json").stdout)["data"]
    assert {SERVICE, SOCKET} <= {entry["unit"] for entry in entries}
    followed = running.script(
        "run", "timeout", "5", "/usr/local/bin/optictl", "logs", "--follow", "-n", "1"
    )
    assert followed.stdout.strip()


def test_a_key_that_the_upstream_refuses_fails_the_start_and_says_so(machine: Lab) -> None:
    optictl(machine, "stop")
    machine.write("/etc/another.key", "sk-another\n")
    simulate(machine, "--api-key-file", "/etc/another.key")
    try:
        failed = optictl(machine, "start")
        assert failed.returncode == 1
        assert "upstream_auth" in failed.stderr
        assert "upstream.key in optictl.yaml" in failed.stderr
        assert "more: journalctl" in failed.stderr
        assert KEY not in failed.stderr + machine.journal(SERVICE)
        # Whether it waits to be started again, or is just being.
        for _ in range(3):
            shown = optictl(machine, "status")
            assert shown.returncode == 3
            assert "again" in shown.stdout
            assert "journalctl --no-pager" in shown.stderr
    finally:
        optictl(machine, "stop")


def test_a_service_that_ends_at_once_ends_its_warmup(machine: Lab) -> None:
    """systemd itself would wait for the warmup's whole time."""
    simulate(machine)
    folder = f"/etc/systemd/system/{SERVICE}.d"
    machine.run("mkdir", "-p", folder)
    # Ready, and gone a moment later, with the warmup asking a port where nobody listens.
    body = f"/etc/{NAME}/warmup.json"
    machine.write(
        f"{folder}/dies.conf",
        "[Service]\nExecStart=\nRestart=no\nNotifyAccess=all\n"
        "ExecStart=/bin/sh -c 'systemd-notify --ready; sleep 1; exit 7'\nExecStartPost=\n"
        f"ExecStartPost=/usr/local/bin/optictl warmup --url http://127.0.0.1:9 --body {body} "
        "--timeout 60 --pid $MAINPID\n",
    )
    machine.run("systemctl", "daemon-reload")
    try:
        failed = optictl(machine, "start")
        assert failed.returncode == 1
        assert "has ended" in failed.stderr
        assert machine.show(SERVICE, "ActiveState") == "failed"
    finally:
        machine.run("rm", "-r", folder)
        machine.run("systemctl", "daemon-reload")
        optictl(machine, "stop")


def test_validate_of_the_site_and_of_a_drop_in(machine: Lab) -> None:
    sound = optictl(machine, "validate")
    assert sound.returncode == 0, sound.stderr
    assert sound.stdout.startswith("valid: ")
    folder = f"/etc/systemd/system/{SERVICE}.d"
    machine.run("mkdir", "-p", folder)
    machine.write(f"{folder}/own.conf", "[Service]\nEnvironmentFile=/none\nRestart=sometimes\n")
    try:
        wrong = optictl(machine, "validate")
        assert wrong.returncode == 2
        assert f"{folder}/own.conf:2: /none does not exist" in wrong.stderr
        assert f"{folder}/own.conf:3: " in wrong.stderr
    finally:
        machine.run("rm", "-r", folder)
