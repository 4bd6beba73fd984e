"""``optictl router test`` with the classifier itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import eventually
from tiny import reference_logits, write_checkpoint

from optictl.router_place import Place
from optictl.router_testing import rungs
from proxy.router.checkpoint import LABELS
from proxy.router.config import RouterSettings
from proxy.router.supervisor import SOCKET, Supervisor
from proxy.router.tokenise import Question, Tokeniser

pytestmark = pytest.mark.router


def test_the_classifier_is_asked_as_the_service_asks_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "classifier")
    heard: list[str] = []
    *_, classifier = rungs("Hi there!", Place({}, folder), 0.3, heard.append)
    ids = Tokeniser(folder / "tokenizer.json").encode(Question("Hi there!"), 64)
    assert classifier.approach == LABELS[int(reference_logits(folder, ids, 0.3).argmax())]
    assert classifier.seconds > 0
    assert classifier.asked == "copy"
    assert heard == ["loading the classifier …"]


def test_a_running_service_is_asked_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "classifier")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    service = Supervisor()
    service.renew(RouterSettings(model=str(folder), threads=1))
    service.tick()
    place = Place({"HF_HOME": str(tmp_path)}, socket=tmp_path / SOCKET)
    heard: list[str] = []
    try:
        assert eventually(
            lambda: rungs("Hi there!", place, 0.3, heard.append)[-1].asked == "service", within=90
        )
        assert heard[-1] == "asked the classifier of the running service"
        assert place.socket is not None
        assert place.socket.stat().st_mode & 0o077 == 0
    finally:
        service.stop()
    heard.clear()
    assert rungs("Hi there!", place, 0.3, heard.append)[-1].asked is None
    assert heard[0].startswith(f"the service's classifier was not asked: {place.socket}: ")


def test_one_that_torch_cannot_read_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "classifier")
    (folder / "tokenizer.json").write_text("{}")
    *_, classifier = rungs("Hi there!", Place({}, folder), 0.3, lambda _: None)
    assert classifier.approach is None
    assert "tokenizer.json" in classifier.why
