"""The commands that install, on a staging tree: what they say, ask and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl.cli import build

KEY = "sk-never-shown"


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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def run(command: str, site: Path, root: Path, *arguments: str) -> Any:
    common = ["--config", str(site), "--root", str(root)]
    systemd = ["--systemd", "252"] if command in ("install", "plan", "verify") else []
    shown = CliRunner().invoke(build(), [command, *common, *systemd, *arguments])
    assert KEY not in shown.output
    return shown


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_a_staging_tree_is_filled_and_then_already_so(site: Path, root: Path) -> None:
    done = run("install", site, root, "--yes")
    assert done.exit_code == 0
    assert "is installed into the staging tree" in done.stderr
    assert "(sensitive, changed)" in done.stdout
    assert (root / "etc/optillm-proxy/env").stat().st_mode & 0o777 == 0o600
    before = files(root)
    again = json.loads(run("install", site, root, "--yes", "--json").stdout)
    assert again["data"]["already"]
    assert files(root) == before


def test_without_a_terminal_nobody_is_asked_and_nothing_is_done(site: Path, root: Path) -> None:
    refused = run("install", site, root)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert list(files(root)) == []


def test_in_json_nobody_is_asked_either(site: Path, root: Path) -> None:
    found = json.loads(run("install", site, root, "--json").stdout)
    assert (found["exit_code"], found["errors"][0]["code"]) == (2, "needs_yes")


def test_a_dry_run_shows_the_plan_and_writes_nothing(site: Path, root: Path) -> None:
    shown = run("install", site, root, "--dry-run")
    assert shown.exit_code == 0
    assert "+ExecStart=" in shown.stdout
    assert "5 to add" in shown.stdout
    assert "a dry run" in shown.stderr
    assert list(root.iterdir()) == []


def test_a_file_that_was_there_before_is_named_and_kept(site: Path, root: Path) -> None:
    env = root / "etc/optillm-proxy/env"
    env.parent.mkdir(parents=True)
    env.write_text("MINE=1\n")
    refused = run("install", site, root, "--yes")
    assert refused.exit_code == 13
    assert "/etc/optillm-proxy/env" in refused.stderr
    assert "optictl adopt" in refused.stderr
    assert files(root) == {"etc/optillm-proxy/env": b"MINE=1\n"}
    assert run("install", site, root, "--yes", "--force").exit_code == 0
    assert run("rollback", site, root, "--yes").exit_code == 0
    assert env.read_text() == "MINE=1\n"


def test_verify_tells_who_changed_what(site: Path, root: Path) -> None:
    run("install", site, root, "--yes")
    assert run("verify", site, root).exit_code == 0
    (root / "etc/optillm-proxy/env").unlink()
    (root / "etc/optillm-proxy/warmup.json").write_text("{}\n")
    shown = run("verify", site, root, "--set", "proxy.workers=2")
    assert shown.exit_code == 1
    assert sorted(shown.stdout.splitlines()) == [
        " M /etc/systemd/system/optillm-proxy.service",
        "DA /etc/optillm-proxy/env",
        "MM /etc/optillm-proxy/warmup.json",
    ]
    found = json.loads(run("verify", site, root, "--json").stdout)
    assert found["errors"][0]["code"] == "drifted"
    assert {each["since_written"] for each in found["data"]} == {"D", "M"}


def test_a_saved_plan_holds_only_as_long_as_the_tree_and_the_site_stay(
    site: Path, root: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "next.plan"
    assert run("plan", site, root, "--out", str(saved)).exit_code == 0
    assert KEY not in saved.read_text()
    assert saved.stat().st_mode & 0o777 == 0o600
    site.write_text(site.read_text().replace("qwen3", "qwen4"))
    refused = CliRunner().invoke(build(), ["apply", str(saved)])
    assert refused.exit_code == 2
    assert "plan again" in refused.stderr
    site.write_text(site.read_text().replace("qwen4", "qwen3"))
    done = CliRunner().invoke(build(), ["apply", str(saved)])
    assert done.exit_code == 0
    assert (root / "etc/optillm-proxy/warmup.json").exists()
    again = CliRunner().invoke(build(), ["apply", str(saved), "--json"])
    assert json.loads(again.stdout)["errors"][0]["code"] == "plan_outdated"


def test_what_is_no_plan_is_said_to_be_none(tmp_path: Path) -> None:
    for text in ("", "{}", '{"optictl_plan_version": 2}'):
        (tmp_path / "odd.plan").write_text(text)
        refused = CliRunner().invoke(build(), ["apply", str(tmp_path / "odd.plan")])
        assert refused.exit_code == 1
        assert "is no saved plan" in refused.stderr
    refused = CliRunner().invoke(build(), ["apply", str(tmp_path / "none.plan")])
    assert "No such file" in refused.stderr


def test_runs_are_listed_and_taken_back(site: Path, root: Path) -> None:
    run("install", site, root, "--yes")
    run("install", site, root, "--yes", "--set", "proxy.workers=2")
    runs = json.loads(run("rollback", site, root, "--list", "--json").stdout)["data"]["runs"]
    assert [each["n"] for each in runs] == [1, 2]
    assert runs[0]["changed"] == ["/etc/systemd/system/optillm-proxy.service"]
    assert run("rollback", site, root, "2", "--yes").exit_code == 0
    assert [name for name in files(root) if not name.startswith("var/lib/optictl")] == []
    none = run("rollback", site, root, "--yes")
    assert none.exit_code == 1
    assert "cannot go back" in none.stderr


def test_uninstall_leaves_the_tree_as_it_was(site: Path, root: Path) -> None:
    run("install", site, root, "--yes")
    would = run("uninstall", site, root, "--purge", "--dry-run")
    assert would.exit_code == 0
    assert "would remove /etc/systemd/system/optillm-proxy.socket" in would.stderr
    assert (root / "etc/optillm-proxy/env").exists()
    assert run("uninstall", site, root, "--purge", "--yes").exit_code == 0
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert "is not installed" in run("uninstall", site, root, "--yes").stderr


class TestFaults:
    def test_a_folder_where_a_file_shall_be(self, site: Path, root: Path) -> None:
        (root / "etc/optillm-proxy/env").mkdir(parents=True)
        refused = run("install", site, root, "--yes")
        assert refused.exit_code == 1
        [line] = refused.stderr.splitlines()
        assert "/etc/optillm-proxy/env: Is a directory; move the folder away" in line
        assert files(root) == {}

    def test_a_site_that_is_not_there(self, root: Path) -> None:
        refused = run("install", Path("/nowhere/optictl.yaml"), root, "--yes")
        assert refused.exit_code == 10
        assert "optictl init" in refused.stderr

    def test_a_relative_site(self, root: Path) -> None:
        refused = run("install", Path("optictl.yaml"), root, "--yes")
        assert refused.exit_code == 2
        assert "absolute path" in refused.stderr

    def test_a_site_of_a_newer_version(self, site: Path, root: Path) -> None:
        site.write_text("# a comment\nversion: 2\n" + site.read_text())
        refused = run("install", site, root, "--yes")
        assert refused.exit_code == 2
        assert f"{site}:2:10: version 2 is newer" in refused.stderr
        assert files(root) == {}

    def test_records_of_a_newer_version(self, site: Path, root: Path) -> None:
        run("install", site, root, "--yes")
        state = root / "var/lib/optictl/optillm-proxy/state.json"
        state.write_text(state.read_text().replace('"version": 1', '"version": 2'))
        refused = run("install", site, root, "--yes")
        assert refused.exit_code == 1
        assert "upgrade optictl" in refused.stderr

    def test_no_systemctl(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        shown = CliRunner().invoke(build(), ["plan", "--config", str(site)])
        assert shown.exit_code == 1
        assert shown.stderr == "optictl: systemctl is not on this machine; does it run systemd?\n"

    def test_only_root_installs_for_the_system(
        self, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        shown = CliRunner().invoke(build(), ["install", "--config", str(site), "--yes"])
        assert shown.exit_code == 77
        assert "sudo" in shown.stderr


def test_killed_for_real_at_any_step_nothing_is_torn_and_the_next_run_recovers(
    site: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("killed_install.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "tree"), str(site)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 30
