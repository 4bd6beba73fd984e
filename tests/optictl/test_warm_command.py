"""``gateway.warm_command``: what loads the members before they are asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from boxes import MakeBox, make_box
from conftest import eventually

from optictl import warm_command
from optictl.box import Box
from optictl.ensembling import try_out
from optictl.errors import EnsembleFailed
from proxy.ensembles import Ensemble, Member, Team

__all__ = ["make_box"]  # a fixture, used by name

GATEWAY = "http://127.0.0.1:4000"
KEY = "sk-never-shown"
NAME = "opt-chat-balanced-m"
ENSEMBLE = Ensemble(NAME, "moa", Team((Member("a b"), Member("c"), Member("c", "judge"))))


class World:
    """A site whose command is a script, and a LiteLLM that says yes."""

    def __init__(self, make_box: MakeBox, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.asked: list[str] = []
        self._make_box = make_box
        key = folder / "key"
        key.touch(0o600)
        key.write_text(KEY)

    def box(self, *command: str) -> Box:
        gateway = {
            "base_url": f"{GATEWAY}/v1",
            "master_key": {"file": f"{self.folder}/key"},
            "warm_command": command,
        }
        site = {"proxy": {"base_model": "b"}, "gateway": gateway}
        return self._make_box(json.dumps(site), at={GATEWAY: self.answer})

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content)["model"])
        return httpx.Response(200, json={"choices": [{"message": {"content": "Hello"}}]})

    def script(self, text: str, *words: str) -> Box:
        path = self.folder / "load"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return self.box(str(path), *words)

    def failure(self, run: Callable[[], object]) -> str:
        with pytest.raises(EnsembleFailed) as failed:
            run()
        return str(failed.value)


@pytest.fixture
def world(make_box: MakeBox, tmp_path: Path) -> World:
    return World(make_box, tmp_path)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_knows_the_ensemble_and_its_models_a_word_each(world: World) -> None:
    box = world.script('for word; do echo "[$word]"; done', "--for={ensemble}", "{models}", "$HOME")
    try_out(box, ENSEMBLE, world.told.append)
    assert world.told[1:5] == [f"[--for={NAME}]", "[a b]", "[c]", "[$HOME]"]
    assert world.asked == ["a b", "c", NAME]


def test_it_comes_before_the_first_question(world: World) -> None:
    said = world.failure(
        lambda: try_out(
            world.script("echo loading; echo out of memory >&2; exit 3"),
            ENSEMBLE,
            world.told.append,
        )
    )
    command = world.folder / "load"
    assert said == f"gateway.warm_command: {command}: exit status 3: out of memory"
    assert world.asked == []


def test_what_it_says_is_told_as_it_comes(tmp_path: Path) -> None:
    seen, told = tmp_path / "seen", []

    def tell(line: str) -> None:
        told.append(line)
        if line == "ready?":
            seen.touch()

    text = f"echo 'ready?'; while [ ! -e {seen} ]; do sleep 0.02; done; printf '1 %%\\r\\n\\n2 %%'"
    warm_command.run(["sh", "-c", text], tell, timeout=60)
    assert told == ["ready?", "1 %", "2 %"]


def test_not_without_warming(world: World) -> None:
    try_out(world.script("exit 1"), ENSEMBLE, world.told.append, warm=False)
    assert world.asked == [NAME]


def test_a_program_that_is_not_there(world: World) -> None:
    box = world.box("/nowhere/mlxctl", "{ensemble}")
    said = world.failure(lambda: try_out(box, ENSEMBLE, world.told.append))
    assert said == ("gateway.warm_command: cannot run /nowhere/mlxctl: No such file or directory")


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
    world: World, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    text = f"echo $$ > {pids}; sleep 600 & echo $! >> {pids}; echo half; wait"
    said = world.failure(
        lambda: warm_command.run(["sh", "-c", text], world.told.append, timeout=1.0)
    )
    assert said.endswith(": not done after 1 s: half")
    for pid in map(int, pids.read_text().split()):
        assert eventually(lambda pid=pid: gone(pid))


def test_a_server_that_it_leaves_behind_goes_on(world: World, tmp_path: Path) -> None:
    go, lives = tmp_path / "go", tmp_path / "lives"
    waiting = f"while [ ! -e {go} ]; do sleep 0.02; done"
    text = f"({waiting}; echo late; touch {lives}) & echo started"
    warm_command.run(["sh", "-c", text], world.told.append)
    go.touch()
    assert eventually(lives.exists)
    assert world.told == ["started"]


def test_no_key_of_the_site_is_told(world: World) -> None:
    box = world.script(f"echo with {KEY}; exit 1")
    said = world.failure(lambda: try_out(box, ENSEMBLE, world.told.append))
    assert said.endswith("with ***")
    assert KEY not in "".join(world.told)
