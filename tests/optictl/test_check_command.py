"""``optictl check`` as an operator calls it: against the real proxy, on a machine in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Service, start_process
from typer.testing import CliRunner

from optictl.cli import build
from optictl.exit_status import Exit
from optictl.simulator import Behaviour, SimulatorThread

KEY = "clients-never-shown"
UPSTREAM_KEY = "sk-upstream-never-shown"


@pytest.fixture(scope="module")
def upstream() -> Iterator[SimulatorThread]:
    with SimulatorThread(Behaviour(), models=("qwen3",), api_key=UPSTREAM_KEY) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def service(upstream: SimulatorThread, folder: Path) -> Iterator[Service]:
    key = folder / "clients.key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    flags = f"--base-url {upstream.url} --model qwen3 --optillm-api-key-file {key}"
    proxy = start_process(flags.split(), folder / "proxy.log", env={"OPENAI_API_KEY": UPSTREAM_KEY})
    try:
        yield proxy.wait_healthy()
    finally:
        proxy.stop()


@pytest.fixture
def site(service: Service, upstream: SimulatorThread, folder: Path) -> Path:
    env = folder / "litellm.env"
    env.write_text(f"KEY={UPSTREAM_KEY}\n")
    env.chmod(0o600)
    path = folder / "optictl.yaml"
    path.write_text(
        f"proxy: {{base_model: qwen3, port: {service.port}, key: {{file: {folder}/clients.key}}}}\n"
        f"upstream: {{base_url: {upstream.url}, key: {{env_file: {env}, name: KEY}}}}\n"
        f"neighbours: [{{name: simulator, port: '{upstream.url.split(':')[2][:-3]}'}}]\n"
    )
    return path


#: What does not depend on the machine that the tests run on.
WELL = ("secrets", "auth", "models", "ready", "base_model", "upstream", "neighbours")


def run(site: Path, *arguments: str) -> Any:
    return CliRunner().invoke(build(), ["check", "--config", str(site), *arguments])


def test_all_is_well(site: Path) -> None:
    shown = run(site, *WELL)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == "settings"
    assert lines[-1] == "7 ok"
    assert "  ok    auth        no key and a wrong key are refused, the right one is taken" in lines
    assert shown.stderr == ""
    assert shown.stdout.isascii()


def test_quiet_says_nothing_where_all_is_well(site: Path) -> None:
    shown = run(site, *WELL, "--quiet")
    assert (shown.exit_code, shown.output) == (0, "")


def test_quiet_says_what_is_not_well_and_what_mends_it(site: Path) -> None:
    shown = run(site, *WELL, "--quiet", "--set", "proxy.base_model=qwen")
    assert shown.exit_code == Exit.FAILED
    assert shown.stdout.splitlines() == [
        "  FAIL  base_model  the upstream has no qwen; did you mean 'qwen3'?",
        "                    fix: mend proxy.base_model (--set proxy.base_model)",
    ]


def test_deep_asks_the_model_all_the_way(site: Path, upstream: SimulatorThread) -> None:
    upstream.log.clear()
    shown = run(site, "canary", "loop")
    assert shown.exit_code == 0, shown.output
    assert upstream.log.choices >= 2


def test_neither_the_usual_ones_nor_the_fast_ones_ask_a_model(
    site: Path, upstream: SimulatorThread
) -> None:
    upstream.log.clear()
    for pace in ((), ("--fast",)):
        run(site, *pace)
    assert upstream.log.calls == 0


def test_json_has_every_check_and_no_error(site: Path) -> None:
    shown = run(site, *WELL, "--json")
    said = json.loads(shown.stdout)
    assert (said["status"], said["exit_code"], said["errors"]) == ("success", 0, [])
    assert said["data"]["verdict"] == "7 ok"
    assert [each["name"] for each in said["data"]["checks"]] == list(WELL)
    assert set(said["data"]["checks"][0]) == {"name", "group", "status", "saw", "fix", "seconds"}


def test_json_of_a_failure_has_the_data_and_the_error(site: Path) -> None:
    shown = run(site, *WELL, "--json", "--set", "proxy.base_model=qwen")
    said = json.loads(shown.stdout)
    assert (shown.exit_code, said["status"], said["exit_code"]) == (1, "error", 1)
    assert said["data"]["verdict"] == "6 ok, 1 failed"
    [error] = said["errors"]
    assert error["code"] == "check_failed"
    assert error["message"].startswith("base_model: the upstream has no qwen")


def test_warnings_count_only_if_strict(site: Path) -> None:
    site.write_text(site.read_text().replace(f", key: {{file: {site.parent}/clients.key}}", ""))
    assert run(site, "auth").exit_code == 0
    assert run(site, "auth", "--strict").exit_code == 3


def test_a_site_that_cannot_be_used_is_one_failure(site: Path) -> None:
    site.write_text("proxy: {base_model: qwen3, prot: 4020}\n")
    shown = run(site, "--json")
    said = json.loads(shown.stdout)
    assert shown.exit_code == 1
    failed = [each for each in said["data"]["checks"] if each["status"] == "fail"]
    assert [each["name"] for each in failed] == ["settings"]
    assert f"{site}:1:28: unknown key 'prot'" in failed[0]["saw"]
    others = {each["status"] for each in said["data"]["checks"]} - {"fail"}
    assert others == {"skipped"}


def test_no_site_at_all_is_no_check(tmp_path: Path) -> None:
    shown = run(tmp_path / "none.yaml")
    assert shown.exit_code == Exit.NOT_INITIALISED


def test_no_network_opens_no_connection(site: Path) -> None:
    shown = run(site, "ready", "secrets", "--no-network")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1] == "1 ok, 1 skipped"


def test_fix_repairs_and_looks_again(site: Path) -> None:
    env = site.parent / "litellm.env"
    env.chmod(0o644)
    assert run(site, "secrets").exit_code == 1
    shown = run(site, "secrets", "--fix")
    assert shown.exit_code == 0, shown.output
    assert shown.stderr == f"secrets: took the rights of others from {env}\n"
    assert env.stat().st_mode & 0o777 == 0o640


def test_a_report_names_neither_machine_nor_people(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(site.parent))
    away = "upstream.base_url=http://ann:sk-secret@studio.example:1/v1"
    shown = run(site, "upstream", "base_model", "--report", "--set", away)
    assert shown.exit_code == 1
    assert re.search(r"nothing answers at http://host-\d:1/v1/models", shown.stdout)
    for private in ("ann", "sk-secret", "studio", str(site.parent)):
        assert private not in shown.stdout


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--report",), ("--deep",)])
def test_no_secret_in_any_output(site: Path, arguments: tuple[str, ...]) -> None:
    shown = run(site, *arguments)
    assert KEY not in shown.output
    assert UPSTREAM_KEY not in shown.output


@pytest.mark.parametrize("arguments", [("drfit",), ("--fast", "--deep")])
def test_what_cannot_be_meant_is_refused(site: Path, arguments: tuple[str, ...]) -> None:
    assert run(site, *arguments).exit_code == Exit.USAGE
