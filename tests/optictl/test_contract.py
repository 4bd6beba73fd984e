"""What every command promises to people and to programs, whatever it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner, Result

from optictl import console, explaining
from optictl.checking import discover as discover_checks
from optictl.cli import build
from optictl.completions import checks, codes
from proxy.registry import discover

ENTRY = "from optictl.cli import main; main()"


def walk(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(walk(get_command(build())))
EVERY = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(build(), list(arguments), env=environ)


def process(*arguments: str, code: str = ENTRY, **environ: str) -> subprocess.CompletedProcess[str]:
    """The console script, or ``code`` in its place."""
    inherited = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**inherited, **environ},
        timeout=60,
    )


def envelope(shown: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown)
    assert found.keys() == {
        "optictl_result_version", "command", "status", "exit_code", "data", "errors",
    }  # fmt: skip
    assert all(error.keys() == {"code", "message"} for error in found["errors"])
    return found


# Every command.


@EVERY
def test_it_answers_in_json_also_what_cannot_be_meant(path: tuple[str, ...]) -> None:
    result = run(*path, "--nope", "--json", FORCE_COLOR="1")
    assert result.exit_code == 2
    assert result.stderr == ""
    found = envelope(result.stdout)
    assert (found["command"], found["exit_code"]) == (" ".join(path), 2)
    [error] = found["errors"]
    assert error["code"] == "usage"
    assert "--nope" in error["message"]


@EVERY
def test_without_json_that_is_one_line_on_stderr(path: tuple[str, ...]) -> None:
    result = run(*path, "--nope")
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("optictl: ")
    assert "--nope" in line
    assert line.endswith(f"see: optictl {' '.join(path)} --help")


@EVERY
def test_its_help_says_what_it_does_and_how_it_is_called(path: tuple[str, ...]) -> None:
    result = run(*path, "-h")
    assert result.exit_code == 0
    about, _, more = (COMMANDS[path].help or "").partition("\n")
    assert about.endswith(".")
    assert "Examples:" in more
    assert "Examples:" in result.stdout
    assert "\x1b" not in result.stdout
    assert f"optictl {' '.join(path)}" in more.partition("Examples:")[2]


@EVERY
def test_each_option_and_argument_is_explained(path: tuple[str, ...]) -> None:
    silent = [param.name for param in COMMANDS[path].params if not getattr(param, "help", None)]
    assert silent == []
    assert "--json" in {name for param in COMMANDS[path].params for name in param.opts}


def test_json_after_two_dashes_is_an_argument() -> None:
    result = run("approaches", "--", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Unknown approach '--json'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "command"),
    [(["nope"], ""), (["config", "nope"], "config"), (["config", "show", "x"], "config show")],
)
def test_the_envelope_names_the_command_as_far_as_it_is_known(
    arguments: list[str], command: str
) -> None:
    found = envelope(run(*arguments, "--json").stdout)
    assert (found["command"], found["exit_code"]) == (command, 2)


# Ends that nobody wants.

CRASH = """
import optictl.approaches
def broken(registry):
    raise ZeroDivisionError("the secret of the bug")
optictl.approaches.approach_rows = broken
"""


def test_a_crash_is_one_line_and_a_file(tmp_path: Path) -> None:
    ended = process("approaches", code=CRASH + ENTRY, TMPDIR=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    [file] = tmp_path.glob("optictl-crash-*.log")
    assert line == f"optictl: a bug: ZeroDivisionError; report it, with its traceback: {file}"
    assert "the secret of the bug" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_crash_in_json_is_the_envelope(tmp_path: Path) -> None:
    ended = process("approaches", "--json", code=CRASH + ENTRY, TMPDIR=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (1, "")
    found = envelope(ended.stdout)
    assert (found["status"], found["exit_code"]) == ("error", 1)
    assert found["errors"][0]["code"] == "crashed"
    assert list(tmp_path.iterdir())


def test_a_crash_of_a_unit_is_in_the_journal(tmp_path: Path) -> None:
    code = CRASH + ENTRY
    ended = process("approaches", code=code, TMPDIR=str(tmp_path), JOURNAL_STREAM="8:1")
    assert ended.returncode == 1
    assert "the secret of the bug" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("optictl: a bug: ZeroDivisionError; ")
    assert not list(tmp_path.iterdir())


def test_a_crash_on_a_full_disk_still_shows_its_traceback() -> None:
    full = "import tempfile\ndef mkstemp(**more): raise OSError('full')\ntempfile.mkstemp = mkstemp"
    ended = process("approaches", "--json", code=f"{CRASH}\n{full}\n{ENTRY}")
    assert ended.returncode == 1
    assert "the secret of the bug" in ended.stderr
    assert envelope(ended.stdout)["errors"][0]["code"] == "crashed"


INTERRUPT = CRASH.replace('ZeroDivisionError("the secret of the bug")', "KeyboardInterrupt")


def test_a_key_press_ends_it_with_130() -> None:
    ended = process("approaches", code=INTERRUPT + ENTRY)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "optictl: interrupted\n")


def test_a_key_press_in_json_is_the_envelope() -> None:
    ended = process("approaches", "--json", code=INTERRUPT + ENTRY)
    assert (ended.returncode, ended.stderr) == (130, "")
    found = envelope(ended.stdout)
    assert (found["command"], found["exit_code"]) == ("approaches", 130)
    assert found["errors"][0]["code"] == "interrupted"


@pytest.mark.parametrize("arguments", [["approaches"], ["approaches", "mao", "--json"], ["-h"]])
def test_a_reader_that_has_gone_is_no_reason_to_complain(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY, *arguments], stdout=theirs, stderr=subprocess.PIPE, text=True
    ) as writer:
        os.close(theirs)
        _, said = writer.communicate(timeout=60)
    assert said == ""
    assert writer.returncode == 1


# Colours.


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1"}, False),
    ],
)
def test_a_pipe_gets_colours_only_if_told_so(
    environ: dict[str, str],
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environ}.items():
        monkeypatch.setenv(name, value)
    console.show(Text("stopped", style="red"))
    assert ("\x1b[31m" in capsys.readouterr().out) == coloured


def test_json_has_no_colours() -> None:
    shown = run("approaches", "--json", FORCE_COLOR="1").stdout
    assert "\x1b" not in shown
    assert envelope(shown)["status"] == "success"


# Questions.

ASKING = [
    path
    for path, command in COMMANDS.items()
    if any(each.name == "yes" for each in command.params)
    # With an argument that has to be given, it is asked in a test of its own.
    and not any(each.required for each in command.params)
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("path", ASKING, ids=" ".join)
def test_where_nobody_answers_it_refuses_and_names_yes(
    path: tuple[str, ...], as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    site, root = tmp_path / "optictl.yaml", tmp_path / "root"
    router, variables = root / "router.yaml", root / "env"
    root.mkdir()
    router.write_text(
        "model_list:\n- model_name: sim\n"
        "  litellm_params: {model: os.environ/SIM_MODEL, api_base: os.environ/SIM_API_BASE}\n"
    )
    variables.write_text("SIM_MODEL=openai/sim\nSIM_API_BASE=http://192.168.1.72:8100/v1\n")
    site.write_text("proxy: {base_model: sim}\ngateway: {router: /router.yaml, env_file: /env}\n")
    given = {site, router, variables}
    options = {name for param in COMMANDS[path].params for name in param.opts}
    where = ["--root", str(root)] if "--root" in options else ["--user"]
    systemd = ["--systemd", "252"] if "--systemd" in options else []
    arguments = [*path, "--config", str(site), *where, *systemd]
    result = run(*arguments, *(["--json"] if as_json else []), HOME=str(tmp_path))
    assert result.exit_code == 2, result.output
    if as_json:
        [error] = envelope(result.stdout)["errors"]
        assert error["code"] == "needs_yes"
        assert "--yes" in error["message"]
    else:
        assert "--yes" in result.stderr.splitlines()[-1]
    kept = {file for file in tmp_path.rglob("*") if file.is_file() and file.name != "lock"}
    assert kept == given


# Completion.


def complete(*words: str) -> list[str]:
    """What bash would offer in the place of the last of ``words``."""
    environ = {
        "_OPTICTL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["optictl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    return process(**environ).stdout.split()


def test_the_shell_completes_commands_and_options() -> None:
    assert complete("appr") == ["approaches"]
    assert "--detailed-exitcode" in complete("plan", "--det")


def test_the_shell_completes_approaches() -> None:
    assert complete("approaches", "mo") == ["moa"]
    assert complete("approaches", "") == sorted(entry.slug for entry in discover())


def test_the_shell_completes_checks_and_what_can_be_explained() -> None:
    names = [check.name for check in discover_checks()]
    assert checks("") == sorted(names)
    assert complete("check", "daemon_r") == ["daemon_reload"]
    assert complete("explain", "warmup_f") == ["warmup_failed"]
    words = {each.name for each in explaining.known() if not each.name.isdecimal()}
    assert set(codes("")) == words


def test_completing_a_check_loads_no_http_client() -> None:
    loaded = "import sys; from optictl.completions import checks, codes; checks(''); codes('');"
    shown = process(code=f"{loaded} print('httpx' in sys.modules, 'pydantic' in sys.modules)")
    assert shown.stdout.split() == ["False", "False"]
