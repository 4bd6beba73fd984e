"""The flags of the router's classifier: from the command line to settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import proxy.server
from optictl import cli
from proxy.router.config import RouterSettings
from proxy.settings import Settings

Start = Callable[..., RouterSettings | None]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the service as far as its settings; what it would ask a classifier by."""
    for name in list(os.environ):
        if name.startswith(("OPTILLM", "OPENAI", "CEREBRAS", "AZURE")):
            monkeypatch.delenv(name)

    def start(*arguments: str, ends: int = 0) -> RouterSettings | None:
        kept: list[Settings] = []

        def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
            kept.extend([settings, reload()])
            return 0

        monkeypatch.setattr(proxy.server, "serve", serve)
        given = ["optillm", "--base-url", "http://127.0.0.1:9/v1", *arguments]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            cli.optillm()
        assert ended.value.code == ends
        if not kept:
            return None
        assert kept[0].router == kept[1].router
        return kept[0].router

    return start


def test_without_flags_it_is_looked_for_in_the_cache(start: Start) -> None:
    assert start() == RouterSettings()


def test_each_flag_is_a_setting(start: Start, tmp_path: Path) -> None:
    flags = {
        "--router-model": str(tmp_path),
        "--router-min-confidence": "0.7",
        "--router-temperature": "1.5",
        "--router-threads": "3",
        "--router-precision": "int8",
    }
    assert start(*(each for pair in flags.items() for each in pair)) == RouterSettings(
        model=str(tmp_path), min_confidence=0.7, temperature=1.5, threads=3, precision="int8"
    )


def test_a_folder_is_meant_from_where_the_service_is_started(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = start("--router-model", "model")
    assert settings is not None
    assert settings.model == str(tmp_path / "model")


def test_the_folder_may_stand_in_the_environment(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTILLM_ROUTER_DIR", str(tmp_path))
    settings = start()
    assert settings is not None
    assert settings.model == str(tmp_path)


def test_it_can_be_switched_off(start: Start) -> None:
    assert start("--no-router") is None


@pytest.mark.parametrize(
    "flag", [("--router-min-confidence", "1.1"), ("--router-threads", "-1"), ("--router-model",)]
)
def test_what_makes_no_sense_is_refused(start: Start, flag: tuple[str, ...]) -> None:
    start(*flag, ends=2)
