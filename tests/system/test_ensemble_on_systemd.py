"""``optictl ensemble`` with a real LiteLLM, both of them services of a real systemd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, lab

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

NAME = "opt-chat-balanced-m"
MODELS = ("mlx-large", "mlx-medium", "mlx-small")
LITELLM = "http://127.0.0.1:4000"
SIMULATED = "http://127.0.0.1:4100"
MASTER = "sk-master-never-shown"
FOLDER = "/srv/litellm"
ROUTER, ENV, HANDLES = f"{FOLDER}/router.yaml", f"{FOLDER}/env.local", f"{FOLDER}/handles.jsonl"
DROP_IN = "/etc/systemd/system/litellm.service.d/fault.conf"
SITE = f"""\
service: {{user: optillm}}
proxy: {{base_model: mlx-medium, warmup_timeout: 20, request_timeout: 60}}
upstream:
  base_url: {LITELLM}/v1
  key: {{env_file: {ENV}, name: LITELLM_MASTER_KEY}}
gateway:
  base_url: {LITELLM}/v1
  router: {ROUTER}
  env_file: {ENV}
  handles: {HANDLES}
  master_key: {{env_file: {ENV}, name: LITELLM_MASTER_KEY}}
models: {{large: mlx-large, medium: mlx-medium, small: mlx-small}}
"""
#: As others have written it: CRLF, tabs in comments, another tool's block, a last line with no end.
ENTRIES = "".join(
    f"  - model_name: {name} # {name}\t\r\n    litellm_params:\r\n"
    f'      {{model: openai/{name}, api_base: "{SIMULATED}/v1", api_key: none}}\r\n'
    for name in MODELS
)
THEIRS = {
    ROUTER: f"# theirs\r\nmodel_list:\r\n  # BEGIN MLXCTL AUTO\r\n{ENTRIES}"
    "  # END MLXCTL AUTO\r\n"
    "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}",
    ENV: f"# theirs\r\nLITELLM_MASTER_KEY={MASTER}\r\n\r\nTHEIRS='1 2'",
    HANDLES: '{"handle": "mlx-large"}\r\n\r\n{"handle": "theirs"}',
}


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Lab:
    """Three simulated models, LiteLLM in front of them, and our service installed."""
    lab.run("useradd", "--create-home", "optillm")
    lab.run("mkdir", "-p", "/etc/optillm-proxy", FOLDER)
    program = Path(sys.executable).resolve().parent / "optictl"
    lab.run("ln", "-sf", "/usr/local/bin/optictl", str(program))
    for path, text in THEIRS.items():
        lab.write(path, text, "640")
    lab.run(
        "systemd-run", "--quiet", "--unit=models", "/usr/local/bin/optictl", "simulate",
        "--port", "4100", "--latency", "0",
    )  # fmt: skip
    unit = (
        f"[Service]\nEnvironmentFile={ENV}\n"
        f"Environment=LITELLM_LOCAL_MODEL_COST_MAP=True HOME={FOLDER} {_packages(lab)}\n"
        f'ExecStart={_python()} -c "from litellm import run_server; run_server()"'
        f" --config {ROUTER} --host 127.0.0.1 --port 4000\n"
    )
    lab.write("/etc/systemd/system/litellm.service", unit)
    lab.run("systemctl", "daemon-reload")
    lab.run("systemctl", "start", "litellm.service")
    lab.write("/etc/optillm-proxy/optictl.yaml", SITE)
    _wait(lab, f"curl --silent --fail --output /dev/null {LITELLM}/health/liveliness")
    done = optictl(lab, "install", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


@pytest.fixture
def off(machine: Lab) -> Iterator[Lab]:
    """Nothing of ours is in LiteLLM, before and after."""
    assert files(machine) == THEIRS
    yield machine
    assert files(machine) == THEIRS


def _python() -> Path:
    return _litellm().with_name("python").resolve()


def _packages(lab: Lab) -> str:
    """LiteLLM's packages in the lab, which need not see where they are here."""
    [here] = _litellm().parents[1].glob("lib/python*/site-packages")
    if lab.run("ls", str(here), check=False):
        return f"PYTHONPATH={here}"
    lab.push(here, "/opt/litellm")
    return "PYTHONPATH=/opt/litellm"


def _litellm() -> Path:
    program = os.environ.get("LITELLM")
    assert program, "LITELLM is not set: run these tests with `make test-system`"
    return Path(program)


def optictl(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = lab.script("run", "/usr/local/bin/optictl", *arguments)
    assert MASTER not in done.stdout + done.stderr
    return done


def switch(lab: Lab, *arguments: str) -> Any:
    """The data that ``optictl ensemble`` answers with, where it has done what it was to do."""
    done = optictl(lab, "ensemble", NAME, "--yes", "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["data"]


def kill_midway(lab: Lab, written: str, *arguments: str) -> None:
    """Kill ``optictl ensemble`` once its files are ``written``, a test in a shell."""
    command = " ".join(["/usr/local/bin/optictl", "ensemble", NAME, "--yes", *arguments])
    running = "test -e /var/lib/optictl/optillm-proxy/checkpoints/in-progress"
    wait = f"until {written} && ! {running}; do sleep 0.02; done"
    done = lab.script("run", "timeout", "60", "sh", "-c", f"{command} & {wait}; kill -9 $!")
    assert done.returncode == 0, done.stdout + done.stderr


def files(lab: Lab) -> dict[str, str]:
    # Not as text, in which all ends of line are alike.
    read = "json.dumps([open(path, newline='').read() for path in sys.argv[1:]])"
    shown = lab.run(str(_python()), "-c", f"import json, sys; print({read})", *THEIRS)
    return dict(zip(THEIRS, json.loads(shown), strict=True))


def ask(lab: Lab, model: str) -> str:
    """The HTTP status of a chat through LiteLLM; 000 where nobody listens."""
    body = {"model": model, "messages": [{"role": "user", "content": "What is 17 * 23?"}]}
    return _status(lab, "/v1/chat/completions", "--data", json.dumps(body))


def _status(lab: Lab, path: str, *options: str) -> str:
    return lab.run(
        "curl", "--silent", "--max-time", "30", "--output", "/dev/null",
        "--write-out", "%{http_code}", "--header", f"Authorization: Bearer {MASTER}",
        "--header", "Content-Type: application/json", *options, f"{LITELLM}{path}", check=False,
    )  # fmt: skip


def _wait(lab: Lab, until: str) -> None:
    lab.run("timeout", "90", "sh", "-c", f"until {until}; do sleep 0.2; done")


def test_on_twice_and_off_again_also_where_that_is_killed(off: Lab) -> None:
    found = switch(off)
    assert set(found["tried"]["members"]) == set(MODELS)
    assert [each for each in found["checks"] if each["status"] == "fail"] == []
    assert ask(off, NAME) == "200"
    assert ask(off, "mlx-large") == "200"
    now = files(off)
    ours = r"(?s) *# BEGIN OPTICTL AUTO.*# END OPTICTL AUTO\r\n"
    assert re.sub(ours, "", now[ROUTER]) == THEIRS[ROUTER] != now[ROUTER]
    for path in (ENV, HANDLES):
        assert now[path].startswith(f"{THEIRS[path]}\r\n")

    again = switch(off)
    assert again["already"]
    assert again["changed"] == []
    assert files(off) == now

    kill_midway(off, f"! grep -q OPTICTL {ROUTER}", "--off")
    switch(off, "--off")
    assert files(off) == THEIRS
    assert ask(off, NAME) == "400"
    assert ask(off, "mlx-large") == "200"
    assert switch(off, "--off")["already"]


def test_a_litellm_that_is_down_is_brought_up_also_by_the_run_after_a_killed_one(off: Lab) -> None:
    off.run("systemctl", "stop", "litellm.service")
    kill_midway(off, f"grep -q OPTICTL {ROUTER}")
    assert set(switch(off)["tried"]["members"]) == set(MODELS)
    assert ask(off, NAME) == "200"
    switch(off, "--off")


def test_on_a_read_only_disk_all_stays_as_it_was(off: Lab) -> None:
    off.run("mount", "--bind", FOLDER, FOLDER)
    off.run("mount", "-o", "remount,bind,ro", FOLDER)
    try:
        failed = optictl(off, "ensemble", NAME, "--yes")
    finally:
        off.run("umount", FOLDER)
    assert failed.returncode == 1
    assert f"cannot write {FOLDER}/" in failed.stderr
    assert "Read-only file system; make it writable" in failed.stderr
    assert optictl(off, "verify").returncode == 0
    assert ask(off, "mlx-large") == "200"


def test_a_litellm_that_does_not_take_our_part_gets_its_files_back(off: Lab) -> None:
    off.run("mkdir", "-p", str(Path(DROP_IN).parent))
    fault = f"[Service]\nExecStartPre=sh -c '! grep -q OPTICTL {ROUTER}'\n"
    off.write(DROP_IN, fault)
    off.run("systemctl", "daemon-reload")
    failed = optictl(off, "ensemble", NAME, "--yes")
    assert failed.returncode == 14, failed.stdout + failed.stderr
    assert "systemctl restart litellm.service: Job for litellm.service failed" in failed.stderr
    assert "rolled back: all files are as they were, and the old service serves" in failed.stderr
    assert files(off) == THEIRS
    assert ask(off, "mlx-large") == "200"

    # Nor does it come up without.
    off.write(DROP_IN, "[Service]\nExecStartPre=false\n")
    off.run("systemctl", "daemon-reload")
    failed = optictl(off, "ensemble", NAME, "--yes")
    assert failed.returncode == 14, failed.stdout + failed.stderr
    assert "but LiteLLM does not come back either" in failed.stderr
    assert files(off) == THEIRS
