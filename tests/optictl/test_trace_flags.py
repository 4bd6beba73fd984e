"""The flags that say where requests are told of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from optictl.telemetry_flags import telemetry
from proxy.errors import ConfigError
from proxy.settings import Tracing


@pytest.fixture(autouse=True)
def no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def tracing(**flags: Any) -> Tracing:
    found = telemetry(**flags)["tracing"]
    assert isinstance(found, Tracing)
    return found


def test_nothing_is_written_unless_it_is_asked_for() -> None:
    assert tracing() == Tracing()


def test_a_folder_gets_a_file_a_day_and_a_file_is_a_file(tmp_path: Path) -> None:
    assert tracing(trace_log=str(tmp_path)) == Tracing(log=tmp_path, daily=True)
    assert tracing(trace_log=f"{tmp_path}/new/") == Tracing(log=tmp_path / "new", daily=True)
    assert tracing(trace_log=f"{tmp_path}/x.jsonl") == Tracing(log=tmp_path / "x.jsonl")


def test_usage_is_kept_where_systemd_gives_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/a:{tmp_path}/b")
    assert tracing().usage == tmp_path / "a" / "usage.jsonl"
    assert tracing(usage_file=f"{tmp_path}/mine").usage == tmp_path / "mine"


@pytest.mark.parametrize("flag", ["trace_log", "usage_file"])
def test_a_place_without_a_folder_is_refused(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ConfigError, match="cannot be written") as refusal:
        tracing(**{flag: f"{tmp_path}/gone/x.jsonl"})
    assert f"--{flag.replace('_', '-')}" in str(refusal.value)


def test_a_collector_has_a_url() -> None:
    assert tracing(otel_endpoint="http://127.0.0.1:4318").otel == "http://127.0.0.1:4318"
    with pytest.raises(ConfigError, match="--otel-endpoint collector"):
        tracing(otel_endpoint="collector:4318")


def test_a_collector_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ConfigError, match=r"pip install 'optictl\[otel\]'"):
        tracing(otel_endpoint="http://127.0.0.1:4318")
