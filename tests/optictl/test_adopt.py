"""``optictl adopt``: from a hand-written service to one that install may replace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl.cli import build
from optictl.machine import Machine
from optictl.options import open_machine
from optictl.state import State
from optictl.system import RealSystem

UNIT = "etc/systemd/system/optillm-proxy.service"
ENV = "etc/optillm-proxy/env"
CONFIG = "etc/optillm-proxy/proxy_config.yaml"
SITE = "etc/optillm-proxy/optictl.yaml"
SECRETS = ("sk-up", "sk-clients", "hf_x")

WRITTEN = {
    UNIT: "[Unit]\nDescription=mine\n[Service]\nUser=nobody\n"
    "EnvironmentFile=/etc/optillm-proxy/env\n"
    "ExecStart=/usr/bin/uv run optillm --host 127.0.0.1 --port 4021 \\\n"
    "  --base-url http://127.0.0.1:4001/v1 --approach moa --model qwen3 \\\n"
    "  --optillm-api-key sk-clients --best-of-n 4 --mcts-depth 2 --plugins-dir /p\n",
    ENV: "OPENAI_API_KEY=sk-up\nHF_TOKEN=hf_x\nOPTILLM_OPT_A_MODEL=moa-a\n",
    CONFIG: "providers: []\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", "/home/me")
    for path, text in WRITTEN.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def adopt(root: Path, *arguments: str) -> Any:
    return CliRunner().invoke(build(), ["adopt", "--root", str(root), *arguments])


def machine(root: Path) -> Machine:
    return open_machine(root / SITE, root=root, systemd=252)


class TestTheWholeWay:
    def test_install_may_replace_what_was_adopted(self, root: Path) -> None:
        ran = adopt(root, "--yes")
        assert ran.exit_code == 0, ran.output
        assert ran.stdout.splitlines() == [f"adopted /{path}" for path in WRITTEN]
        assert "optictl plan, then optictl install" in ran.stderr
        plan = machine(root).plan()
        assert not any(change.foreign for change in plan.changes)
        plan.refuse_hand_edits()
        assert [str(change.path) for change in plan.pending][:1] == [f"/{UNIT}"]

    def test_the_new_unit_does_what_the_old_one_did(self, root: Path) -> None:
        adopt(root, "--yes")
        found = machine(root)
        unit = found.artifacts[0].content.decode()
        (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
        for words in (
            "--host 127.0.0.1 --port 4021",
            "--base-url http://127.0.0.1:4001/v1",
            "--approach moa --model qwen3",
            "--best-of-n 4 --mcts-depth 2",
        ):
            assert words in line
        assert "--plugins-dir" not in line
        assert "User=nobody" in unit
        env = next(each for each in found.artifacts if each.path.name == "env").content.decode()
        assert 'OPENAI_API_KEY="sk-up"' in env
        assert 'OPTILLM_OPT_A_MODEL="moa-a"' in env

    def test_none_of_the_files_is_changed(self, root: Path) -> None:
        adopt(root, "--yes")
        assert {path: (root / path).read_text() for path in WRITTEN} == WRITTEN

    def test_no_secret_is_shown_or_in_the_site(self, root: Path) -> None:
        said = adopt(root, "--yes").output + adopt(root, "--yes", "--json").output
        said += (root / SITE).read_text()
        # The old unit has the clients' key on its command line.
        said += json.dumps(machine(root).plan().as_json())
        assert not any(secret in said for secret in SECRETS)

    def test_a_second_time_says_so(self, root: Path) -> None:
        adopt(root, "--yes")
        before = (root / SITE).read_text()
        ran = adopt(root, "--yes", "--json")
        answer = json.loads(ran.stdout)["data"]
        assert answer["adopted"] == []
        assert answer["already"] == [f"/{path}" for path in WRITTEN]
        assert (answer["site"], answer["differs"], answer["keys"]) == ("kept", [], [])
        assert (root / SITE).read_text() == before

    def test_a_hand_edit_after_it_is_one(self, root: Path) -> None:
        adopt(root, "--yes")
        (root / UNIT).write_text("[Service]\nExecStart=/x/optillm\n")
        assert any(change.hand_edited for change in machine(root).plan().changes)


class TestWithASite:
    def test_it_is_kept_and_what_differs_is_told(self, root: Path) -> None:
        site = "proxy: {base_model: qwen3, port: 4020, approach: moa}\n"
        (root / SITE).write_text(site)
        ran = adopt(root, "--yes")
        assert ran.exit_code == 0, ran.output
        assert (root / SITE).read_text() == site
        assert f"proxy.port: site says 4020, /{UNIT}:6 (--port) says 4021" in ran.stderr
        assert "proxy.approach: site says" not in ran.stderr
        assert f"adopted /{UNIT}" in ran.stdout

    def test_the_same_key_elsewhere_is_no_difference_and_stays(self, root: Path) -> None:
        keys = root / "etc/keys"
        keys.write_text("UP=sk-up\n")
        (root / SITE).write_text(
            "proxy: {base_model: qwen3}\nupstream: {key: {env_file: /etc/keys, name: UP}}\n"
        )
        answer = json.loads(adopt(root, "--yes", "--json").stdout)["data"]
        assert not any("upstream.key" in line for line in answer["differs"])
        assert answer["keys"] == ["/etc/optillm-proxy/clients.key"]


class TestRefusals:
    def test_nobody_to_ask(self, root: Path) -> None:
        ran = adopt(root)
        assert ran.exit_code == 2
        assert "--yes" in ran.stderr
        assert not (root / SITE).exists()
        assert not (root / "var").exists()

    def test_another_optictl_is_writing(self, root: Path) -> None:
        adopt(root, "--yes")
        with RealSystem(root).lock(machine(root).records.lock):
            assert adopt(root, "--yes").exit_code == 11


def test_drop_ins_are_listed_as_kept(root: Path) -> None:
    drop_in = root / f"{UNIT}.d/local.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNice=5\n")
    ran = adopt(root, "--yes")
    assert f"kept, and in force for the new unit too: /{UNIT}.d/local.conf" in ran.stderr
    assert drop_in.read_text() == "[Service]\nNice=5\n"


def test_what_is_registered_is_what_is_on_disk(root: Path) -> None:
    adopt(root, "--yes")
    found = machine(root)
    state = State.load(found.system, found.records)
    assert [str(path) for path in state.files] == [f"/{path}" for path in WRITTEN]
    assert state.files[Path(f"/{UNIT}")].sensitive
    assert state.files[Path(f"/{UNIT}")].unit
    assert not state.files[Path(f"/{CONFIG}")].sensitive
