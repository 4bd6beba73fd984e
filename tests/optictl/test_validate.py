"""``optictl validate``: every mistake that a start would find, at once, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl.cli import build
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.system import RealSystem
from optictl.systemd import Scope
from optictl.validating import Valid, validate_files, validate_site
from proxy.errors import ConfigError

POOL = """\
providers:
  - name: litellm
    base_url: http://127.0.0.1:4000/v1
    api_key: ${OPENAI_API_KEY}
"""
KEY = "sk-never-shown"


def no_fault(units: Sequence[Path], scope: Scope) -> list[str]:
    return []


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "proxy_config.yaml"
    path.write_text(POOL)
    path.chmod(0o600)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "clients.key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


def test_what_is_wrong_with_ensembles_is_found_with_all_else(pool: Path, tmp_path: Path) -> None:
    registry = tmp_path / "ensembles.jsonl"
    row = {"ensemble": "opt-a-fast-s", "approach": "moa", "members": [{"model": "a"}]}
    registry.write_text(json.dumps(row) + "\n")
    environ = {"OPENAI_API_KEY": KEY}
    with pytest.raises(ConfigError, match=rf"{registry}:1: .*two"):
        validate_files(pool, None, environ, ensembles=registry)
    found = validate_files(pool, None, environ, ensembles=registry, single=True)
    assert f"{registry} (1 ensemble)" in found.line()


class TestFiles:
    """As the unit calls it before a reload."""

    def test_sound_ones_are_named(self, pool: Path, key: Path) -> None:
        found = validate_files(pool, str(key), {"OPENAI_API_KEY": KEY})
        assert found.line() == f"valid: {pool} (1 provider); {key}"

    def test_all_mistakes_each_at_its_place(self, pool: Path, key: Path) -> None:
        pool.write_text(POOL.replace("base_url", "bass_url"))
        key.chmod(0o644)
        with pytest.raises(ConfigError) as refused:
            validate_files(pool, str(key), {})
        said = str(refused.value).splitlines()
        assert [line.partition(" ")[0] for line in said] == [
            *(f"{pool}:2:5:", f"{pool}:3:5:", f"{pool}:4:14:"),
            "--optillm-api-key-file:",
        ]
        assert KEY not in str(refused.value)

    def test_the_variables_are_the_services(self, pool: Path) -> None:
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
            validate_files(pool, None, {})

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            validate_files(tmp_path / "none.yaml", None, {})


class TestSite:
    def validated(self, tmp_path: Path, text: str, **more: Any) -> Valid:
        path = tmp_path / "optictl.yaml"
        path.write_text(text)
        machine = Machine(load(path, {}), RealSystem(Path("/")), None, systemd=252)
        return validate_site(machine, more.get("verify", no_fault))

    def test_a_sound_one(self, tmp_path: Path, key: Path) -> None:
        site = f"proxy: {{base_model: qwen3, key: {{file: {key}}}}}\n"
        found = self.validated(tmp_path, site)
        assert found.line().endswith("optictl.yaml; 5 files rendered, 2 units among them")

    def test_all_that_a_start_would_refuse(self, tmp_path: Path, key: Path) -> None:
        key.chmod(0o604)
        with pytest.raises(ConfigError) as refused:
            self.validated(
                tmp_path,
                "proxy:\n  base_model: qwen3\n  approach: mao\n  flags: [--progres]\n"
                f"  key: {{file: {key}}}\n"
                f"upstream: {{key: {{env_file: {tmp_path}/none, name: KEY}}}}\n",
            )
        said = str(refused.value).splitlines()
        assert [line.partition(": ")[0] for line in said] == [
            *("upstream.key", "proxy.key", "proxy.approach", "proxy.flags"),
        ]
        assert "did you mean" in said[2].lower()

    @pytest.mark.parametrize("flags", ["[--max-calls, many]", "[--launch-gui]", "[--best-of-n]"])
    def test_flags_as_serve_takes_them(self, tmp_path: Path, flags: str) -> None:
        with pytest.raises(ConfigError, match=r"^proxy\.flags: "):
            self.validated(tmp_path, f"proxy: {{base_model: qwen3, flags: {flags}}}\n")

    def test_what_systemd_says_is_said_of_the_place_to_be(self, tmp_path: Path) -> None:
        def verify(units: Sequence[Path], scope: Scope) -> list[str]:
            assert [unit.name for unit in units] == [
                "optillm-proxy.service",
                "optillm-proxy.socket",
            ]
            assert all(unit.read_text() for unit in units)
            return [f"{units[0]}:7: Unknown key name"]

        with pytest.raises(ConfigError) as refused:
            self.validated(tmp_path, "proxy: {base_model: qwen3}\n", verify=verify)
        assert str(refused.value) == (
            "/etc/systemd/system/optillm-proxy.service:7: Unknown key name"
        )

    def test_what_systemd_lets_pass_in_a_drop_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        drop_in = tmp_path / ".config/systemd/user/optillm-proxy.service.d/own.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(
            "[Service]\nEnvironmentFile=/none/env\nEnvironmentFile=-/none/other\n"
            "User=nobody-of-that-name\nExecStart=\nExecStart=python3 -m http.server\n"
            "[Install]\nWantedBy=multi-usr.target\n"
        )
        with pytest.raises(ConfigError) as refused:
            self.validated(tmp_path, "service: {scope: user}\nproxy: {base_model: qwen3}\n")
        said = str(refused.value)
        assert [line for line in said.splitlines() if "own.conf" not in line] == []
        for number, word in ((2, "/none/env"), (4, "nobody"), (6, "absolute"), (8, "multi-usr")):
            assert f"{drop_in}:{number}: " in said
            assert word in said
        assert len(said.splitlines()) == 4

    def test_nothing_is_changed(self, tmp_path: Path) -> None:
        self.validated(tmp_path, "proxy: {base_model: qwen3}\n")
        assert [each.name for each in tmp_path.iterdir()] == ["optictl.yaml"]


class TestTheCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(build(), ["validate", *arguments])

    def test_one_line_for_what_is_valid(
        self, pool: Path, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        flags = ["--proxy-config", str(pool), "--optillm-api-key-file", str(key)]
        assert self.run(*flags).stdout == f"valid: {pool} (1 provider); {key}\n"
        shown = self.run(*flags, "--json")
        assert json.loads(shown.stdout)["data"] == {"valid": [f"{pool} (1 provider)", str(key)]}

    def test_mistakes_are_told_on_stderr_and_exit_with_two(self, pool: Path) -> None:
        pool.write_text("providers: []\n")
        shown = self.run("--proxy-config", str(pool))
        assert shown.exit_code == 2
        assert shown.stdout == ""
        assert f"{pool}:1:" in shown.stderr

    @pytest.mark.system
    def test_a_units_program_that_is_not_installed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
        site = tmp_path / "optictl.yaml"
        site.write_text("proxy: {base_model: qwen3}\n")
        shown = self.run("--config", str(site))
        assert shown.exit_code == 2
        assert f"{tmp_path}/bin/optictl" in shown.stderr
