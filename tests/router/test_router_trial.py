"""``optictl router test`` with the classifier itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import reference_logits, write_checkpoint

from optictl.router_place import Place
from optictl.router_testing import rungs
from proxy.router.checkpoint import LABELS
from proxy.router.tokenise import Question, Tokeniser

pytestmark = pytest.mark.router


def test_the_classifier_is_asked_as_the_service_asks_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "classifier")
    heard: list[str] = []
    *_, classifier = rungs("Hi there!", Place({}, folder), 0.3, heard.append)
    ids = Tokeniser(folder / "tokenizer.json").encode(Question("Hi there!"), 64)
    assert classifier.approach == LABELS[int(reference_logits(folder, ids, 0.3).argmax())]
    assert classifier.seconds > 0
    assert heard == ["loading the classifier …"]


def test_one_that_torch_cannot_read_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "classifier")
    (folder / "tokenizer.json").write_text("{}")
    *_, classifier = rungs("Hi there!", Place({}, folder), 0.3, lambda _: None)
    assert classifier.approach is None
    assert "tokenizer.json" in classifier.why
