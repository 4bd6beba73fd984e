"""The reference pages say what the program says of itself, about everything there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optictl.checking import discover
from optictl.exit_status import Exit
from optictl.site import SECTIONS
from tools.reference import every_command, every_error, pages

ROOT = Path(__file__).parent.parent
WRITTEN = pages()


def page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of a page's tables."""
    lines = [line for line in page(name).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("path", WRITTEN)
def test_a_page_is_as_make_docs_writes_it(path: str) -> None:
    assert (ROOT / path).read_text() == WRITTEN[path], "write it anew: make docs"


@pytest.mark.parametrize("path", WRITTEN)
def test_its_first_line_says_who_wrote_it(path: str) -> None:
    assert "`make docs`" in WRITTEN[path].splitlines()[0]


def test_every_exit_status_and_every_error_is_in_one_row() -> None:
    table = {row[0]: row for row in rows("exit-codes")[1:]}
    assert list(table) == [str(int(status)) for status in Exit]
    for error in every_error():
        [status] = [row[0] for row in table.values() if f"`{error.code}`" in row[2]]
        assert status == str(int(error.exit_code)), error


def test_every_setting_is_explained() -> None:
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            if (*section, name) not in SECTIONS:
                assert field.description, (*section, name)
    known = [row[0] for row in rows("settings")]
    for model in SECTIONS.values():
        described = {name for name, field in model.model_fields.items() if field.description}
        assert {f"`{name}`" for name in described} <= set(known)


def test_every_check_is_explained() -> None:
    table = {row[0]: row[4] for row in rows("checks")[1:]}
    for each in discover():
        assert table[f"`{each.name}`"].endswith(".")


@pytest.mark.parametrize("name", every_command())
def test_what_a_command_answers_in_json_is_told(name: str) -> None:
    told = [word for row in rows("json") for word in re.findall(r"`([^`]+)`", row[0])]
    assert name in told


@pytest.mark.parametrize("name", ["RUNBOOK", "SERVICE_SPEC", "operator", "json"])
def test_the_commands_that_a_page_speaks_of_exist(name: str) -> None:
    known = every_command()
    groups = {command.partition(" ")[0] for command in known}
    spoken = set(re.findall(r"^(?:sudo )?optictl ([a-z]+)|`optictl ([a-z]+)", page(name), re.M))
    assert {word for pair in spoken for word in pair if word} - groups == set()
