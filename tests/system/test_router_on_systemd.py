"""The router's classifier in the sandbox that its profile gives, with the real torch."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from shutil import which

import pytest
from lab import Lab, lab

from proxy.router.steps import SLOWER

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

SERVICE = "optillm-proxy.service"
FOLDER = "/var/lib/optillm-proxy/classifier"
SITE = f"""\
service: {{user: optillm, profile: torch}}
proxy:
  base_model: sim
  flags: ["--router-model", "{FOLDER}"]
upstream:
  base_url: http://127.0.0.1:4000/v1
"""
OPTICTL = "/usr/local/bin/optictl"
#: The environment with torch (`make test-router`), and what writes a tiny checkpoint there.
TORCH = Path(os.environ["ROUTER"]) if "ROUTER" in os.environ else None
WRITE = "import pathlib, sys, tiny; tiny.write_checkpoint(pathlib.Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def served(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The service as `install` starts it, with a classifier of tiny dimensions."""
    assert TORCH is not None, "ROUTER names no environment with torch: run make test-system"
    checkpoint = tmp_path_factory.mktemp("router") / "classifier"
    subprocess.run(
        [str(TORCH), "-c", WRITE, str(checkpoint)],
        env={**os.environ, "PYTHONPATH": "tests/router"}, cwd=Path(__file__).parents[2],
        check=True, timeout=300,
    )  # fmt: skip
    site_packages = next(TORCH.parents[1].glob("lib/python*/site-packages"))
    program = (
        f"#!/bin/sh\nPYTHONPATH=/opt/optictl:{site_packages} exec {TORCH.resolve()} -c "
        '"from optictl.cli import main; main()" "$@"\n'
    )
    lab.write(OPTICTL, program, "755")
    lab.run("ln", "-sf", OPTICTL, str(TORCH.resolve().parent / "optictl"))
    lab.run("useradd", "--create-home", "optillm")
    lab.run("mkdir", "-p", "/etc/optillm-proxy", FOLDER)
    lab.push(checkpoint, "/var/lib/optillm-proxy")
    lab.write("/etc/optillm-proxy/optictl.yaml", SITE)
    lab.run("systemd-run", "--quiet", "--unit=litellm", OPTICTL, "simulate", "--port", "4000")
    done = lab.script("run", OPTICTL, "install", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


def ready(lab: Lab) -> dict[str, str]:
    answer: dict[str, str] = json.loads(
        lab.run("curl", "--silent", "http://127.0.0.1:4020/health/ready")
    )
    return answer


def wait_for_classifier(lab: Lab) -> None:
    end = time.monotonic() + 120
    while ready(lab)["router"] == "loading" and time.monotonic() < end:
        time.sleep(0.5)
    state = ready(lab)
    assert state["router"] == "ready", (state, lab.journal(SERVICE))


def test_it_decides_in_the_sandbox_of_the_unit(served: Lab) -> None:
    wait_for_classifier(served)
    asked = {"model": "router-sim", "messages": [{"role": "user", "content": "Who was Ada?"}]}
    answer = json.loads(
        served.run(
            "curl", "--silent", "--json", json.dumps(asked),
            "http://127.0.0.1:4020/v1/chat/completions",
        )
    )  # fmt: skip
    assert answer["choices"][0]["message"]["content"]
    assert answer["optillm"]["router"]


def test_its_steps_are_compiled_there(served: Lab) -> None:
    wait_for_classifier(served)
    assert (SLOWER in served.journal(SERVICE)) == (which("cc") is None)


def test_the_command_asks_the_classifier_of_the_service(served: Lab) -> None:
    told = json.loads(served.run(OPTICTL, "router", "test", "Who was Ada Lovelace?", "--json"))
    (classifier,) = [rung for rung in told["data"] if rung["rung"] == "classifier"]
    assert classifier["asked"] == "service"
    assert classifier["approach"]


def test_what_is_found_of_int8_is_for_the_service_to_read(served: Lab) -> None:
    told = json.loads(served.run(OPTICTL, "router", "calibrate", "--json"))["data"]
    assert told["int8"]["alike"] > 0.9
    served.run("runuser", "-u", "optillm", "--", "test", "-r", f"{FOLDER}/calibration.json")
    assert json.loads(served.run(OPTICTL, "router", "status", "--json"))["data"]["int8"]


def test_a_fetch_by_root_writes_and_calibrates_as_the_services_user(served: Lab) -> None:
    site = "/etc/optillm-proxy/cache.yaml"
    served.write(site, SITE.replace(f'  flags: ["--router-model", "{FOLDER}"]\n', ""))
    fetch = (OPTICTL, "router", "fetch", "--from", FOLDER, "--config", site, "--json")
    # Where Python is in root's home, the service is given it by its unit, and nobody else.
    served.run("chmod", "a+x", "/root")
    found = json.loads(served.run(*fetch))["data"]
    assert found["complete"]
    assert found["int8"]["alike"] > 0.9
    folder = found["path"]
    assert folder.startswith("/home/optillm/.cache/huggingface/hub/")
    owners = served.run("find", "/home/optillm/.cache", "-printf", "%u\n").split()
    assert set(owners) == {"optillm"}
    names = set(served.run("ls", folder).split())
    assert names == {"calibration.json", "config.json", "model.safetensors", "tokenizer.json"}


def test_the_check_is_content(served: Lab) -> None:
    told = json.loads(served.run(OPTICTL, "check", "router", "--json"))
    assert [(each["name"], each["status"]) for each in told["data"]["checks"]] == [("router", "ok")]
