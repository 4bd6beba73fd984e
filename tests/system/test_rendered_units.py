"""What is rendered, as a real systemd takes it."""

from __future__ import annotations

import itertools
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lab import Lab, lab

from optictl.places import Places
from optictl.quoting import env_line, exec_word
from optictl.render import FLOOR, Facts, render
from optictl.site_loading import load
from proxy.settings import Secret

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

SITE = Path(__file__).parents[1] / "optictl/reference_site.yaml"
HOME = Path("/home/optillm")
FACTS = Facts(
    optictl=Path("/usr/local/bin/optictl"),
    systemd=FLOOR,
    home=HOME,
    python=Path(sys.base_prefix).resolve(),
)
UNITS = "/etc/systemd/system/optillm-proxy"
PYTHON = str(Path(sys.executable).resolve())


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Lab:
    """The lab with the user of the service, and what lies in the user's home."""
    lab.run("useradd", "--create-home", "--home-dir", str(HOME), "optillm")
    lab.run("mkdir", "-p", f"{HOME}/.optillm", f"{HOME}/.cache/huggingface", "/etc/optillm-proxy")
    lab.write(f"{HOME}/.optillm/plugin.py", "a plugin")
    lab.write(f"{HOME}/.cache/huggingface/model", "a model")
    lab.write(f"{HOME}/diary", "a diary")
    lab.run("chown", "-R", "optillm", str(HOME))
    lab.write("/etc/optillm-proxy/clients.key", "sk-clients\n", "600")
    return lab


def install(lab: Lab, *sets: str) -> None:
    site = load(SITE, {}, sets).site
    places = Places.of(site, home=HOME)
    for artifact in render(site, FACTS, {"upstream.key": Secret("sk-up")}, places):
        lab.write(str(artifact.path), artifact.content.decode(), f"{artifact.mode:o}")
    lab.run("systemctl", "daemon-reload")


@pytest.mark.parametrize("profile", ["strict", "torch"])
def test_systemd_finds_no_fault(machine: Lab, profile: str) -> None:
    install(machine, f"service.profile={profile}")
    units = (f"{UNITS}.service", f"{UNITS}.socket")
    verify = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=one", *units)
    done = machine.script("run", *verify)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_users_own_systemd_finds_no_fault_and_starts_them(machine: Lab) -> None:
    home = Path("/root")
    site = load(SITE, {}, ("service.scope=user",)).site
    places = Places.of(site, home=home)
    machine.run("mkdir", "-p", str(places.units), f"{places.units}/{places.name}.service.d")
    facts = replace(FACTS, home=home)
    for artifact in render(site, facts, {"upstream.key": Secret("sk-up")}, places):
        machine.run("mkdir", "-p", str(artifact.path.parent))
        machine.write(str(artifact.path), artifact.content.decode(), f"{artifact.mode:o}")
    alone = "[Service]\nExecStartPost=\n"
    machine.write(f"{places.units}/{places.name}.service.d/alone.conf", alone)
    machine.run("systemctl", "start", "user@0.service")
    as_user = ("env", "XDG_RUNTIME_DIR=/run/user/0")
    try:
        units = (str(places.service), str(places.socket))
        verify = ("systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=one")
        done = machine.script("run", *as_user, *verify, *units)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        started = machine.script("run", *as_user, "systemctl", "--user", "start", places.name)
        assert started.returncode == 0, machine.run("journalctl", "--no-pager", "-n", "40")
        models = "http://127.0.0.1:4020/v1/models"
        ask = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", models)
        assert machine.run(*ask) == "401"
    finally:
        machine.run("systemctl", "stop", "user@0.service")
        machine.run("rm", "-r", str(places.config), str(places.units))


@pytest.mark.parametrize(("profile", "most"), [("strict", 12), ("torch", 14)])
def test_what_is_exposed_is_little(machine: Lab, profile: str, most: int) -> None:
    install(machine, f"service.profile={profile}")
    analyze = ("systemd-analyze", "security", "--offline=true", f"--threshold={most}")
    done = machine.script("run", *analyze, f"{UNITS}.service")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", ["strict", "torch"])
def test_the_confined_service_answers_its_warmup(machine: Lab, profile: str) -> None:
    """Here curl asks it, in place of the unit's own command."""
    install(machine, f"service.profile={profile}")
    machine.run("mkdir", "-p", f"{UNITS}.service.d")
    machine.write(f"{UNITS}.service.d/alone.conf", "[Service]\nExecStartPost=\n")
    machine.run("systemctl", "daemon-reload")
    simulator = ("/usr/local/bin/optictl", "simulate", "--port", "4000")
    machine.run("systemd-run", "--quiet", "--collect", "--unit=litellm", *simulator)
    try:
        started = machine.script("run", "systemctl", "start", "optillm-proxy.service")
        assert started.returncode == 0, machine.journal("optillm-proxy.service")
        asked = (
            "--data",
            "@/etc/optillm-proxy/warmup.json",
            "http://127.0.0.1:4020/v1/chat/completions",
        )
        ask = ("curl", "--silent", "--max-time", "60", "--write-out", " %{http_code}", *asked)
        assert machine.run(*ask).endswith(" 401")
        answer = machine.run(*ask, "--header", "Authorization: Bearer sk-clients")
        assert answer.endswith(" 200"), answer
        machine.run("systemctl", "stop", "optillm-proxy.service")
        assert machine.show("optillm-proxy.service", "Result") == "success"
    finally:
        machine.run("systemctl", "stop", "optillm-proxy.socket", "optillm-proxy.service", "litellm")
        machine.run("rm", "-r", f"{UNITS}.service.d")


def test_of_its_home_the_service_reads_what_it_needs_and_no_more(machine: Lab) -> None:
    install(machine)
    script = (
        "cat .optillm/plugin.py .cache/huggingface/model; "
        "cat diary || echo hidden; touch .optillm/new || echo read-only"
    )
    machine.run("mkdir", "-p", f"{UNITS}.service.d")
    machine.write(
        f"{UNITS}.service.d/look.conf",
        f"[Service]\nType=oneshot\nWorkingDirectory={HOME}\nExecStartPost=\nExecStart=\n"
        f"ExecStart=/bin/sh -c '{script}'\nStandardOutput=file:/run/seen\n"
        "StandardError=null\n",
    )
    machine.run("systemctl", "daemon-reload")
    try:
        machine.run("systemctl", "start", "optillm-proxy.service")
        assert machine.run("cat", "/run/seen") == "a plugina modelhidden\nread-only"
    finally:
        machine.run("systemctl", "stop", "optillm-proxy.socket", "optillm-proxy.service")
        machine.run("rm", "-r", f"{UNITS}.service.d", "/run/seen")


def odd_texts() -> list[str]:
    """Each odd character alone, at both ends and within; pairs of those with a meaning; noise."""
    single = [chr(code) for code in (*range(1, 0x100), 0x2028, 0xFEFF, 0xE000, 0xFFFD, 0x10FFFD)]
    paired = map("".join, itertools.product("\\\"'$`%#; \t\r=x{}", repeat=2))
    noise = random.Random(252)
    noisy = ("".join(noise.choices("\\\"'$`%#; \t\ré\U0001f600", k=20)) for _ in range(100))
    return ["", *single, *(f"{c}a{c}b{c}" for c in single), *paired, *noisy]


def test_odd_values_come_back_from_an_environment_file(machine: Lab, tmp_path: Path) -> None:
    values = {f"V{i}": text for i, text in enumerate(odd_texts()) if "\n" not in text}
    file = tmp_path / "odd.env"
    file.write_bytes("".join(f"{env_line(*each)}\n" for each in values.items()).encode())
    machine.push(file, "/etc/odd.env")
    tell = (
        "import os, json; print(json.dumps({k.decode(): v.hex() for k, v in os.environb.items()}))"
    )
    run = ("systemd-run", "--quiet", "--pipe", "--wait", "-p", "EnvironmentFile=/etc/odd.env")
    seen = json.loads(machine.run(*run, PYTHON, "-c", tell))
    assert {name: bytes.fromhex(seen.get(name, "")).decode() for name in values} == values
    assert values.keys() <= seen.keys()


def test_odd_arguments_come_back_from_exec_start(machine: Lab, tmp_path: Path) -> None:
    arguments = odd_texts()
    tell = "import os, sys, json; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))"
    command = " ".join(map(exec_word, [PYTHON, "-c", tell, *arguments]))
    file = tmp_path / "odd.service"
    unit = f"[Service]\nType=oneshot\nStandardOutput=file:/run/odd\nExecStart={command}\n"
    file.write_bytes(unit.encode())
    machine.push(file, "/etc/systemd/system/odd.service")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "odd.service")
    seen = json.loads(machine.run("cat", "/run/odd"))
    assert [bytes.fromhex(each).decode() for each in seen] == arguments
