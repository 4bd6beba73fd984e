"""``optictl render`` and ``optictl plan``: what the site asks for, and what that would change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl import systemd
from optictl.cli import build
from optictl.errors import OptictlError

KEY = "sk-never-shown"
NAMES = [
    "optillm-proxy.service",
    "optillm-proxy.socket",
    "env",
    "proxy_config.yaml",
    "warmup.json",
]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    keys = tmp_path / "litellm.env"
    keys.write_text(f"export LITELLM_MASTER_KEY='{KEY}'\r\n")
    path = tmp_path / "optictl.yaml"
    path.write_text(
        "proxy: {base_model: qwen3}\n"
        f"upstream: {{key: {{env_file: {keys}, name: LITELLM_MASTER_KEY}}}}\n"
    )
    return path


def run(command: str, site: Path, *arguments: str) -> Any:
    common = ["--config", str(site), "--systemd", "252"]
    return CliRunner().invoke(build(), [command, *common, *arguments])


class TestRender:
    def test_all_files_each_under_its_path(self, site: Path) -> None:
        shown = run("render", site)
        assert shown.exit_code == 0
        headings = [line[4:] for line in shown.stdout.splitlines() if line.startswith("=== ")]
        assert [Path(heading).name for heading in headings] == NAMES

    def test_one_file_by_its_name_as_it_is(self, site: Path) -> None:
        shown = run("render", site, "warmup.json")
        assert json.loads(shown.stdout)["model"] == "qwen3"

    def test_a_name_that_is_none_lists_those_that_are(self, site: Path) -> None:
        shown = run("render", site, "warmup.jsn", "--json")
        assert shown.exit_code == 2
        assert "warmup.json" in json.loads(shown.stdout)["errors"][0]["message"]

    @pytest.mark.parametrize("arguments", [(), ("env",), ("--json",)])
    def test_a_secret_is_never_shown(self, site: Path, arguments: tuple[str, ...]) -> None:
        shown = run("render", site, *arguments)
        assert shown.exit_code == 0
        assert KEY not in shown.output

    def test_written_files_have_their_modes(self, site: Path, tmp_path: Path) -> None:
        staged = tmp_path / "staged"
        assert run("render", site, "--output", str(staged)).exit_code == 0
        written = {path.name: path for path in staged.rglob("*") if path.is_file()}
        assert sorted(written) == sorted(NAMES)
        assert written["env"].stat().st_mode & 0o777 == 0o600
        assert KEY in written["env"].read_text()
        assert [name for name, path in written.items() if KEY in path.read_text()] == ["env"]

    def test_a_key_that_is_not_where_the_site_says(self, site: Path) -> None:
        (site.parent / "litellm.env").write_text("OTHER=1\n")
        shown = run("render", site, "--json")
        assert shown.exit_code == 2
        said = json.loads(shown.stdout)["errors"][0]["message"]
        assert said.endswith("litellm.env does not set LITELLM_MASTER_KEY")


class TestPlan:
    def staged(self, site: Path, root: Path) -> Path:
        assert run("render", site, "--output", str(root)).exit_code == 0
        return root

    def test_against_nothing_all_is_to_be_added(self, site: Path, tmp_path: Path) -> None:
        shown = run("plan", site, "--root", str(tmp_path / "empty"))
        assert shown.exit_code == 0
        assert shown.stdout.splitlines()[-1].startswith("5 to add, 0 to change, 0 to remove")
        assert KEY not in shown.output

    def test_against_what_it_would_write_nothing_is_to_do(self, site: Path, tmp_path: Path) -> None:
        root = self.staged(site, tmp_path / "staged")
        shown = run("plan", site, "--root", str(root), "--detailed-exitcode")
        assert (shown.exit_code, shown.stdout) == (0, "0 to add, 0 to change, 0 to remove\n")

    def test_a_change_is_a_diff_and_says_what_restarts(self, site: Path, tmp_path: Path) -> None:
        root = self.staged(site, tmp_path / "staged")
        changed = ("--root", str(root), "--set", "proxy.workers=2")
        shown = run("plan", site, *changed, "--detailed-exitcode")
        assert shown.exit_code == 2
        assert [line for line in shown.stdout.splitlines() if line.startswith("+ExecStart=")]
        assert shown.stdout.splitlines()[-1] == (
            "0 to add, 1 to change, 0 to remove; restart: optillm-proxy.service"
        )
        assert json.loads(run("plan", site, *changed, "--json").stdout)["exit_code"] == 0

    def test_a_secret_that_changed_is_named_and_not_shown(self, site: Path, tmp_path: Path) -> None:
        root = self.staged(site, tmp_path / "staged")
        (site.parent / "litellm.env").write_text("LITELLM_MASTER_KEY=another\n")
        for arguments in ((), ("--json",)):
            shown = run("plan", site, "--root", str(root), *arguments)
            assert "(sensitive, changed)" in shown.stdout
            assert KEY not in shown.output
            assert "another" not in shown.output

    def test_nothing_is_touched(self, site: Path, tmp_path: Path) -> None:
        root = tmp_path / "empty"
        root.mkdir()
        run("plan", site, "--root", str(root))
        assert not list(root.iterdir())


class TestSystemd:
    def test_its_version_is_the_first_number(self) -> None:
        said = "systemd 252 (252.38-1~deb12u1)\n+PAM +AUDIT\n"
        assert systemd.version(lambda _: said) == 252

    def test_words_that_are_none_are_an_error(self) -> None:
        with pytest.raises(OptictlError, match="says no version"):
            systemd.version(lambda _: "command not understood")

    def test_a_program_that_is_not_there(self) -> None:
        with pytest.raises(OptictlError, match="is not on this machine"):
            systemd.run(["optictl-no-such-program"])

    def test_a_program_that_fails_says_why(self) -> None:
        with pytest.raises(OptictlError, match="no such file"):
            systemd.run(["sh", "-c", "echo no such file >&2; exit 3"])
