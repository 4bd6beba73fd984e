"""The reference pages say what the program says of itself, about everything there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest

from optictl.checking import discover
from optictl.exit_status import Exit
from optictl.site import SECTIONS
from proxy.approach import Entry, entry_of
from proxy.chat import Chat, Reply
from proxy.llm import LLM, Shape, approach
from proxy.registry import Registry
from proxy.registry import discover as discover_approaches
from tools.reference import approaches_page, every_command, every_error, pages

ROOT = Path(__file__).parent.parent
WRITTEN = pages()


def page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of a page's tables."""
    return [cells(line) for line in page(name).splitlines() if line.startswith("| ")]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


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


def approach_section(page: str, slug: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What a page of approaches tells of one: its facts, and its options by name."""
    section = page.partition(f"\n## {slug}\n")[2].partition("\n## ")[0]
    told = [cells(line) for line in section.splitlines() if line.startswith("| ")]
    facts = {row[0]: row[1] for row in told if len(row) == 2}
    return facts, {row[0]: row[1:] for row in told if len(row) == 5 and row[0] != "option"}


@pytest.mark.parametrize("entry", list(discover_approaches()), ids=lambda entry: entry.slug)
def test_an_approach_is_told_with_its_cost_and_all_of_its_options(entry: Entry) -> None:
    facts, options = approach_section(WRITTEN["docs/approaches.md"], entry.slug)
    shape = entry.shape({})
    told = [int(number) for number in re.findall(r"\d+", facts["calls, rounds"])]
    assert {shape.least_calls, shape.most_calls, shape.least_rounds, shape.most_rounds} == set(told)
    assert facts["use it for"].replace("\\|", "|") == entry.mark.use
    assert (entry.mark.paper or "") in facts.get("source", "")
    assert facts["asks of an ensemble"] == (", ".join(entry.roles({})) or "nobody")
    assert options.keys() == {f"`{name}`" for name in entry.options}
    for name, option in entry.options.items():
        accepts, default, theirs, what = options[f"`{name}`"]
        assert json.loads(default.strip("`")) == option.default
        assert set(re.findall(r"`(\w+)`", theirs)) == {
            alias for alias, ours in entry.mark.aliases.items() if ours == name
        }
        assert what.replace("\\|", "|") == option.help
        for value in option.values or ():
            assert f"`{value}`" in accepts


def test_an_approach_of_any_make_is_told() -> None:
    @approach(
        "odd",
        shape=lambda _: Shape(calls=(1, 3), rounds=2),
        aliases={"k": "way", "m": "way"},
        handles=set(),
        use="a|b",
        roles=lambda _: (),
    )
    async def odd(
        chat: Chat,
        llm: LLM,
        *,
        way: Annotated[Literal["up", "down"], "up | down"] = "up",
        model: str | None = None,
    ) -> Reply:
        """Do it."""
        raise AssertionError

    entry = entry_of(odd)
    assert entry is not None
    facts, options = approach_section(approaches_page(Registry([entry])), "odd")
    assert facts == {
        "": "",
        "kind": "approach",
        "calls, rounds": "1–3, 2",
        "use it for": "a\\|b",
        "treats": "text",
        "asks of an ensemble": "nobody",
    }
    assert options == {
        "`way`": ["`up` or `down`", '`"up"`', "`k`, `m`", "up \\| down"],
        "`model`": ["text or null", "`null`", "", ""],
    }


@pytest.mark.parametrize("name", every_command())
def test_what_a_command_answers_in_json_is_told(name: str) -> None:
    told = [word for row in rows("json") for word in re.findall(r"`([^`]+)`", row[0])]
    assert name in told


@pytest.mark.parametrize(
    "name", ["RUNBOOK", "SERVICE_SPEC", "operator", "json", "approaches", "writing-an-approach"]
)
def test_the_commands_that_a_page_speaks_of_exist(name: str) -> None:
    known = every_command()
    groups = {command.partition(" ")[0] for command in known}
    spoken = set(re.findall(r"^(?:sudo )?optictl ([a-z]+)|`optictl ([a-z]+)", page(name), re.M))
    assert {word for pair in spoken for word in pair if word} - groups == set()
