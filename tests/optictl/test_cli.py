"""The program as a whole: its commands, its help, its exit codes."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import free_port
from typer.testing import CliRunner

from optictl import commands
from optictl.cli import build, main, optillm

COMMANDS = [info.name for info in pkgutil.iter_modules(commands.__path__)]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The console script's exit status."""
    monkeypatch.setattr(sys, "argv", ["optictl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_help_lists_every_module_of_the_commands_folder() -> None:
    shown = CliRunner().invoke(build(), ["--help"]).stdout
    assert COMMANDS
    for name in COMMANDS:
        assert name in shown.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps(name: str) -> None:
    result = CliRunner().invoke(build(), [name, "-h"])
    assert result.exit_code == 0
    assert "--help" in result.stdout


def test_help_loads_no_web_server_and_no_client() -> None:
    code = (
        "import sys\n"
        "from optictl.cli import main\n"
        "sys.argv = ['optictl', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'flask', 'gunicorn', 'httpx', 'pydantic', 'uvloop'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "approaches" in shown.stdout
    assert shown.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["approaches", "--nope"],
        ["approaches", "mao"],
        ["ask", "only-a-model"],
        ["ask", "sim", "  "],
        ["ask", "sim", "hi", "--url", "127.0.0.1:4020"],
        ["ask", "sim", "hi", "--max-seconds", "0"],
        ["ask", "sim", "hi", "--options", "samples=3"],
        ["ask", "sim", "hi", "--options", "[3]"],
        ["ask", "sim", "hi", "--api-key-file", "/nowhere/key"],
        ["serve", "--base-url", "http://127.0.0.1:9/v1", "--nope"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_exits_2_and_leaves_stdout_alone(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err


def test_an_error_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run(monkeypatch, "ask", "sim", "hi", "--url", url) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith(f"optictl: no proxy answers at {url}")
    assert "start one: optictl serve --base-url" in line


def test_an_error_in_json_is_the_envelope(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run(monkeypatch, "ask", "sim", "hi", "--url", url, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        "optictl_result_version", "command", "status", "exit_code", "data", "errors",
    }  # fmt: skip
    assert (found["command"], found["status"], found["exit_code"]) == ("ask", "error", 1)
    assert found["errors"][0]["code"] == "proxy_unreachable"


def test_a_key_file_in_json_is_the_envelope_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ask", "sim", "hi", "--api-key-file", "/nowhere/key", "--json") == 2
    [error] = json.loads(capsys.readouterr().out)["errors"]
    assert error["code"] == "config"
    assert "/nowhere/key does not exist" in error["message"]


def test_optillm_is_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["optillm", "--version"])
    with pytest.raises(SystemExit) as ended:
        optillm()
    assert ended.value.code in (0, None)
    assert "optictl" in "".join(capsys.readouterr())


def test_verbose_says_which_commands_are_run(tmp_path: Path) -> None:
    (tmp_path / "optictl.yaml").write_text("proxy: {base_model: qwen3}\n")
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho systemd 252\n")
    (tmp_path / "systemctl").chmod(0o755)
    command = [sys.executable, "-c", "from optictl.cli import main; main()", "-v", "plan"]
    staged = ["--config", str(tmp_path / "optictl.yaml"), "--root", str(tmp_path / "root")]
    shown = subprocess.run(
        [*command, *staged],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert "optictl.systemd: systemctl --version" in shown.stderr.splitlines()
    assert "optictl.systemd" not in shown.stdout
