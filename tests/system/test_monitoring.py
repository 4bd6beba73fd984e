"""What `optictl render --monitoring` writes, in Debian's own Prometheus."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import StartService, chat_body, eventually, free_port
from typer.testing import CliRunner

from optictl.cli import build
from optictl.simulator import Fault, SimulatorThread

pytestmark = pytest.mark.system

JOB, KEY, ENSEMBLE = "optillm-proxy", "sk-clients", "opt-three-high-s"
MEMBERS = [{"model": model} for model in "abc"]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.key"
    path.write_text(KEY)
    path.chmod(0o600)
    return path


def render(folder: Path, key: Path, port: int) -> Path:
    site = folder / "optictl.yaml"
    site.write_text(f"proxy: {{base_model: sim, port: {port}, key: {{file: {key}}}}}\n")
    to = folder / "monitoring"
    arguments = ["render", "--config", str(site), "--systemd", "252", "--monitoring", str(to)]
    done = CliRunner().invoke(build(), arguments)
    assert done.exit_code == 0, done.output
    return to


def promtool(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """One that scrapes and evaluates every second what was rendered for every fifteen."""

    def __init__(self, folder: Path, rendered: Path, key: Path) -> None:
        config = yaml.safe_load((rendered / "scrape.yml").read_text())
        for job in config["scrape_configs"]:
            assert job["authorization"]["credentials_file"] == f"/etc/prometheus/{JOB}.key"
            job["authorization"]["credentials_file"] = str(key)
            job["scrape_interval"] = "1s"
        config |= {
            "global": {"evaluation_interval": "1s"},
            "rule_files": [str(rendered / "rules.yml")],
        }
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        promtool("check", "config", str(file))
        port = free_port()
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30.0)
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def value(self, query: str) -> float | None:
        """Of an expression with one result; None where it has none."""
        result = self._get("query", query=query).get("result", ())
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """By their names, the alerts that fire."""
        alerts = self._get("alerts").get("alerts", ())
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._api.close()
        self._log.close()

    def _get(self, path: str, **params: str) -> dict[str, Any]:
        try:
            data: dict[str, Any] = self._api.get(path, params=params).json().get("data", {})
        except (httpx.TransportError, ValueError):
            return {}  # it is only starting
        return data


@pytest.fixture
def service(
    start_service: StartService, tmp_path: Path, key: Path, sim: SimulatorThread
) -> Iterator[tuple[Any, Prometheus]]:
    """Two workers with an ensemble of three, and the Prometheus that watches them."""
    ensembles = tmp_path / "ensembles.jsonl"
    row = {"ensemble": ENSEMBLE, "approach": "self_consistency", "members": MEMBERS}
    ensembles.write_text(json.dumps(row) + "\n")
    ours = ("--optillm-api-key-file", str(key), "--ensembles", str(ensembles), "--workers", "2")
    service = start_service(*ours)
    prometheus = Prometheus(tmp_path, render(tmp_path, key, service.port), key)
    try:
        yield service, prometheus
    finally:
        prometheus.stop()


def ask(service: Any, model: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = httpx.post(
        f"{service.url}/v1/chat/completions", json=chat_body(model), headers=headers, timeout=30.0
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_rules_are_good(tmp_path: Path, key: Path) -> None:
    assert "11 rules found" in promtool(
        "check", "rules", str(render(tmp_path, key, 4020) / "rules.yml")
    )


def test_every_query_of_the_dashboard_can_be_read(tmp_path: Path, key: Path) -> None:
    dashboard = json.loads((render(tmp_path, key, 4020) / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"panel:query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))


def test_a_scrape_and_the_alert_that_an_ensemble_lacks_a_member(
    service: tuple[Any, Prometheus], sim: SimulatorThread
) -> None:
    proxy, prometheus = service
    assert eventually(lambda: prometheus.value(f'up{{job="{JOB}"}}') == 1)
    for _ in range(6):
        ask(proxy, "sim")
    answered = 'sum(optillm_requests_total{approach="none",code="ok"})'
    assert eventually(lambda: prometheus.value(answered) == 6)
    assert eventually(lambda: prometheus.value("optillm_workers") == 2)
    metrics = httpx.get(f"{proxy.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    promtool("check", "metrics", stdin=metrics)

    ask(proxy, ENSEMBLE)
    missing = "sum(optillm_members_missing_total)"
    assert eventually(lambda: prometheus.value(missing) == 0)
    assert "OptillmMembersMissing" not in prometheus.firing()
    sim.behave(model="b", faults=(Fault(404),))
    assert ask(proxy, ENSEMBLE)["optillm"]["members_missing"] == ["b"]
    assert eventually(lambda: "OptillmMembersMissing" in prometheus.firing())
    alert = prometheus.firing()["OptillmMembersMissing"]
    assert (alert["labels"]["ensemble"], alert["labels"]["model"]) == (ENSEMBLE, "b")
    assert f"{ENSEMBLE} runs with fewer members than declared" in alert["annotations"]["summary"]
    assert "OptillmDown" not in prometheus.firing()
