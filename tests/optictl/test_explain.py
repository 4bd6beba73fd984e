"""``optictl explain``: everything that may be asked about has an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl import errors
from optictl.checking import discover
from optictl.cli import build
from optictl.errors import OptictlError, UsageError
from optictl.exit_status import Exit
from optictl.explaining import FOLDER, PROXY_FOLDER, Explanation, explain, known
from proxy.errors import ProxyError
from proxy.hops import LoopDetected

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r'(?:\bcode=(?:code or )?|"code": )"([a-z_]+)"')


def codes_of(kind: type[Any]) -> set[str]:
    mine = {kind.code} if kind.__module__.startswith(("optictl", "proxy")) else set()
    return mine.union(*(codes_of(child) for child in kind.__subclasses__()))


def raised(folder: str) -> set[str]:
    """Codes written in the source: those of errors that have more than one."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        # The simulator plays other people's servers.
        if "simulator" not in path.parts:
            found |= set(RAISED.findall(path.read_text()))
    return found


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.md")}


def test_every_code_of_optictl_has_a_text_and_no_text_is_without_a_code() -> None:
    of_program = {"config", "interrupted", "crashed"}
    assert files(FOLDER) == codes_of(OptictlError) | raised("optictl") | of_program


def test_every_code_of_the_proxy_has_a_text_and_no_text_is_without_a_code() -> None:
    assert files(PROXY_FOLDER) == codes_of(ProxyError) | {LoopDetected.code} | raised("proxy")


def test_a_name_means_one_thing() -> None:
    names = [each.name for each in known()]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("each", known(), ids=lambda each: f"{each.kind}-{each.name}")
def test_each_begins_with_what_it_means_and_says_what_to_do(each: Explanation) -> None:
    assert each.meaning.endswith(".")
    assert len(each.meaning) < 100
    if each.kind in ("error", "proxy"):
        lines = each.text.splitlines()
        assert all(len(line) <= 100 for line in lines)
        assert 5 <= len(lines) <= 17
        assert each.text.split("\n\n")[1].startswith("Cause: ")
        assert "What to do:\n\n- " in each.text


@pytest.mark.parametrize("each", known(), ids=lambda each: f"{each.kind}-{each.name}")
def test_the_commands_it_names_exist(each: Explanation) -> None:
    commands = {path.stem for path in (ROOT / "optictl/commands").glob("*.py")}
    checks = {check.name for check in discover()}
    for command, word in re.findall(r"`(?:sudo )?optictl ([a-z]+)(?: ([a-z_]+))?", each.text):
        assert command in commands
        if command == "check" and word:
            assert word in checks


def test_a_check_is_explained_by_its_own_words() -> None:
    for check in discover():
        assert explain(check.name).meaning == " ".join(check.about.split())


def test_an_exit_status_names_the_codes_that_end_so() -> None:
    assert errors.Locked.code in explain("11").text
    assert {each.name for each in known() if each.kind == "exit"} == {
        str(status.value) for status in Exit
    }


@pytest.mark.parametrize(("typed", "meant"), [("warmup_fail", "warmup_failed"), ("drfit", "drift")])
def test_a_mistyped_name_is_guessed(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        explain(typed)


def test_what_nobody_knows_leads_to_the_list() -> None:
    with pytest.raises(UsageError, match="see them all: optictl explain"):
        explain("qqq")


class TestTheCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(build(), ["explain", *arguments])

    def test_one(self) -> None:
        shown = self.run("UPSTREAM_AUTH")
        assert shown.exit_code == 0
        assert shown.stdout == (PROXY_FOLDER / "upstream_auth.md").read_text()

    def test_one_in_json(self) -> None:
        answer = json.loads(self.run("locked", "--json").stdout)["data"]
        assert (answer["name"], answer["kind"]) == ("locked", "error")
        assert answer["text"].startswith(answer["meaning"])

    def test_all_a_line_each(self) -> None:
        lines = self.run().stdout.splitlines()
        for each in known():
            [line] = [line for line in lines if line.startswith(f"  {each.name} ")]
            assert line.endswith(each.meaning)
        assert len(json.loads(self.run("--json").stdout)["data"]) == len(known())

    def test_none(self) -> None:
        shown = self.run("locket")
        assert shown.exit_code == 2
        assert "did you mean 'locked'" in shown.stderr
