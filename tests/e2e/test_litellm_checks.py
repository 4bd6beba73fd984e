"""The checks that ask a real LiteLLM: its version, and a question all the way through it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Service, free_port, start_process
from gateway import MASTER_KEY, PROXY_KEY, Gateway, base_model, handle
from typer.testing import CliRunner

from optictl.cli import build
from optictl.simulator import Behaviour, SimulatorThread

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]

Check = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checks")


@pytest.fixture(scope="module")
def sim() -> Iterator[SimulatorThread]:
    with SimulatorThread(Behaviour(), models=("base",)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Gateway]:
    gateway = Gateway(free_port(), folder / "gateway")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def proxy(folder: Path, gateway: Gateway, sim: SimulatorThread) -> Iterator[Service]:
    """The service, with the gateway before and behind it; `looped` is a base that leads back."""
    proxy = start_process(
        f"--base-url {gateway.url}/v1 --model base --optillm-api-key {PROXY_KEY}".split(),
        folder / "proxy.log",
        env={"OPENAI_API_KEY": MASTER_KEY},
    ).wait_healthy()
    try:
        entries = [base_model("base", sim.url), handle("opt-*", "*", proxy.url)]
        gateway.start([*entries, handle("looped", "looped", proxy.url)], cancel_on_disconnect=True)
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def check(folder: Path, gateway: Gateway, proxy: Service) -> Check:
    """What each named check finds, by its name."""
    env = folder / "env"
    env.write_text(f"MASTER={MASTER_KEY}\nPROXY={PROXY_KEY}\n")
    env.chmod(0o600)

    def run(*names: str, base: str = "base") -> dict[str, Any]:
        site = folder / "optictl.yaml"
        master = f"{{env_file: {env}, name: MASTER}}"
        site.write_text(
            f"proxy: {{base_model: {base}, port: {proxy.port}, "
            f"key: {{env_file: {env}, name: PROXY}}}}\n"
            f"upstream: {{base_url: {gateway.url}/v1, key: {master}}}\n"
            f"gateway: {{base_url: {gateway.url}/v1, router: {folder}/gateway/config.yaml, "
            f"master_key: {master}}}\n"
        )
        shown = CliRunner().invoke(build(), ["check", "--config", str(site), "--json", *names])
        assert MASTER_KEY not in shown.output
        return {each["name"]: each for each in json.loads(shown.stdout)["data"]["checks"]}

    return run


def test_litellm_says_which_version_it_is(check: Check) -> None:
    found = check("gateway", "gateway_settings", "upstream", "base_model", "auth")
    assert {each["status"] for each in found.values()} == {"ok"}, found
    assert re.fullmatch(r"LiteLLM \d+\.\d+\.\d+ is ready", found["gateway"]["saw"])


def test_a_question_goes_all_the_way(check: Check, sim: SimulatorThread) -> None:
    sim.log.clear()
    [found] = check("canary").values()
    assert found["status"] == "ok", found
    assert found["saw"].startswith("through LiteLLM as opt-self_consistency-base: ")
    assert sim.log.choices >= 2


def test_a_base_model_that_leads_back_is_found(check: Check) -> None:
    [found] = check("canary", base="looped").values()
    assert found["status"] == "fail"
    assert "LiteLLM sends the base model back to the proxy" in found["saw"]
