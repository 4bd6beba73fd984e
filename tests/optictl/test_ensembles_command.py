"""``optictl ensembles``: who is in them, what they cost, and whether the service has them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl.cli import build
from optictl.ensemble_registry import SHIPPED, registry_of, rendered
from optictl.places import Places
from optictl.site_loading import load

RUN = "run optictl install"
MODELS = "models: {large: mlx-a, large-2: mlx-b, medium: mlx-c, small: ov-d}"


class Home:
    """A service of one's own, so that its files lie in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "optictl.yaml"
        self.installed = folder / ".config/optillm-proxy/ensembles.jsonl"
        self.installed.parent.mkdir(parents=True)
        self.declare(MODELS)

    def declare(self, more: str) -> None:
        text = f"service: {{scope: user}}\nproxy: {{base_model: sim}}\n{more}\n"
        self.site.write_text(text)

    def install(self) -> str:
        site = load(self.site, {}).site
        text = rendered(site, Places.of(site, home=Path.home()))
        self.installed.write_text(text)
        return text

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(
            build(), ["ensembles", "--user", "--config", str(self.site), *arguments]
        )

    def rows(self) -> dict[str, Any]:
        shown = self.run("--json")
        assert shown.exit_code == 0, shown.output
        return {row["name"]: row for row in json.loads(shown.stdout)["data"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Home(tmp_path)


def test_a_line_for_each(home: Home) -> None:
    home.install()
    shown = home.run()
    assert shown.exit_code == 0
    heading, *lines = shown.stdout.splitlines()
    assert heading.split()[:4] == ["NAME", "APPROACH", "TIER", "MEMBERS"]
    assert len(lines) == len(SHIPPED.read_text().splitlines())
    [chat] = [line for line in lines if line.startswith("opt-chat-balanced-m ")]
    assert re.split(r"\s{2,}", chat) == [
        "opt-chat-balanced-m", "moa", "m", "proposer mlx-c, ov-d; aggregator mlx-a", "3", "2",
        "installed",
    ]  # fmt: skip


def test_one_in_full(home: Home) -> None:
    page = home.run("opt-code-balanced-l").stdout
    facts = dict(re.findall(r"^(\S.*?)\s{3,}(.+)$", page, re.MULTILINE))
    assert page.startswith("opt-code-balanced-l: Writing, changing and explaining code.\n")
    assert (facts["approach"], facts["calls"], facts["rounds"]) == ("moa", "5", "3")
    assert (facts["answers from"], facts["max seconds"]) == ("2 of 3 proposers on", "180")
    assert facts["moa.samples"] == "3"
    assert re.search(r"^moa +proposer +mlx-a, mlx-b, mlx-c +5 +3$", page, re.M)
    assert re.search(r"^ +critic +mlx-b$", page, re.M)
    assert re.search(r"^ +aggregator +mlx-a$", page, re.M)
    assert "The critic reviews" in page


def test_every_stage_of_a_pipeline_has_its_line(home: Home) -> None:
    page = home.run("opt-architect-high-xl").stdout
    stages = [line.split() for line in page.partition("STAGE")[2].splitlines()]
    assert ["re2", "0", "0"] in stages
    assert ["moa", "proposer", "mlx-a,", "mlx-b", "6", "4"] in stages


def test_the_json_of_one(home: Home) -> None:
    row = json.loads(home.run("opt-route-fast-s", "--json").stdout)["data"]
    assert row["members"] == [
        {"model": "mlx-c", "role": "proposer", "params": {}, "weight": 1.0},
        {"model": "ov-d", "role": "proposer", "params": {}, "weight": 1.0},
    ]
    assert row["calls"] == {"least": 3, "most": 3}
    assert row["rounds"] == {"least": 1, "most": 1}
    [stage] = row["stages"]
    assert stage["slug"] == "self_consistency"
    assert stage["parts"] == [{"role": "proposer", "models": ["mlx-c", "ov-d"]}]
    assert (row["tier"], row["state"]) == ("s", "declared")
    assert row["budget"] == {"max_seconds": 10.0}


def test_what_is_not_installed_yet(home: Home) -> None:
    row = home.rows()["opt-route-fast-s"]
    assert row["state"] == "declared"
    assert row["why"] == f"{home.installed} does not exist; {RUN}"


def test_what_is_installed_otherwise(home: Home) -> None:
    text = home.install()
    home.installed.write_text(text.replace('"max_seconds": 10.0', '"max_seconds": 11.0'))
    rows = home.rows()
    assert {name for name, row in rows.items() if row["state"] == "declared"} == {
        "opt-route-fast-s"
    }
    assert rows["opt-route-fast-s"]["why"] == f"{home.installed} has it otherwise; {RUN}"
    assert rows["opt-clean-fast-s"]["why"] == ""
    home.installed.write_text(text.partition("\n")[0])
    assert home.rows()["opt-clean-fast-s"]["why"] == f"{home.installed} does not have it; {RUN}"


def test_what_is_installed_and_broken(home: Home) -> None:
    home.installed.write_text("{\n")
    row = home.rows()["opt-route-fast-s"]
    assert row["state"] == "declared"
    assert row["why"].startswith(f"{home.installed}:1: not JSON: ")


def test_what_needs_a_model_that_the_site_does_not_name(home: Home) -> None:
    home.declare("models: {medium: a, small: b}")
    home.install()
    rows = home.rows()
    assert rows["opt-route-fast-s"]["state"] == "installed"
    architect = rows["opt-architect-balanced-l"]
    assert architect["state"] == "declared"
    assert architect["why"].startswith("the site names no models.large and no models.large-2;")
    assert "@large" in {member["model"] for member in architect["members"]}


def test_what_the_proxy_would_refuse(home: Home, tmp_path: Path) -> None:
    registry = tmp_path / "mine.jsonl"
    first = SHIPPED.read_text().splitlines()[-1]
    registry.write_text(first.replace('"moa"', '"memory"') + "\n")
    home.declare(f"{MODELS}\nensembles: {registry}")
    home.install()
    [row] = home.rows().values()
    assert (row["calls"], row["stages"]) == (None, [])
    assert row["why"].startswith("Approach 'memory' is reserved but not built yet.")
    [_, line] = home.run().stdout.splitlines()
    assert re.split(r"\s{2,}", line)[4:7] == ["–", "–", "installed"]
    assert "state" in home.run(row["name"]).stdout


def test_a_registry_with_a_mistake(home: Home, tmp_path: Path) -> None:
    registry = tmp_path / "mine.jsonl"
    registry.write_text('{"ensemble": "opt-x"}\n')
    home.declare(f"{MODELS}\nensembles: {registry}")
    result = home.run()
    assert result.exit_code == 2
    assert f"{registry}:1: ensemble must be opt-" in result.stderr


def test_one_that_is_not_there(home: Home) -> None:
    result = home.run("opt-code-balanced-m")
    assert result.exit_code == 2
    assert result.stderr.endswith("did you mean 'opt-code-balanced-l'?\n")


@pytest.mark.parametrize("command", ["ensemble", "ensembles"])
def test_the_shell_completes_the_names_of_the_registry(
    home: Home, tmp_path: Path, command: str
) -> None:
    def complete(*words: str) -> list[str]:
        environ = {
            "_OPTICTL_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["optictl", command, *words]),
            "COMP_CWORD": str(len(words) + 1),
        }
        shown = CliRunner().invoke(build(), env=environ, prog_name="optictl")
        return str(shown.stdout).split()

    site = ("--config", str(home.site))
    assert complete(*site, "opt-code-ba") == ["opt-code-balanced-l"]
    assert len(complete(*site, "opt-")) == len(SHIPPED.read_text().splitlines())
    own = tmp_path / "own.jsonl"
    own.write_text(SHIPPED.read_text().splitlines()[0].replace('"opt-', '"opt-own-') + "\n")
    home.declare(f"ensembles: {own}")
    [name] = complete(*site, "opt-")
    assert name.startswith("opt-own-")
    # The site of one's own, without a word on where it is.
    home.site.rename(home.installed.parent / "optictl.yaml")
    assert complete("--user", "") == [name]
    assert complete(*site, "") == []


def test_it_names_every_row_of_the_registry(home: Home) -> None:
    site = load(home.site, {}).site
    rows = registry_of(site, Places.of(site, home=Path.home()))
    assert list(home.rows()) == [row.declared.name for row in rows]
