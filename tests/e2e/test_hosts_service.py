"""Members of an ensemble on one machine, as the simulator behind the service sees them."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from conftest import StartService, chat_body

from optictl.places import Places
from optictl.render import FLOOR, Facts, render
from optictl.simulator import SimulatorThread
from optictl.site_loading import load

NAME = "opt-code-balanced-l"
PROPOSERS = {"mlx-a", "mlx-b", "ov-c"}


def proxy_config(folder: Path, upstream: str, hosts: str) -> Path:
    """As it is rendered from a site."""
    path = folder / "optictl.yaml"
    text = f"upstream: {{base_url: {upstream}}}\nproxy: {{base_model: mlx-a}}\nhosts: {hosts}\n"
    path.write_text(text)
    site = load(path, {}).site
    places = Places.of(site, home=folder, root=folder)
    facts = Facts(optictl=folder / "optictl", systemd=FLOOR, home=folder)
    [file] = [
        each
        for each in render(site, facts, {}, places)
        if each.path == places.on_disk(places.proxy_config)
    ]
    path = folder / "proxy_config.yaml"
    path.write_bytes(file.content)
    return path


@pytest.mark.parametrize(
    ("hosts", "alone"),
    [
        ("{box: {models: ['*']}}", True),
        ("{box: {models: ['mlx-*', ov-c], max_concurrent: 1}}", True),
        ("{one: {models: [mlx-a]}, two: {models: [mlx-b]}, three: {models: [ov-c]}}", False),
    ],
)
def test_those_on_one_machine_are_asked_one_after_the_other(
    sim: SimulatorThread,
    start_service: StartService,
    tmp_path: Path,
    hosts: str,
    alone: bool,
) -> None:
    sim.behave(latency=0.3)
    registry = tmp_path / "ensembles.jsonl"
    members = [{"model": model} for model in sorted(PROPOSERS)]
    registry.write_text(json.dumps({"ensemble": NAME, "approach": "moa", "members": members}))
    service = start_service(
        *("--approach", "proxy", "--ensembles", str(registry)),
        *("--proxy-config", str(proxy_config(tmp_path, sim.url, hosts))),
    )
    answer = httpx.post(f"{service.url}/v1/chat/completions", json=chat_body(NAME), timeout=60)
    assert answer.status_code == 200, answer.text
    calls = sim.log.records
    assert {call.model for call in calls if call.role == "solver"} == PROPOSERS
    assert (max(call.concurrency for call in calls) == 1) is alone
