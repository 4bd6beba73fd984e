"""``optictl check router`` reads the tokenizer before a service meets one that is no good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from tiny import write_checkpoint
from typer.testing import CliRunner

from optictl import router_fetch
from optictl.cli import build

pytestmark = pytest.mark.router


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def found(folder: Path, site: Path) -> dict[str, Any]:
    site.write_text(
        "service: {profile: torch}\n"
        f"proxy: {{base_model: a, approach: router, port: {free_port()}, "
        f"flags: [--router-model={folder}]}}\n"
    )
    said = CliRunner().invoke(build(), ["check", "router", "--json", "--config", str(site)])
    [finding] = json.loads(said.stdout)["data"]["checks"]
    return dict(finding)


def test_a_whole_one_is_nothing_to_speak_of(folder: Path, tmp_path: Path) -> None:
    finding = found(folder, tmp_path / "optictl.yaml")
    assert (finding["status"], finding["saw"]) == (
        "skipped", "the service does not answer: see the check ready",
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {}}', "no JSON", b"\xff"])
def test_one_that_cannot_be_read_is_told(folder: Path, tmp_path: Path, text: str | bytes) -> None:
    own = tmp_path / "model"
    own.mkdir()
    for name in ("config.json", "model.safetensors"):
        (own / name).symlink_to(folder / name)
    (own / "tokenizer.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    finding = found(own, tmp_path / "optictl.yaml")
    assert finding["status"] == "fail"
    assert finding["saw"].startswith(f"{own}/tokenizer.json: ")
    assert finding["saw"].endswith(": the router goes by words and its small model")
    assert finding["fix"] == f"put the checkpoint into {own}, or drop --router-model"
    # What lies in the cache is fetched again.
    assert router_fetch._usable(folder)
    assert not router_fetch._usable(own)
