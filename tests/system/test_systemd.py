"""The service under a real systemd: readiness, watchdog, drain, reload, socket activation."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from lab import Lab, lab

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

UNIT = "optillm-proxy.service"
SOCKET = "optillm-proxy.socket"
URL = "http://127.0.0.1:4020"
_UNIT = """\
[Service]
Type=notify
NotifyAccess=main
KillMode=mixed
ExecStart=/usr/local/bin/optictl serve --base-url http://127.0.0.1:4000/v1 --model sim \
  --request-timeout 30 --optillm-api-key-file /etc/optillm-proxy.key
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=100ms
RestartPreventExitStatus=2
WatchdogSec=3
TimeoutStopSec=60
"""
_SOCKET = """\
[Socket]
ListenStream=127.0.0.1:4020
"""
_UPSTREAM = """\
[Service]
ExecStart=/usr/local/bin/optictl simulate --port 4000 --latency 1.5
"""


@pytest.fixture(scope="module")
def systemd(lab: Lab) -> Lab:
    """The lab with the units and a simulated upstream that takes 1.5 s."""
    lab.write(f"/etc/systemd/system/{UNIT}", _UNIT)
    lab.write("/etc/systemd/system/upstream.service", _UPSTREAM)
    lab.write("/etc/optillm-proxy.key", "key-one\n", "600")
    lab.run("systemctl", "daemon-reload")
    lab.run("systemctl", "start", "upstream.service")
    return lab


@pytest.fixture
def service(systemd: Lab) -> Iterator[Lab]:
    """The proxy, started by systemd and stopped in the end."""
    systemd.write("/etc/optillm-proxy.key", "key-one\n", "600")
    systemd.run("systemctl", "reset-failed", check=False)
    systemd.run("systemctl", "start", UNIT)
    yield systemd
    systemd.run("systemctl", "stop", UNIT, check=False)


def ask(lab: Lab, key: str = "key-one") -> subprocess.Popen[str]:
    body = {"model": "sim", "messages": [{"role": "user", "content": "What is 17 * 23?"}]}
    return lab.start(
        "curl", "--silent", "--max-time", "20", "--write-out", " %{http_code}",
        "--header", f"Authorization: Bearer {key}", "--data", json.dumps(body),
        f"{URL}/v1/chat/completions",
    )  # fmt: skip


def answer(asking: subprocess.Popen[str]) -> str:
    """The HTTP status that curl saw."""
    out, _ = asking.communicate(timeout=60)
    return out.rpartition(" ")[2]


def eventually(condition: Callable[[], bool], within: float = 20.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def test_start_returns_once_requests_are_answered(service: Lab) -> None:
    assert service.run("curl", "--silent", "--fail", f"{URL}/health") == '{"status":"ok"}'
    assert service.show(UNIT, "StatusText") == "serving on 127.0.0.1:4020: 1 worker, 0 requests"


def test_the_watchdog_is_fed(service: Lab) -> None:
    started = service.show(UNIT, "ExecMainStartTimestampMonotonic")
    time.sleep(7)  # more than two intervals of WatchdogSec=3
    assert service.show(UNIT, "ExecMainStartTimestampMonotonic") == started
    assert service.show(UNIT, "NRestarts") == "0"


def test_stop_lets_a_request_finish(service: Lab) -> None:
    asking = ask(service)
    calls = ("curl", "--silent", "http://127.0.0.1:4000/sim/calls")
    assert eventually(lambda: json.loads(service.run(*calls))["inflight"] == 1)
    service.run("systemctl", "stop", UNIT)
    assert answer(asking) == "200"
    assert service.show(UNIT, "Result") == "success"


def test_a_killed_master_is_restarted(service: Lab) -> None:
    before = service.show(UNIT, "MainPID")
    service.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT)
    assert eventually(
        lambda: (
            service.show(UNIT, "MainPID") not in ("0", before)
            and service.show(UNIT, "ActiveState") == "active"
        )
    )
    assert answer(ask(service)) == "200"


def test_a_bad_reload_keeps_the_old_configuration(service: Lab) -> None:
    service.write("/etc/optillm-proxy.key", "", "600")
    service.run("systemctl", "reload", UNIT)
    assert eventually(lambda: "reload refused" in service.journal(UNIT))
    assert answer(ask(service)) == "200"


def test_a_good_reload_takes_the_new_key(service: Lab) -> None:
    service.write("/etc/optillm-proxy.key", "key-two\n", "600")
    service.run("systemctl", "reload", UNIT)
    assert eventually(lambda: answer(ask(service, "key-two")) == "200")
    assert answer(ask(service, "key-one")) == "401"


def test_a_wrong_configuration_is_not_tried_again(systemd: Lab) -> None:
    systemd.write("/etc/optillm-proxy.key", "", "600")
    systemd.run("systemctl", "start", UNIT, check=False)
    assert systemd.show(UNIT, "ExecMainStatus") == "2"
    assert systemd.show(UNIT, "NRestarts") == "0"


def test_a_restart_behind_a_socket_refuses_no_connection(systemd: Lab) -> None:
    systemd.write("/etc/optillm-proxy.key", "key-one\n", "600")
    systemd.write(f"/etc/systemd/system/{SOCKET}", _SOCKET)
    systemd.run("systemctl", "daemon-reload")
    systemd.run("systemctl", "reset-failed", check=False)
    systemd.run("systemctl", "start", SOCKET)
    try:
        systemd.run("systemctl", "start", UNIT)
        polls = "for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code}\\n' -m 20 $0; done"
        polling = systemd.start("sh", "-c", polls, f"{URL}/health")
        systemd.run("systemctl", "restart", UNIT)
        out, _ = polling.communicate(timeout=120)
        assert out.split() == ["200"] * 40
    finally:
        systemd.run("systemctl", "stop", UNIT, SOCKET, check=False)
        systemd.run("rm", f"/etc/systemd/system/{SOCKET}")
        systemd.run("systemctl", "daemon-reload")
