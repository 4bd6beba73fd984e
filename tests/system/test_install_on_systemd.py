"""``optictl install`` and its kin, on a real systemd with a simulated LiteLLM."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from lab import Lab, lab

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

SERVICE = "optillm-proxy.service"
SOCKET = "optillm-proxy.socket"
URL = "http://127.0.0.1:4020"
SITE = "/etc/optillm-proxy/optictl.yaml"
DECLARED = """\
service: {user: optillm}
proxy:
  base_model: sim
  request_timeout: 30
  warmup_timeout: 20
  key: {file: /etc/optillm-clients.key}
upstream:
  base_url: http://127.0.0.1:4000/v1
  key: {env_file: /etc/litellm.env, name: LITELLM_MASTER_KEY}
"""
KEY = "sk-clients-never-shown"
MASTER = "sk-master-never-shown"


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Lab:
    """A machine with the user, the keys, an upstream that takes 0.3 s, and optictl's program."""
    lab.run("useradd", "--create-home", "optillm")
    lab.write("/etc/optillm-clients.key", f"{KEY}\n", "600")
    lab.write("/etc/litellm.env", f"export LITELLM_MASTER_KEY='{MASTER}'\r\n", "600")
    lab.write("/etc/upstream.key", f"{MASTER}\n", "600")
    program = Path(sys.executable).resolve().parent / "optictl"
    lab.run("ln", "-sf", "/usr/local/bin/optictl", str(program))
    lab.run("mkdir", "-p", "/etc/optillm-proxy")
    lab.run(
        "systemd-run", "--quiet", "--unit=litellm", "/usr/local/bin/optictl", "simulate",
        "--port", "4000", "--latency", "0.3", "--api-key-file", "/etc/upstream.key",
    )  # fmt: skip
    return lab


@pytest.fixture
def declared(machine: Lab) -> Iterator[Lab]:
    """The site is declared, nothing is installed; afterwards nothing is either."""
    machine.write(SITE, DECLARED)
    yield machine
    optictl(machine, "uninstall", "--yes", "--force")
    machine.run("rm", "-rf", "/var/lib/optictl", "/etc/optillm-proxy")
    machine.run("rm", "-rf", f"/etc/systemd/system/{SERVICE}.d")
    machine.run("mkdir", "-p", "/etc/optillm-proxy")


@pytest.fixture
def installed(declared: Lab) -> Lab:
    done = optictl(declared, "install", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return declared


def optictl(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = lab.script("run", "/usr/local/bin/optictl", *arguments)
    assert KEY not in done.stdout + done.stderr
    assert MASTER not in done.stdout + done.stderr
    return done


def answered(lab: Lab, *arguments: str) -> Any:
    """The envelope that a command answers with."""
    return json.loads(optictl(lab, *arguments, "--json").stdout)


def ask(lab: Lab, content: str = "What is 17 * 23?") -> str:
    """The HTTP status of a chat; 000 where nobody listens."""
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": content}]})
    return lab.run(
        "curl", "--silent", "--max-time", "30", "--output", "/dev/null",
        "--write-out", "%{http_code}", "--header", f"Authorization: Bearer {KEY}",
        "--data", body, f"{URL}/v1/chat/completions", check=False,
    )  # fmt: skip


def changed_at(lab: Lab) -> str:
    """When each file of ours was last changed, and when systemd last read its units."""
    files = "/etc/systemd/system/optillm-proxy.* /etc/optillm-proxy/* /var/lib/optictl/*/*"
    times = lab.run("sh", "-c", f"stat --format '%n %y' $(ls -d {files} | grep -v lock)")
    loaded = lab.run(
        "busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager", "UnitsLoadFinishTimestampMonotonic",
    )  # fmt: skip
    return times + loaded


def test_from_nothing_to_a_service_that_answers(installed: Lab) -> None:
    assert installed.show(SERVICE, "ActiveState") == "active"
    assert installed.show(SERVICE, "UnitFileState") == "enabled"
    assert installed.show(SOCKET, "UnitFileState") == "enabled"
    assert "warm: sim answered" in installed.journal(SERVICE)
    assert ask(installed) == "200"
    ready = json.loads(installed.run("curl", "--silent", "--fail", f"{URL}/health/ready"))
    assert ready["status"] == "ok"
    assert KEY not in installed.journal(SERVICE)


def test_a_user_who_does_not_exist_yet_is_made(declared: Lab) -> None:
    done = optictl(declared, "install", "--yes", "--set", "service.user=optillm2")
    assert done.returncode == 0, done.stderr
    assert "make the system user optillm2" in done.stdout
    assert declared.show(SERVICE, "User") == "optillm2"
    assert declared.run("stat", "--format", "%U", "/etc/optillm-proxy/env") == "root"
    again = optictl(declared, "install", "--yes", "--set", "service.user=optillm2")
    assert "already installed" in again.stderr


def test_the_second_installation_changes_nothing_and_reloads_nothing(installed: Lab) -> None:
    before = changed_at(installed)
    found = answered(installed, "install", "--yes")
    assert (found["exit_code"], found["data"]["already"]) == (0, True)
    assert changed_at(installed) == before


def test_verify_says_drift_and_install_mends_it(installed: Lab) -> None:
    assert optictl(installed, "verify").returncode == 0
    installed.run("sh", "-c", f"echo '# by hand' >> /etc/systemd/system/{SERVICE}")
    drifted = optictl(installed, "verify")
    assert drifted.returncode == 1
    assert f"MM /etc/systemd/system/{SERVICE}" in drifted.stdout
    assert "systemd has not read it" in drifted.stdout
    refused = optictl(installed, "install", "--yes")
    assert refused.returncode == 13
    assert "--force" in refused.stderr
    assert optictl(installed, "install", "--yes", "--force").returncode == 0
    assert optictl(installed, "verify").returncode == 0


def test_a_file_of_the_wrong_owner_is_drift_and_is_given_back(installed: Lab) -> None:
    env = "/etc/optillm-proxy/env"
    installed.run("chown", "optillm", env)
    drifted = optictl(installed, "plan")
    assert f"{env}: owner optillm -> root" in drifted.stdout
    assert optictl(installed, "install", "--yes").returncode == 0
    assert installed.run("stat", "--format", "%U %a", env) == "root 600"


def test_two_installations_at_once_leave_one_whole_state(declared: Lab) -> None:
    both = [
        declared.start(
            "/usr/local/bin/optictl", "install", "--yes", "--set", f"proxy.workers={workers}"
        )
        for workers in (1, 2)
    ]
    statuses = []
    for each in both:
        each.communicate(timeout=120)
        statuses.append(each.returncode)
    assert set(statuses) <= {0, 11}
    assert 0 in statuses
    workers = 2 if "--workers 2" in declared.show(SERVICE, "ExecStart") else 1
    assert optictl(declared, "verify", "--set", f"proxy.workers={workers}").returncode == 0
    assert ask(declared) == "200"


def test_a_port_that_is_taken_is_said_and_nothing_is_left(declared: Lab) -> None:
    serve = (str(Path(sys.executable).resolve()), "-m", "http.server", "--bind", "127.0.0.1")
    declared.run("systemd-run", "--quiet", "--unit=squatter", *serve, "4020")
    try:
        assert eventually(lambda: bool(declared.run("ss", "-Hltn", "sport", "=", ":4020")))
        failed = optictl(declared, "install", "--yes")
        assert failed.returncode == 14
        assert "Address already in use" in failed.stderr, failed.stderr
        assert declared.run("ls", "/etc/optillm-proxy") == "optictl.yaml"
        found = answered(declared, "check", "port")["data"]["checks"][0]
        assert found["status"] == "fail"
        assert "squatter" in found["saw"] or "python" in found["saw"]
    finally:
        declared.run("systemctl", "stop", "squatter")


def test_last_words_of_a_process_that_is_gone_are_still_its_units(declared: Lab) -> None:
    """As of the one that systemd forks to listen: only its `UNIT=` tells whose it was."""
    said = f"MESSAGE=Address already in use\nUNIT={SOCKET}\n"
    declared.run("sh", "-c", 'printf "%s" "$1" | logger --journald', "_", said)
    declared.run("journalctl", "--sync")
    read = f"from optictl.systemd import Systemd; print(Systemd().journal({SOCKET!r}, lines=1))"
    python = str(Path(sys.executable).resolve())
    words = declared.run("env", "PYTHONPATH=/opt/optictl", python, "-c", read)
    assert words == "['Address already in use']"
    assert "Address already in use" not in declared.journal(SOCKET).splitlines()[-1:]


def test_at_a_terminal_it_asks(declared: Lab) -> None:
    """`script` makes a terminal of a pipe."""
    asks = "script --quiet --return --command '/usr/local/bin/optictl install' /dev/null"
    no = declared.script("run", "sh", "-c", f"echo n | {asks}")
    assert "Install this? [y/N]" in no.stdout
    assert "nothing was done" in no.stdout
    assert no.returncode == 1
    assert declared.show(SERVICE, "LoadState") == "not-found"
    yes = declared.script("run", "sh", "-c", f"echo y | {asks}")
    assert yes.returncode == 0, yes.stdout
    assert declared.show(SERVICE, "ActiveState") == "active"


def test_a_hand_written_service_is_adopted_replaced_and_brought_back(machine: Lab) -> None:
    by_hand = f"""\
[Service]
EnvironmentFile=/etc/optillm-proxy/env
ExecStart=/usr/local/bin/optictl serve --host 127.0.0.1 --port 4020 \\
  --base-url http://127.0.0.1:4000/v1 --approach proxy --model sim --best-of-n 5 \\
  --optillm-api-key {KEY}
[Install]
WantedBy=multi-user.target
"""
    machine.write(f"/etc/systemd/system/{SERVICE}", by_hand)
    machine.write("/etc/optillm-proxy/env", f"OPENAI_API_KEY={MASTER}\n", "600")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--quiet", "--now", SERVICE)
    try:
        assert optictl(machine, "adopt", "--yes").returncode == 0
        unit = machine.run("cat", f"/etc/systemd/system/{SERVICE}")
        assert unit == by_hand.strip()
        shown = optictl(machine, "plan")
        assert shown.returncode == 0
        done = optictl(machine, "install", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "--best-of-n 5" in machine.show(SERVICE, "ExecStart")
        assert KEY not in machine.show(SERVICE, "ExecStart")
        assert ask(machine) == "200"
        back = optictl(machine, "rollback", "--yes")
        assert back.returncode == 0, back.stderr
        assert machine.run("cat", f"/etc/systemd/system/{SERVICE}") == by_hand.strip()
        assert machine.show(SERVICE, "ActiveState") == "active"
        assert machine.show(SERVICE, "UnitFileState") == "enabled"
        assert machine.show(SOCKET, "LoadState") == "not-found"
        end = time.monotonic() + 20
        while ask(machine) != "200" and time.monotonic() < end:
            time.sleep(0.2)
        assert ask(machine) == "200"
    finally:
        machine.run("systemctl", "disable", "--quiet", "--now", SERVICE, check=False)
        machine.run("rm", "-rf", f"/etc/systemd/system/{SERVICE}", "/var/lib/optictl")
        machine.run("rm", "-rf", "/etc/optillm-proxy")
        machine.run("mkdir", "-p", "/etc/optillm-proxy")
        machine.run("systemctl", "daemon-reload")


def test_the_operators_scripts_see_and_restart_the_whole_way(installed: Lab) -> None:
    scripts = "/opt/scripts"
    installed.push(Path(__file__).parents[2] / "platform/ops/scripts", scripts)
    site = (
        f"{DECLARED}neighbours:\n"
        "  - {name: litellm, url: 'http://127.0.0.1:4000/sim/calls', unit: litellm.service}\n"
        "  - {name: searxng, port: '8888'}\n"
        "restart_order: [litellm.service, optillm-proxy.service]\n"
    )
    installed.write(SITE, site)
    installed.write("/etc/systemd/system/litellm.service", (
        "[Service]\nExecStart=/usr/local/bin/optictl simulate --port 4000 --latency 0.3 "
        "--api-key-file /etc/upstream.key\n"
    ))  # fmt: skip
    installed.run("systemctl", "stop", "litellm")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "start", "litellm")
    assert optictl(installed, "install", "--yes").returncode == 0

    ill = installed.script("run", f"{scripts}/healthcheck.sh")
    assert ill.returncode == 1
    assert "searxng" in ill.stdout

    installed.write(SITE, site.replace("  - {name: searxng, port: '8888'}\n", ""))
    before = installed.show(SERVICE, "MainPID"), installed.show("litellm.service", "MainPID")
    restarted = installed.script("run", f"{scripts}/restart-all.sh")
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    assert "all is well" in restarted.stderr
    after = installed.show(SERVICE, "MainPID"), installed.show("litellm.service", "MainPID")
    assert not set(before) & set(after)
    assert ask(installed) == "200"


def test_a_killed_master_is_restarted(installed: Lab) -> None:
    installed.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", SERVICE)
    end = time.monotonic() + 30
    while time.monotonic() < end and (
        installed.show(SERVICE, "NRestarts") == "0"
        or installed.show(SERVICE, "ActiveState") != "active"
    ):
        time.sleep(0.2)
    assert installed.show(SERVICE, "ActiveState") == "active"
    assert ask(installed) == "200"


def test_a_broken_configuration_is_not_taken_on_reload(installed: Lab) -> None:
    config = "/etc/optillm-proxy/proxy_config.yaml"
    installed.run("sh", "-c", f"echo 'providers: [}}' > {config}")
    reloaded = installed.script("run", "systemctl", "reload", SERVICE)
    assert reloaded.returncode != 0
    assert f"{config}:1:" in installed.journal(SERVICE)
    assert installed.show(SERVICE, "ActiveState") == "active"
    assert ask(installed) == "200"


def test_a_change_that_does_not_warm_up_is_rolled_back(installed: Lab) -> None:
    before = changed_at(installed).partition("/var/lib")[0]
    unit = installed.run("cat", f"/etc/systemd/system/{SERVICE}")
    # Nobody listens there: the warmup waits, and gives up.
    sets = (
        "--set",
        "upstream.base_url=http://127.0.0.1:4999/v1",
        "--set",
        "proxy.warmup_timeout=3",
    )
    found = answered(installed, "install", "--yes", *sets)
    assert found["exit_code"] == 14
    [error] = found["errors"]
    assert error["code"] == "rolled_back"
    assert "the old service serves" in error["message"]
    assert "no answer within 3 s" in error["message"]
    assert installed.run("cat", f"/etc/systemd/system/{SERVICE}") == unit
    assert before
    assert installed.show(SERVICE, "ActiveState") == "active"
    assert ask(installed) == "200"
    assert answered(installed, "install", "--yes")["data"]["already"]


def test_a_first_installation_that_does_not_warm_up_leaves_nothing(declared: Lab) -> None:
    sets = ("--set", "proxy.base_model=none", "--set", "proxy.warmup_timeout=2")
    declared.write("/etc/wrong.key", "sk-wrong\n", "600")
    declared.write(SITE, DECLARED.replace(
        "{env_file: /etc/litellm.env, name: LITELLM_MASTER_KEY}", "{file: /etc/wrong.key}"
    ))  # fmt: skip
    failed = optictl(declared, "install", "--yes", *sets)
    assert failed.returncode == 14, failed.stderr
    assert "upstream_auth" in failed.stderr
    left = declared.run(
        "sh", "-c", "ls /etc/systemd/system/optillm-proxy* 2>/dev/null", check=False
    )
    assert left == ""
    assert declared.run("ls", "/etc/optillm-proxy") == "optictl.yaml"
    assert declared.show(SERVICE, "LoadState") == "not-found"
    assert SERVICE not in declared.run("systemctl", "list-units", "--all", "--plain", "--failed")


def test_stop_lets_a_request_finish(installed: Lab) -> None:
    installed.run(
        "curl", "--silent", "--request", "PUT", "http://127.0.0.1:4000/sim/behaviour",
        "--data", '{"latency": 2}', "--header", f"Authorization: Bearer {MASTER}",
    )  # fmt: skip
    try:
        body = '{"model": "sim", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}'
        asking = installed.start(
            "curl", "--silent", "--max-time", "30", "--write-out", "%{http_code}",
            "--output", "/dev/null", "--header", f"Authorization: Bearer {KEY}",
            "--data", body, f"{URL}/v1/chat/completions",
        )  # fmt: skip
        calls = "http://127.0.0.1:4000/sim/calls"
        asked = ("curl", "--silent", calls, "--header", f"Authorization: Bearer {MASTER}")
        assert eventually(lambda: json.loads(installed.run(*asked))["inflight"] == 1)
        assert optictl(installed, "stop").returncode == 0
        out, _ = asking.communicate(timeout=60)
        assert out == "200"
        assert installed.show(SERVICE, "Result") == "success"
        assert installed.show(SOCKET, "ActiveState") == "inactive"
    finally:
        installed.run(
            "curl", "--silent", "--request", "PUT", "http://127.0.0.1:4000/sim/behaviour",
            "--data", '{"latency": 0.3}', "--header", f"Authorization: Bearer {MASTER}",
        )  # fmt: skip


def test_a_restart_under_polls_refuses_none(installed: Lab) -> None:
    polls = (
        "for i in $(seq 50); do "
        "curl -s -o /dev/null -w '%{http_code}\\n' -m 30 $0 || echo refused; sleep 0.05; done"
    )
    polling = installed.start("sh", "-c", polls, f"{URL}/health")
    assert optictl(installed, "restart").returncode == 0
    out, _ = polling.communicate(timeout=120)
    assert out.split() == ["200"] * 50


def test_a_changed_setting_restarts_and_a_rollback_takes_it_back(installed: Lab) -> None:
    assert optictl(installed, "install", "--yes", "--set", "proxy.workers=2").returncode == 0
    assert "--workers 2" in installed.show(SERVICE, "ExecStart")
    listed = answered(installed, "rollback", "--list")["data"]["runs"]
    assert [run["note"] for run in listed] == ["install", "install"]
    assert optictl(installed, "rollback", "--yes").returncode == 0
    assert "--workers 1" in installed.show(SERVICE, "ExecStart")
    assert ask(installed) == "200"


def test_degraded_it_answers_in_one_call_until_that_is_ended(installed: Lab) -> None:
    def approach() -> str:
        body = json.dumps({"model": "re2-sim", "messages": [{"role": "user", "content": "Hi"}]})
        answer = installed.run(
            "curl", "--silent", "--fail", "--header", f"Authorization: Bearer {KEY}",
            "--data", body, f"{URL}/v1/chat/completions",
        )  # fmt: skip
        return str(json.loads(answer)["optillm"]["approach"])

    def comes_to(wanted: str) -> bool:
        """New workers take over once they are up."""
        end = time.monotonic() + 30
        while time.monotonic() < end and approach() != wanted:
            time.sleep(0.2)
        return approach() == wanted

    master = installed.show(SERVICE, "MainPID")
    assert approach() == "re2"
    assert optictl(installed, "degrade", "on", "--yes").returncode == 0
    assert comes_to("none")
    assert "ready, but degraded" in optictl(installed, "status").stdout
    assert answered(installed, "install", "--yes")["data"]["already"]
    assert installed.show(SERVICE, "MainPID") == master
    assert optictl(installed, "restart").returncode == 0
    assert approach() == "none"
    assert optictl(installed, "degrade", "off", "--yes").returncode == 0
    assert comes_to("re2")


def test_a_changed_port_is_listened_on(installed: Lab) -> None:
    done = optictl(installed, "install", "--yes", "--set", "proxy.port=4021")
    assert done.returncode == 0, done.stderr
    health = "http://127.0.0.1:4021/health"
    assert installed.run("curl", "--silent", "--fail", health) == '{"status":"ok"}'
    assert installed.script("run", "curl", "--silent", f"{URL}/health").returncode == 7


def test_a_saved_plan_is_carried_out_once(installed: Lab) -> None:
    plan = ("plan", "--out", "/srv/next.plan", "--set", "proxy.workers=2")
    assert optictl(installed, *plan, "--detailed-exitcode").returncode == 2
    assert installed.run("stat", "--format", "%a", "/srv/next.plan") == "600"
    assert optictl(installed, "apply", "/srv/next.plan").returncode == 0
    assert "--workers 2" in installed.show(SERVICE, "ExecStart")
    outdated = answered(installed, "apply", "/srv/next.plan")
    assert (outdated["exit_code"], outdated["errors"][0]["code"]) == (2, "plan_outdated")


def test_at_the_start_limit_it_can_still_be_started(installed: Lab) -> None:
    installed.run("mkdir", "-p", f"/etc/systemd/system/{SERVICE}.d")
    fails = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=0\n"
    installed.write(f"/etc/systemd/system/{SERVICE}.d/fails.conf", fails)
    installed.run("systemctl", "daemon-reload")
    installed.script("run", "systemctl", "restart", SERVICE)
    end = time.monotonic() + 60
    while time.monotonic() < end and installed.show(SERVICE, "ActiveState") != "failed":
        time.sleep(0.2)
    assert installed.script("run", "systemctl", "start", SERVICE).returncode != 0
    installed.run("rm", f"/etc/systemd/system/{SERVICE}.d/fails.conf")
    installed.run("systemctl", "daemon-reload")
    done = optictl(installed, "start")
    assert done.returncode == 0, done.stderr
    assert ask(installed) == "200"


def test_two_at_once_one_is_told_whom_it_waits_for(installed: Lab) -> None:
    holds = "import fcntl, os, sys, time; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2); f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"  # noqa: E501
    lock = "/var/lib/optictl/optillm-proxy/lock"
    holder = installed.start(str(Path(sys.executable).resolve()), "-c", holds, lock)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        refused = optictl(installed, "install", "--yes")
        assert refused.returncode == 11
        assert "process" in refused.stderr
    finally:
        installed.run("sh", "-c", f"kill $(cat {lock})")
        holder.communicate(timeout=30)


def test_uninstall_leaves_nothing(declared: Lab) -> None:
    def everything() -> set[str]:
        seen = declared.run(
            "find", "/etc", "/var/lib", "/var/cache", "/run/systemd/system", "-xdev"
        )
        return {
            path
            for path in seen.splitlines()
            if not path.startswith(("/var/lib/systemd", "/var/lib/private"))
        }

    before = everything()
    assert optictl(declared, "install", "--yes").returncode == 0
    assert optictl(declared, "uninstall", "--purge", "--yes").returncode == 0
    gone = {SITE, "/etc/optillm-proxy", "/var/lib/optillm-proxy", "/var/cache/optillm-proxy"}
    kept = {path for path in before if not path.startswith("/var/lib/optillm-proxy/")}
    assert everything() == kept - gone
    assert declared.show(SERVICE, "LoadState") == "not-found"
    assert declared.show(SOCKET, "LoadState") == "not-found"
    assert "optillm" not in declared.run("systemctl", "list-units", "--all", "--plain")
    declared.run("mkdir", "-p", "/etc/optillm-proxy")
    declared.write(SITE, DECLARED)


def test_the_whole_rendered_unit_is_hardly_exposed(installed: Lab) -> None:
    analyze = ("systemd-analyze", "security", "--threshold=12", SERVICE)
    done = installed.script("run", *analyze)
    assert done.returncode == 0, done.stdout[-300:]


def test_a_service_of_a_user(machine: Lab) -> None:
    """Under the user's own systemd: no root, no socket of the system's."""
    home = "/root"
    machine.run("mkdir", "-p", f"{home}/.config/optillm-proxy")
    machine.write(f"{home}/.config/optillm-proxy/optictl.yaml", DECLARED)
    machine.run("systemctl", "start", "user@0.service")
    try:
        done = optictl(machine, "install", "--user", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert ask(machine) == "200"
        assert optictl(machine, "status", "--user").returncode == 0
        assert optictl(machine, "uninstall", "--user", "--purge", "--yes").returncode == 0
        assert machine.run("ls", f"{home}/.config/systemd/user", check=False) == ""
    finally:
        machine.run("systemctl", "stop", "user@0.service")
        machine.run("rm", "-rf", f"{home}/.config/optillm-proxy", f"{home}/.config/systemd")


def test_on_a_full_disk_everything_stays_as_it_was(declared: Lab) -> None:
    declared.run("mount", "-t", "tmpfs", "-o", "size=16k,mode=755", "full", "/etc/optillm-proxy")
    try:
        declared.write(SITE, DECLARED)
        declared.run(
            "sh", "-c", "head -c 100000 /dev/zero > /etc/optillm-proxy/filler", check=False
        )
        failed = optictl(declared, "install", "--yes")
        assert failed.returncode == 1
        assert "No space left on device; free some space" in failed.stderr
        assert declared.run("ls", "-A", "/etc/optillm-proxy").split() == ["filler", "optictl.yaml"]
        assert declared.show(SERVICE, "LoadState") == "not-found"
    finally:
        declared.run("umount", "/etc/optillm-proxy")


def test_on_a_read_only_disk_everything_stays_as_it_was(installed: Lab) -> None:
    before = changed_at(installed)
    units = "/etc/systemd/system"
    installed.run("mount", "--bind", units, units)
    installed.run("mount", "-o", "remount,bind,ro", units)
    try:
        failed = optictl(installed, "install", "--yes", "--set", "proxy.workers=2")
        assert failed.returncode == 1
        assert "Read-only file system; make it writable" in failed.stderr
        assert optictl(installed, "verify").returncode == 0
    finally:
        installed.run("umount", units)
    assert before.count("\n") > 5
    assert ask(installed) == "200"


@pytest.mark.parametrize("after", [0.5, 0.9, 1.2, 1.6, 2.5])
def test_killed_at_some_moment_the_next_run_ends_what_was_begun(
    declared: Lab, after: float
) -> None:
    """Wherever that is on this machine: each step in turn is killed in the tests without root."""
    kill = ("timeout", "--signal=KILL", str(after), "/usr/local/bin/optictl", "install", "--yes")
    declared.script("run", *kill)
    done = optictl(declared, "install", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert optictl(declared, "verify").returncode == 0
    assert ask(declared) == "200"
