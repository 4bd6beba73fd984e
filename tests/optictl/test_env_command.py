"""``optictl env``: what optictl works with, wherever it is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl import __version__
from optictl.cli import build


def run(*arguments: str) -> Any:
    return CliRunner().invoke(build(), ["env", *arguments])


def values(*arguments: str) -> dict[str, str]:
    shown = run("--json", *arguments)
    assert shown.exit_code == 0
    found: dict[str, str] = json.loads(shown.stdout)["data"]
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "optictl.yaml"
    path.write_text("service: {name: mine}\nproxy: {base_model: qwen3}\n")
    return path


def test_every_path_of_the_site(site: Path) -> None:
    found = values("--config", str(site))
    assert found["site"] == "found"
    assert (found["config"], found["config from"]) == (str(site), "--config")
    assert (found["service"], found["scope"]) == ("mine.service", "system")
    assert found["env file"] == "/etc/mine/env"
    assert found["proxy_config"] == "/etc/mine/proxy_config.yaml"
    assert found["warmup"] == "/etc/mine/warmup.json"
    assert found["lock"] == "/var/lib/optictl/mine/lock"
    assert found["optictl"] == __version__


def test_where_the_site_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTICTL_CONFIG", str(site))
    assert values()["config from"] == "OPTICTL_CONFIG"
    monkeypatch.delenv("OPTICTL_CONFIG")
    assert values()["config from"] == "default"
    assert values("--user")["config from"] == "default, with --user"


def test_a_service_of_ones_own(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = values("--config", str(site), "--user")
    assert (found["scope"], found["runs as"]) == ("user", "you")
    assert found["units"] == f"{tmp_path}/.config/systemd/user"


@pytest.mark.parametrize("text", [None, "proxy: {}\n", ":\n"])
def test_without_a_site_that_can_be_used_it_says_so(tmp_path: Path, text: str | None) -> None:
    site = tmp_path / "optictl.yaml"
    if text is not None:
        site.write_text(text)
    found = values("--config", str(site))
    assert str(site) in found["site"]
    assert "service" not in found
    shown = run("--config", str(site))
    assert shown.exit_code == 0
    assert str(site) in shown.stderr


def test_without_systemd_it_says_so(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = values("--config", str(site))
    assert found["systemd"].startswith("none: systemctl is not on this machine")
    assert found["service"] == "mine.service"


def test_variables_without_what_may_be_secret(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTICTL_PROXY_PORT", "4021")
    monkeypatch.setenv("OPTICTL_MASTER_KEY", "sk-never-shown")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("OTHER", "no concern")
    shown = run("--config", str(site))
    assert "sk-never-shown" not in shown.output
    found = values("--config", str(site))
    assert found["$OPTICTL_PROXY_PORT"] == "4021"
    assert found["$OPTICTL_MASTER_KEY"] == "(set, not shown)"
    assert found["$NO_COLOR"] == "1"
    assert "$OTHER" not in found
