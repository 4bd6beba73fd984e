"""The routing graph says of every name what a real LiteLLM does with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import free_port
from gateway import MASTER_KEY, PROXY_KEY, Gateway
from typer.testing import CliRunner

from optictl.cli import build
from optictl.gateway_config import read_config
from optictl.simulator import Behaviour, SimulatorThread

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def sim() -> Iterator[SimulatorThread]:
    with SimulatorThread(Behaviour()) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graph")


@pytest.fixture(scope="module")
def gateway(folder: Path, sim: SimulatorThread) -> Iterator[Gateway]:
    def entry(name: str, model: str, base: str = "api_base", **params: Any) -> dict[str, Any]:
        return {
            "model_name": name,
            "litellm_params": {"model": model, base: sim.url, "api_key": PROXY_KEY, **params},
        }

    entries = [
        entry("exact", "openai/one"),
        entry("*", "openai/any-*"),
        entry("opt-*", "openai/*"),
        entry("opt-a-*", "openai/longer-*"),
        entry("a-*-z", "openai/middle-*"),
        entry("opt-exact", "openai/moa-b"),
        entry("based", "openai/other-name", base="base_url"),
        entry("provided", "q/w", custom_llm_provider="openai"),
        entry("slashed", "openai/q/w:8b"),
    ]
    gateway = Gateway(free_port(), folder)
    try:
        yield gateway.start(entries)
    finally:
        gateway.stop()


def test_every_name_leads_where_the_graph_says(
    gateway: Gateway, folder: Path, sim: SimulatorThread
) -> None:
    config = read_config(folder / "config.yaml", Path.read_bytes, {})
    asked: dict[str, Sequence[str]] = {}
    read: dict[str, Sequence[str]] = {}
    names = "exact opt-exact opt-moa|bon-q:8b opt-a-b a-b-z a-b-z-more other based provided slashed"
    for name in names.split():
        sim.log.clear()
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
        key = {"Authorization": f"Bearer {MASTER_KEY}"}
        url = f"{gateway.url}/v1/chat/completions"
        assert httpx.post(url, json=body, headers=key, timeout=60).status_code == 200
        asked[name] = [call.model for call in sim.log.records]
        read[name] = [model for _, model in config.resolve(name)]
    assert read == asked


def test_the_check_reads_the_files_of_a_real_litellm(gateway: Gateway, folder: Path) -> None:
    port = httpx.URL(read_config(folder / "config.yaml", Path.read_bytes, {}).entries[0].api_base)
    site = folder / "optictl.yaml"
    site.write_text(
        f"proxy: {{base_model: exact, port: {port.port}}}\n"
        f"upstream: {{base_url: {gateway.url}/v1}}\n"
        f"gateway: {{base_url: {gateway.url}/v1, router: {folder}/config.yaml}}\n"
    )
    shown = CliRunner().invoke(build(), ["check", "--config", str(site), "--json", "routing"])
    assert MASTER_KEY not in shown.output
    [found] = json.loads(shown.stdout)["data"]["checks"]
    assert found["status"] == "fail"
    assert "exact leads back to the proxy, which calls it: " in found["saw"]
    assert f"{folder}/config.yaml:1" in found["saw"]
