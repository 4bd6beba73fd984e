"""What `optictl render --monitoring` writes: it names what there is, and no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from optictl.cli import build
from optictl.monitoring import alerts
from proxy.telemetry.metrics import FAMILIES

KEY = "sk-never-shown"
PAGE = Path(__file__).parents[2] / "docs/operator.md"
FILES = ["scrape.yml", "rules.yml", "dashboard.json"]


def run(folder: Path, *arguments: str, proxy: str = "") -> Any:
    key = folder / "clients.key"
    key.write_text(KEY)
    site = folder / "optictl.yaml"
    site.write_text(f"proxy: {{base_model: qwen3{proxy}}}\n")
    return CliRunner().invoke(
        build(), ["render", "--config", str(site), "--systemd", "252", *arguments]
    )


def rendered(folder: Path, proxy: str = "") -> dict[str, str]:
    to = folder / "monitoring"
    done = run(folder, "--monitoring", str(to), proxy=proxy)
    assert done.exit_code == 0, done.output
    return {file.name: file.read_text() for file in to.iterdir()}


def test_three_files_are_written_and_named(tmp_path: Path) -> None:
    to = tmp_path / "not/there/yet"
    done = run(tmp_path, "--monitoring", str(to))
    assert [line for line in done.stderr.splitlines() if line.startswith("wrote ")] == [
        f"wrote {to / name}" for name in FILES
    ]
    assert sorted(file.name for file in to.iterdir()) == sorted(FILES)


def test_one_of_them_by_its_name(tmp_path: Path) -> None:
    assert run(tmp_path, "rules.yml", "--monitoring", str(tmp_path / "m")).exit_code == 0
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["rules.yml"]


def test_in_json_they_are_artifacts_like_any(tmp_path: Path) -> None:
    data = json.loads(run(tmp_path, "--monitoring", str(tmp_path / "m"), "--json").stdout)["data"]
    assert [Path(each["path"]).name for each in data] == FILES
    assert data[0]["content"] == (tmp_path / "m/scrape.yml").read_text()


def test_a_folder_is_for_the_one_or_for_the_others(tmp_path: Path) -> None:
    done = run(tmp_path, "--monitoring", str(tmp_path / "m"), "--output", str(tmp_path / "o"))
    assert done.exit_code == 2
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("proxy", "target"),
    [
        (", port: 4711", "127.0.0.1:4711"),
        (", host: 0.0.0.0, allow_external: true", "127.0.0.1:4020"),
        (', host: "::1"', "[::1]:4020"),
    ],
)
def test_what_is_scraped(tmp_path: Path, proxy: str, target: str) -> None:
    (job,) = yaml.safe_load(rendered(tmp_path, proxy)["scrape.yml"])["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("optillm-proxy", "/metrics")
    assert job["static_configs"] == [{"targets": [target]}]
    assert "authorization" not in job


def test_a_key_is_named_by_its_place(tmp_path: Path) -> None:
    files = rendered(tmp_path, f", key: {{file: {tmp_path / 'clients.key'}}}")
    (job,) = yaml.safe_load(files["scrape.yml"])["scrape_configs"]
    assert job["authorization"] == {"credentials_file": "/etc/prometheus/optillm-proxy.key"}
    assert KEY not in "".join(files.values())


def test_only_metrics_that_exist_are_asked_for(tmp_path: Path) -> None:
    parts = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    known = {family.shown + part for family in FAMILIES for part in parts[family.kind]}
    files = rendered(tmp_path)
    asked = set(re.findall(r"optillm_[a-z_]+", files["rules.yml"] + files["dashboard.json"]))
    # A description may name a histogram as a whole.
    assert asked <= known | {family.shown for family in FAMILIES}
    shown = set(re.findall(r"optillm_[a-z_]+", files["dashboard.json"]))
    missing = {
        family.shown
        for family in FAMILIES
        if not {family.shown + p for p in parts[family.kind]} & shown
    }
    assert missing == set()


def test_only_labels_that_exist_are_asked_for(tmp_path: Path) -> None:
    known = {label for family in FAMILIES for label in family.labels} | {"job", "le", "instance"}
    files = rendered(tmp_path)
    rules = yaml.safe_load(files["rules.yml"])["groups"][0]["rules"]
    panels = json.loads(files["dashboard.json"])["panels"]
    queries = [rule["expr"] for rule in rules]
    queries += [target["expr"] for panel in panels for target in panel["targets"]]
    text = "\n".join(queries)
    used = set(re.findall(r"[{,](\w+)(?:=|!=|=~|!~)\"", text))
    for by in re.findall(r"by \(([^)]*)\)", text):
        used |= set(by.split(", "))
    used |= set(re.findall(r"\$labels\.(\w+)", files["rules.yml"]))
    assert used <= known
    assert {"approach", "le", "provider", "code"} <= used


def test_the_request_timeout_decides_what_is_slow(tmp_path: Path) -> None:
    rules = yaml.safe_load(rendered(tmp_path, ", request_timeout: 90")["rules.yml"])
    (slow,) = [rule for rule in rules["groups"][0]["rules"] if rule["alert"] == "OptillmSlow"]
    assert slow["expr"].endswith("> 45")


def test_every_alert_is_in_the_page_for_operators() -> None:
    page = PAGE.read_text()
    for alert in alerts("optillm-proxy"):
        assert f"| `{alert.name}` | {alert.severity} |" in page
    assert page.count("\n| `Optillm") == len(alerts("optillm-proxy"))


def test_every_command_that_an_alert_names_exists() -> None:
    commands = set(CliRunner().invoke(build(), ["--help"]).stdout.split())
    named = {name for alert in alerts("x") for name in re.findall(r"optictl (\w+)", alert.look)}
    assert named
    assert named <= commands
