"""The steps between products are done with torch where they cannot be compiled."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import reference_logits, write_checkpoint

from proxy.router import steps
from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import inspect
from proxy.router.model import calibrate, load
from proxy.router.steps import SLOWER, Torch, best

pytestmark = pytest.mark.router


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """As if nothing had been compiled."""
    best.cache_clear()
    yield
    best.cache_clear()


@pytest.fixture
def cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes ``cc`` a shell script."""
    tools, kept = tmp_path / "tools", tmp_path / "kept"
    tools.mkdir()
    kept.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(tempfile, "tempdir", str(kept))

    def become(script: str) -> None:
        (tools / "cc").write_text(f"#!/bin/sh\n{script}\n")
        (tools / "cc").chmod(0o755)

    yield become
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo 'cc1: error: no such CPU' >&2; echo more >&2; exit 1",
            "ended with 1: cc1: error: no s",
        ),
        ("exit 1", "cc ended with 1"),
        (r"printf '\377\n' >&2; exit 1", "cc ended with 1: \N{REPLACEMENT CHARACTER}"),
        ("touch $TMPDIR/left; exec sleep 60", "timed out after 0.2 seconds"),
        ("exit 0", "No such file or directory"),
        ('while [ "$1" != -o ]; do shift; done; echo no library > "$2"', "file too short"),
    ],
    ids=[
        "fails",
        "fails in silence",
        "fails in bytes",
        "hangs",
        "writes nothing",
        "writes nonsense",
    ],
)
def test_without_a_compiler_that_works_it_is_done_with_torch(
    cc: Callable[[str], None],
    script: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch

    cc(script)
    if "sleep" in script:
        monkeypatch.setattr(steps, "_SECONDS", 0.2)
    with caplog.at_level(logging.INFO, "optillm.router"):
        assert isinstance(best(torch.float32), Torch)
        assert isinstance(best(torch.float32), Torch)
    (line,) = caplog.messages
    assert line.startswith(SLOWER)
    assert why in line


def test_without_any_compiler_the_decision_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checkpoint = inspect(write_checkpoint(tmp_path / "model"))
    assert not calibrate(checkpoint, 1).compiled
    remember(checkpoint, Calibration(1.0, 0.1, 0.1))
    classifier, small = load(checkpoint, "fp32", 1), load(checkpoint, "int8", 1)
    assert classifier.note == "fp32"
    assert small.note == "int8, not compiled: there is no C compiler (cc)"
    expected = reference_logits(checkpoint.folder, [1, 2, 3], 0.7)
    assert (classifier.logits([[1, 2, 3]], [0.7])[0] - expected).abs().max() < 1e-3
    assert (small.logits([[1, 2, 3]], [0.7])[0] - expected).abs().max() < 2.0
