"""What is known of int8 holds for these weights, this torch and this CPU, and for no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.router import calibration
from proxy.router.calibration import Calibration, outdated, remember, remembered
from proxy.router.checkpoint import Checkpoint

FOUND = Calibration(0.995, 0.2, 0.1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path, (1, 2))


def test_what_was_found_is_remembered(checkpoint: Checkpoint) -> None:
    assert remembered(checkpoint) is None
    assert not outdated(checkpoint)
    remember(checkpoint, FOUND)
    assert remembered(checkpoint) == FOUND
    assert not outdated(checkpoint)
    (file,) = checkpoint.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644


def test_it_does_not_hold_for_other_weights(checkpoint: Checkpoint) -> None:
    remember(checkpoint, FOUND)
    assert remembered(Checkpoint(checkpoint.folder, (1, 3))) is None


@pytest.mark.parametrize("what", ["version", "_cpu"])
def test_nor_for_another_torch_or_cpu(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    remember(checkpoint, FOUND)
    monkeypatch.setattr(calibration, what, lambda *_: "another")
    assert remembered(checkpoint) is None
    assert outdated(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"of": []}', '"of"', "\0"])
def test_a_file_that_says_nothing_is_as_good_as_none(checkpoint: Checkpoint, content: str) -> None:
    (checkpoint.folder / "calibration.json").write_text(content)
    assert remembered(checkpoint) is None


def test_nothing_is_left_where_it_cannot_be_written(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(checkpoint, FOUND)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space left"):
        remember(checkpoint, Calibration(1.0, 1.0, 1.0))
    assert remembered(checkpoint) == FOUND
    assert [each.name for each in checkpoint.folder.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    ("found", "allowed", "better", "said"),
    [
        (Calibration(0.99, 0.2, 0.1), True, True, "decides 99.0% of the prompts alike, 2.0 times"),
        (Calibration(1.0, 0.2, 0.25), True, True, "alike, 0.8 times as fast"),
        (Calibration(1.0, 0.1, 0.2), True, False, "alike, 0.5 times as fast"),
        (Calibration(0.98, 0.2, 0.1), False, False, "refused: it decides 98.0% of the prompts"),
        (Calibration(0.0, 0.2, 0.0, "no engine"), False, False, "refused: no engine"),
    ],
)
def test_int8_has_to_decide_alike_in_nearly_the_same_time(
    found: Calibration, allowed: bool, better: bool, said: str
) -> None:
    assert (found.allowed, found.better) == (allowed, better)
    assert said in str(found)
