"""Batch mode, single flight, the cache and second attempts: from the command line to settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

import proxy.server
from optictl import cli
from proxy.settings import Settings, Sharing

Start = Callable[..., Sharing]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the service as far as its settings; what it would share."""
    for name in list(os.environ):
        if name.startswith(("OPTILLM", "OPENAI", "CEREBRAS", "AZURE")):
            monkeypatch.delenv(name)

    def start(*arguments: str) -> Sharing:
        kept: list[Settings] = []

        def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
            kept.extend([settings, reload()])
            return 0

        monkeypatch.setattr(proxy.server, "serve", serve)
        monkeypatch.setattr(
            sys, "argv", ["optillm", "--base-url", "http://127.0.0.1:9/v1", *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            cli.optillm()
        assert ended.value.code == 0
        assert kept[0].sharing == kept[1].sharing
        return kept[0].sharing

    return start


def test_all_of_it_is_off_unless_it_is_asked_for(start: Start) -> None:
    assert start() == Sharing()
    assert start("--batch-size", "8", "--batch-wait-ms", "5").batch_size is None
    assert start("--cache-mb", "8").cache_ttl is None


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--batch-mode"], Sharing(batch_size=4, batch_wait=0.05)),
        (
            ["--batch_mode", "--batch_size", "8", "--batch_wait_ms=0"],
            Sharing(batch_size=8, batch_wait=0.0),
        ),
        (["--single-flight"], Sharing(single_flight=True)),
        (["--cache-ttl", "90"], Sharing(cache_ttl=90.0)),
        (
            ["--cache-ttl", "1.5", "--cache-mb", "1"],
            Sharing(cache_ttl=1.5, cache_bytes=1024 * 1024),
        ),
        (["--hedge"], Sharing(hedge=True)),
    ],
)
def test_what_is_asked_for(start: Start, arguments: list[str], asked: Sharing) -> None:
    assert start(*arguments) == asked


@pytest.mark.parametrize(("value", "size"), [("true", 16), ("1", 16), ("false", None), ("", None)])
def test_the_peer_s_variables(
    start: Start, monkeypatch: pytest.MonkeyPatch, value: str, size: int | None
) -> None:
    monkeypatch.setenv("OPTILLM_BATCH_MODE", value)
    monkeypatch.setenv("OPTILLM_BATCH_SIZE", "16")
    monkeypatch.setenv("OPTILLM_BATCH_WAIT_MS", "20")
    assert start() == Sharing(batch_size=size, batch_wait=0.02)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch-size", "0"),
        ("--batch-wait-ms", "-1"),
        ("--cache-ttl", "0"),
        ("--cache-mb", "0"),
    ],
)
def test_values_out_of_range_are_refused_by_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[str, str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["optillm", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.optillm()
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
