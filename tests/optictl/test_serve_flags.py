"""``optictl serve``: OptiLLM's command line is understood whole, and nothing is misunderstood.

Most of these run in this process, on a port that is taken: a command line that is accepted gets as
far as that, and says so.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optictl import cli

UPSTREAM = ("--base-url", "http://127.0.0.1:9/v1")

#: OptiLLM 0.3.12's server flags with a value each: what this issue builds, ...
WIRED = {
    "--host": "127.0.0.1",
    "--base-url": "http://127.0.0.1:9/v1",
    "--approach": "moa",
    "--model": "some-model",
    "--optillm-api-key": "dummy",
    "--best-of-n": "5",
    "--n": "2",
    "--return-full-response": None,
    "--log": "debug",
    "--ssl-verify": None,
    "--no-ssl-verify": None,
    "--batch-mode": None,
    "--batch-size": "8",
    "--batch-wait-ms": "20",
    "--log-conversations": None,
    "--conversation-log-dir": "/tmp/conversations",
}
#: ... and what is refused for now, with its environment variable.
NOT_BUILT = {
    "--launch-gui": (None, "OPTILLM_LAUNCH_GUI"),
    "--plugins-dir": ("/tmp", "OPTILLM_PLUGINS_DIR"),
}


def underscored(flag: str) -> str:
    return "--" + flag[2:].replace("-", "_")


def spelled(flag: str, value: str | None) -> Iterator[list[str]]:
    """Every way to write a flag."""
    for name in dict.fromkeys((flag, underscored(flag))):
        yield [name] if value is None else [name, value]
        if value is not None:
            yield [f"{name}={value}"]


Serve = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Serve:
    """Run a command line that must end with status 2; what it said."""
    for name in list(os.environ):
        if name.startswith(("OPTILLM", "OPENAI", "CEREBRAS", "AZURE")):
            monkeypatch.delenv(name)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["optillm", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.optillm()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.fixture
def accepted(run: Serve, taken: str) -> Serve:
    """Run a command line that must be accepted; what it said before it met the taken port."""

    def accepted(*arguments: str) -> str:
        said = run(*arguments, "--port", taken)
        *before, last = said.splitlines()
        assert re.fullmatch(rf"optillm: cannot listen on \S+:{taken}: .*ss -ltnp.*", last), said
        return "\n".join(before)

    return accepted


def test_a_switch_that_cannot_be_looked_for_is_named(run: Serve, accepted: Serve) -> None:
    path = f"/{'x' * 300}"
    said = run(*UPSTREAM, "--degraded-file", path)
    assert said.startswith(f"optillm: --degraded-file {path}: File name too long")
    accepted(*UPSTREAM, "--degraded-file", "/nowhere/degraded")


class TestPeerFlags:
    @pytest.mark.parametrize("flag", WIRED)
    def test_what_is_built_is_taken_in_every_spelling(self, accepted: Serve, flag: str) -> None:
        for arguments in spelled(flag, WIRED[flag]):
            accepted(*UPSTREAM, *arguments)

    @pytest.mark.parametrize("flag", NOT_BUILT)
    def test_what_is_not_built_is_refused_by_name(self, run: Serve, taken: str, flag: str) -> None:
        for arguments in spelled(flag, NOT_BUILT[flag][0]):
            said = run(*UPSTREAM, *arguments, "--port", taken)
            assert said.startswith(f"optillm: {arguments[0].partition('=')[0]} is an OptiLLM flag")
            assert said.count("\n") == 1

    @pytest.mark.parametrize("flag", NOT_BUILT)
    def test_variables_that_ask_for_it_are_refused_and_those_that_do_not_are_not(
        self,
        run: Serve,
        accepted: Serve,
        taken: str,
        monkeypatch: pytest.MonkeyPatch,
        flag: str,
    ) -> None:
        value, variable = NOT_BUILT[flag]
        monkeypatch.setenv(variable, value or "true")
        refusal = run(*UPSTREAM, "--port", taken)
        assert variable in refusal
        assert flag in refusal
        for off in ("", "false", "False", "0"):
            monkeypatch.setenv(variable, off)
            accepted(*UPSTREAM)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--simulations", "2"], "option: --simulations"),
            (["--cepo-no-such", "2"], "option: --cepo-no-such"),
            (["--no-such-flag"], "option: --no-such-flag"),
            (["--base-urll=http://127.0.0.1:9/v1"], "option: --base-urll"),
            (["-z"], "option: -z"),
            (["something"], "argument: something"),
        ],
    )
    def test_what_nobody_knows_is_refused_by_name(
        self, run: Serve, taken: str, arguments: list[str], named: str
    ) -> None:
        said = run(*UPSTREAM, *arguments, "--port", taken)
        assert said == f"optillm: no such {named}; see: optictl serve --help\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--port", "0"),
            ("--port", "70000"),
            ("--port", "http"),
            ("--n", "0"),
            ("--best-of-n", "0"),
            ("--log", "loud"),
            ("--threads", "1"),
            ("--workers", "0"),
            ("--request-timeout", "0"),
            ("--graceful-timeout", "-1"),
            ("--max-body-mb", "0"),
            ("--base-url",),
        ],
    )
    def test_values_out_of_range_are_refused_by_flag(
        self, run: Serve, arguments: tuple[str, ...]
    ) -> None:
        assert arguments[0] in run(*UPSTREAM, *arguments)

    def test_version(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["optillm", "--version"])
        with pytest.raises(SystemExit) as ended:
            cli.optillm()
        assert ended.value.code == 0
        assert re.fullmatch(r"optictl \d+\.\d+\.\d+\n", capsys.readouterr().out)


class TestUpstream:
    def test_none_at_all_is_refused_with_what_to_give(self, run: Serve, taken: str) -> None:
        said = run("--port", taken)
        assert "no upstream" in said
        assert "--base-url" in said
        assert "OPENAI_API_KEY" in said

    def test_openais_own_needs_only_its_key(
        self, accepted: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        accepted()

    def test_a_url_that_is_none_is_refused(self, run: Serve, taken: str) -> None:
        said = run("--base-url", "127.0.0.1:4000/v1", "--port", taken)
        assert "--base-url 127.0.0.1:4000/v1" in said

    @pytest.mark.parametrize(
        "upstream",
        [
            {"OPTILLM_BASE_URL": "http://127.0.0.1:9/v1"},
            {"OPENAI_API_KEY": "sk-test"},
            {"CEREBRAS_API_KEY": "key"},
            {"AZURE_OPENAI_API_KEY": "key"},
        ],
    )
    def test_the_peers_key_variable_with_an_upstream_names_the_file(
        self,
        run: Serve,
        taken: str,
        monkeypatch: pytest.MonkeyPatch,
        upstream: dict[str, str],
    ) -> None:
        """In OptiLLM it means: run the model here. What its users mean is: protect the proxy."""
        monkeypatch.setenv("OPTILLM_API_KEY", "s3cret")
        for name, value in upstream.items():
            monkeypatch.setenv(name, value)
        said = run("--port", taken)
        assert "OPTILLM_API_KEY" in said
        assert "--optillm-api-key-file" in said
        assert "s3cret" not in said

    def test_the_peers_key_variable_without_one_names_the_extra(
        self, run: Serve, taken: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPTILLM_API_KEY", "optillm")
        assert "optictl[local]" in run("--port", taken)

    def test_a_ca_bundle_is_read_at_the_start(
        self, run: Serve, accepted: Serve, taken: str, ca_bundle: Path, tmp_path: Path
    ) -> None:
        for arguments in spelled("--ssl-cert-path", str(ca_bundle)):
            accepted(*UPSTREAM, *arguments)
        (tmp_path / "empty").touch()
        for wrong in (tmp_path / "empty", tmp_path / "none", tmp_path, Path(__file__)):
            said = run(*UPSTREAM, "--ssl-cert-path", str(wrong), "--port", taken)
            assert said.startswith(f"optillm: --ssl-cert-path: {wrong}: ")


class TestAddress:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
    def test_one_that_others_reach_must_be_meant(self, run: Serve, taken: str, host: str) -> None:
        said = run(*UPSTREAM, "--host", host, "--port", taken)
        assert host in said
        assert "--allow-external" in said
        said = run(*UPSTREAM, "--host", host, "--allow-external", "--port", taken)
        assert "cannot listen" in said

    def test_a_name_that_is_none(self, run: Serve, taken: str) -> None:
        assert "--host" in run(*UPSTREAM, "--host", "no.such.host.invalid", "--port", taken)


class TestKeys:
    def test_one_on_the_command_line_is_warned_about(self, accepted: Serve) -> None:
        said = accepted(*UPSTREAM, "--optillm-api-key", "s3cret")
        assert said.startswith("warning: --optillm-api-key is visible in ps")
        assert "--optillm-api-key-file" in said
        assert "s3cret" not in said

    def test_one_in_a_file_is_not(self, accepted: Serve, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text("s3cret\n")
        key.chmod(0o600)
        for flag in ("--optillm-api-key-file", "--upstream-api-key-file"):
            for arguments in spelled(flag, str(key)):
                assert accepted(*UPSTREAM, *arguments) == ""

    @pytest.mark.parametrize("flag", ["--optillm-api-key-file", "--upstream-api-key-file"])
    def test_files_that_hold_no_key_are_refused_by_flag(
        self, run: Serve, taken: str, tmp_path: Path, flag: str
    ) -> None:
        key = tmp_path / "key"

        def refusal(path: str = str(key)) -> str:
            said = run(*UPSTREAM, flag, path, "--port", taken)
            assert said.startswith(f"optillm: {flag}: ")
            assert said.count("\n") == 1
            return said

        assert "does not exist" in refusal()
        # As a variable that is not set leaves it: an empty name is no wish to go without a key.
        refusal("")
        key.write_text("")
        key.chmod(0o600)
        assert "empty" in refusal()
        key.write_text("one\ntwo\n")
        assert "white space" in refusal()
        key.write_text("one\n")
        key.chmod(0o644)
        assert f"chmod 600 {key}" in refusal()

    def test_two_are_refused(self, run: Serve, taken: str, tmp_path: Path) -> None:
        said = run(
            *UPSTREAM, "--optillm-api-key", "a", "--optillm-api-key-file", "b", "--port", taken
        )
        assert "not both" in said
