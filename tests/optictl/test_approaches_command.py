"""``optictl approaches``: the registry, as people and programs read it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import Annotated, Any

import pytest
from typer.testing import CliRunner, Result

from optictl.approaches import Span, approach_row, approach_rows
from optictl.cli import build
from proxy.approach import Range, Shape, approach, entry_of
from proxy.registry import Registry, discover

BUILT = ["bon", "cot_reflection", "moa", "none", "re2", "self_consistency"]


def approaches(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["approaches", *arguments])


def document(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def test_all_of_them_as_plain_columns_in_a_pipe() -> None:
    result = approaches()
    assert result.exit_code == 0
    heading, *lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [entry.slug for entry in discover()]
    assert set(BUILT) <= {line.split()[0] for line in lines}
    assert "\x1b" not in result.stdout
    assert all(line == line.rstrip() for line in lines)
    for column in ("KIND", "PAPER", "CALLS", "ROUNDS", "SUMMARY"):
        place = heading.index(column)
        assert all(line[place - 1] == " " != line[place] for line in lines), column


def test_a_line_says_what_an_approach_costs() -> None:
    lines = approaches().stdout.splitlines()
    moa = next(line for line in lines if line.startswith("moa "))
    entry = discover()["moa"]
    assert re.split(r"\s{2,}", moa) == [
        "moa", "approach", "arXiv:2406.04692", "5", "3", entry.summary,
    ]  # fmt: skip


def test_one_of_them_in_full() -> None:
    page = approaches("bon").stdout
    facts = dict(re.findall(r"^(\S.*?)\s{3,}(.+)$", page, re.MULTILINE))
    assert facts["kind"] == "approach"
    assert facts["calls"] == "6"
    assert facts["rounds"] == "2"
    assert facts["use it for"] == discover()["bon"].mark.use
    assert facts["treats"] == "text, tools, images and files, response formats"
    assert "left out of" not in facts
    plain = approaches("rto").stdout
    assert re.search(r"^left out of\s+requests with tools", plain, re.M)
    assert facts["OptiLLM's"] == "best_of_n is samples here"
    assert re.search(r"^samples\s+whole number from 1 to 64\s+3\s+candidates to draw$", page, re.M)


def test_every_one_can_be_shown_in_full() -> None:
    for entry in discover():
        page = approaches(entry.slug).stdout
        for name, option in entry.options.items():
            assert re.search(rf"^{name}\s+{re.escape(option.describe())}\s", page, re.M)
        if not entry.options:
            assert "No options." in page


def test_brackets_in_a_help_text_stay() -> None:
    @approach("bracketed", shape=lambda o: Shape(1, 1))
    async def bracketed(chat: Any, llm: Any, *, style: Annotated[str, "as [bold] or not"] = "[/]"
    ) -> None: ...  # fmt: skip

    entry = entry_of(bracketed)
    assert entry is not None
    row = approach_row(Registry([entry]), "bracketed")
    assert (row.options[0].default, row.options[0].help) == ("[/]", "as [bold] or not")


def test_the_json_of_all_is_the_rows() -> None:
    found = document(approaches("--json"))
    registry = discover()
    assert found["status"] == "success"
    assert found["data"]["approaches"] == json.loads(
        json.dumps([row.as_json() for row in approach_rows(registry)])
    )
    assert found["data"]["reserved"] == sorted(registry.reserved)


def test_the_json_of_one() -> None:
    row = document(approaches("self_consistency", "--json"))["data"]
    assert row["slug"] == "self_consistency"
    assert row["calls"] == {"least": 5, "most": 5}
    assert row["rounds"] == {"least": 1, "most": 1}
    samples = next(option for option in row["options"] if option["name"] == "samples")
    assert samples == {
        "name": "samples",
        "type": "int",
        "default": 5,
        "accepts": "whole number from 1 to 64",
        "range": [1, 64],
        "values": None,
        "help": "chains to draw",
    }


def test_a_slug_that_is_mistyped() -> None:
    result = approaches("mao")
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("optictl: ")
    assert "Did you mean 'moa'?" in line


def test_a_slug_that_is_not_built_yet() -> None:
    slug = min(discover().reserved)
    result = approaches(slug)
    assert result.exit_code == 2
    assert f"'{slug}' is reserved but not built yet" in result.stderr


@pytest.mark.parametrize(
    ("slug", "code"),
    [("mao", "unknown_approach"), (min(discover().reserved), "approach_not_built")],
)
def test_errors_in_json_are_in_the_envelope(slug: str, code: str) -> None:
    result = approaches(slug, "--json")
    found = document(result)
    assert result.exit_code == found["exit_code"] == 2
    assert found["status"] == "error"
    assert found["data"] is None
    assert [error["code"] for error in found["errors"]] == [code]


def test_a_cost_that_options_do_not_settle_is_a_span() -> None:
    @approach("cascade", shape=lambda o: Shape(calls=(1, o.samples), rounds=(1, 2)))
    async def cascade(chat: Any, llm: Any, *, samples: Annotated[int, Range(1, 9)] = 5
    ) -> None: ...  # fmt: skip

    entry = entry_of(cascade)
    assert entry is not None
    row = approach_row(Registry([entry]), "cascade")
    assert (str(row.calls), str(row.rounds)) == ("1–5", "1–2")
    assert str(Span(5, 5)) == "5"


def test_on_a_terminal_it_is_set_in_type_and_wrapped() -> None:
    shown = on_a_terminal("approaches", columns=70)
    assert "\x1b[1mmoa" in shown
    assert all(len(line) <= 70 for line in plain(shown).splitlines())


def on_a_terminal(*arguments: str, columns: int, **env: str) -> str:
    """What ``optictl`` writes to a terminal behind stdout."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from optictl.cli import main; main()", *arguments]
    terminal = {"TERM": "xterm-256color", "COLUMNS": str(columns), **env}
    with subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, env={**os.environ, **terminal}
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the terminal's other side is closed
                break
            if not piece:
                break
            written += piece
        assert process.wait(30) == 0
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Without escape sequences."""
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\]8;[^\x1b]*\x1b\\)", "", text)
