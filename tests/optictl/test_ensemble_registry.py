"""The ensembles that come with optictl, and how a site's models get into a registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, MakeProxy
from fake_manager import FakeManager

from optictl.ensemble_cost import Part, cost
from optictl.ensemble_registry import (
    OPEN,
    SHIPPED,
    as_row,
    dumps,
    registry_of,
    rendered,
    wanted,
)
from optictl.errors import UsageError
from optictl.fake_system import FakeSystem
from optictl.foreground import foreground
from optictl.machine import Machine
from optictl.places import Places
from optictl.render import FLOOR, Facts, render
from optictl.site import Site
from optictl.site_loading import load as load_site
from proxy.ensembles import ROLES, Ensemble, Member, Team
from proxy.ensembles_file import load, loads
from proxy.errors import ConfigError
from proxy.registry import discover
from proxy.settings import Limits

ROOT = Path(__file__).parents[2]
HOME = Path("/home/optillm")
MODELS = {"large": "mlx-a", "large-2": "mlx-b", "medium": "mlx-c", "small": "ov-d"}
ROWS = load(SHIPPED)
BOUND = loads(SHIPPED.read_text().replace(OPEN, "sim-"), SHIPPED)
#: What a row may say, all of it.
FULL = Ensemble(
    name="opt-mine-fast-s",
    approach="re2&moa",
    team=Team(
        (Member("mlx-a", "proposer", {"temperature": 0.2}, 2.0), Member("@small", "judge")), 1
    ),
    params={"moa.samples": 2, "top_p": 0.9},
    limits=Limits(max_calls=9, max_total_tokens=9000, max_seconds=1.5),
    purpose="Grün",
    notes="because",
)


def site(
    models: Mapping[str, str] | None = None, registry: Path | None = None, **policy: str
) -> Site:
    return Site.model_validate(
        {
            "policy": policy,
            "proxy": {"base_model": "sim"},
            "models": dict(models or {}),
            "ensembles": None if registry is None else str(registry),
        }
    )


def places(of: Site) -> Places:
    return Places.of(of, home=HOME)


def names(text: str) -> list[str]:
    return [json.loads(line)["ensemble"] for line in text.splitlines()]


class TestTheShippedSet:
    def test_has_the_operator_s_ten_names(self) -> None:
        assert set(ROWS) == {
            "opt-route-fast-s",
            "opt-extract-fast-s",
            "opt-clean-fast-s",
            "opt-summarize-fast-s",
            "opt-privacy-fast-s",
            "opt-architect-high-xl",
            "opt-research-high-xl",
            "opt-architect-balanced-l",
            "opt-code-balanced-l",
            "opt-chat-balanced-m",
        }

    def test_lies_where_the_operator_looks_for_it(self) -> None:
        assert (ROOT / "registry/ensembles.jsonl").read_bytes() == SHIPPED.read_bytes()

    @pytest.mark.parametrize("name", ROWS)
    def test_keeps_to_the_tier_guidance(self, name: str) -> None:
        models = {member.model for member in ROWS[name].team.members}
        assert (
            models
            == {
                "xl": {"@large", "@large-2"},
                "l": {"@large", "@large-2", "@medium"},
                "m": {"@large", "@medium", "@small"},
                "s": {"@medium", "@small"},
            }[name.rpartition("-")[2]]
        )

    @pytest.mark.parametrize("name", ROWS)
    def test_lets_the_strongest_have_the_last_word_and_another_criticise(self, name: str) -> None:
        members = ROWS[name].team.members
        roles = {member.role: member.model for member in members}
        strongest = "@large" if "@large" in {each.model for each in members} else "@medium"
        assert roles.get("aggregator", strongest) == strongest
        assert roles.get("critic") != strongest

    @pytest.mark.parametrize("name", ROWS)
    def test_costs_what_its_profile_says(self, name: str) -> None:
        taken, limits = cost(ROWS[name], discover()), ROWS[name].limits
        most = {"fast": (2, 30.0), "balanced": (3, 180.0), "high": (4, 600.0)}[name.split("-")[-2]]
        assert limits.max_seconds is not None
        assert (taken.rounds.most, limits.max_seconds) <= most
        assert limits.max_seconds <= most[1]
        assert taken.calls.least >= len(ROWS[name].team.members_for("proposer"))

    @pytest.mark.parametrize("name", ROWS)
    def test_says_what_for_and_why(self, name: str) -> None:
        assert ROWS[name].purpose.endswith(".")
        assert ROWS[name].notes.endswith(".")

    @pytest.mark.parametrize("name", BOUND)
    def test_is_executed_as_it_stands(self, make_proxy: MakeProxy, name: str) -> None:
        """Who is asked for what is who the row names, and what was told to be."""
        asked = asked_for(make_proxy(ensembles=BOUND), name)
        declared: dict[str, set[str]] = {}
        for member in BOUND[name].team.members:
            declared.setdefault(member.role, set()).add(member.model)
        assert asked == declared
        told = [part for stage in cost(BOUND[name], discover()).stages for part in stage.parts]
        assert {part.role: set(part.models) for part in told} == declared


def asked_for(proxy: InProcess, model: str) -> dict[str, set[str]]:
    """The models by the roles that a request has asked them for."""
    answer = proxy.ask(model, optillm_trace=True).json
    asked: dict[str, set[str]] = {}
    for call in answer["optillm"]["trace"]:
        role = "aggregator" if call["role"] == "final" else call["role"]
        asked.setdefault(role, set()).add(call["model"])
    return asked


@pytest.mark.parametrize("slug", [e.slug for e in discover() if e.mark.kind == "approach"])
def test_an_approach_asks_for_the_roles_that_it_says(make_proxy: MakeProxy, slug: str) -> None:
    members = (*(Member(f"sim-{role}", role) for role in ROLES), Member("sim-other"))
    ensemble = Ensemble("opt-all-high-xl", slug, Team(members))
    asked = asked_for(make_proxy(ensembles={ensemble.name: ensemble}), ensemble.name)
    entry = discover()[slug]
    for role, models in asked.items():
        assert role in entry.roles({})
        assert models <= {member.model for member in members if member.role == role}
    shape = entry.shape({})
    if shape.least_calls == shape.most_calls:
        assert set(asked) == set(entry.roles({}))


def test_without_a_critique_nobody_is_asked_for_one() -> None:
    assert "critic" in discover()["moa"].roles({})
    assert "critic" not in discover()["moa"].roles({"critique": False})
    [stage] = cost(ROWS["opt-chat-balanced-m"], discover()).stages
    assert stage.parts == (
        Part("proposer", ("@medium", "@small")),
        Part("aggregator", ("@large",)),
    )


class TestBinding:
    def test_puts_the_site_s_models_where_the_registry_leaves_them_open(self) -> None:
        here = site(MODELS)
        text = rendered(here, places(here))
        found = loads(text, Path("rendered"))
        assert list(found) == list(ROWS)
        assert OPEN not in text
        members = found["opt-code-balanced-l"].team.members
        assert [(each.model, each.role) for each in members] == [
            ("mlx-a", "proposer"),
            ("mlx-b", "proposer"),
            ("mlx-c", "proposer"),
            ("mlx-b", "critic"),
            ("mlx-a", "aggregator"),
        ]

    def test_leaves_out_what_needs_a_model_that_the_site_does_not_name(self) -> None:
        here = site({"medium": "a", "small": "b"})
        assert {name[-2:] for name in names(rendered(here, places(here)))} == {"-s"}
        rows = {row.declared.name: row for row in registry_of(here, places(here))}
        assert len(rows) == 10
        why = rows["opt-code-balanced-l"].why
        assert why == "the site names no models.large and no models.large-2; add it to optictl.yaml"
        assert rows["opt-route-fast-s"].why == ""

    def test_leaves_out_all_where_the_site_names_none(self) -> None:
        assert rendered(site(), places(site())) == ""

    def test_leaves_out_what_comes_to_one_model(self) -> None:
        here = site({**MODELS, "large-2": "mlx-a", "small": "mlx-c"})
        assert [name[-2:] for name in names(rendered(here, places(here)))] == ["-l", "-l", "-m"]
        rows = {row.declared.name: row for row in registry_of(here, places(here))}
        assert rows["opt-research-high-xl"].why == (
            "models.large and models.large-2 are the same model, mlx-a; "
            "an ensemble is of two or more"
        )

    @pytest.mark.parametrize("name", ["@large", "Large", "large model", ""])
    def test_refuses_a_name_that_no_registry_has(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "optictl.yaml"
        path.write_text(f"proxy: {{base_model: sim}}\nmodels: {{'{name}': mlx-a}}\n")
        with pytest.raises(ConfigError, match=rf"^{path}:2:9: models must not name '{name}': wr"):
            load_site(path, {})

    @pytest.mark.parametrize("model", ["@medium", "opt-code-balanced-l"])
    def test_wants_base_models(self, model: str) -> None:
        here = site({**MODELS, "large": model})
        with pytest.raises(ConfigError, match=rf"^models\.large: {model} is no base model; name"):
            rendered(here, places(here))

    def test_of_all_to_one_model_is_the_operator_s_to_allow(self) -> None:
        here = site(dict.fromkeys(MODELS, "mlx-a"), single_model_handles="allow")
        assert len(names(rendered(here, places(here)))) == 10

    def test_of_one_that_is_wanted_says_which_model_is_missing(self) -> None:
        rows = registry_of(site({"large": "a", "medium": "b"}), places(site()))
        with pytest.raises(
            UsageError, match=r"^opt-code-balanced-l: the site names no models\.lar"
        ):
            wanted(rows, "opt-code-balanced-l")

    def test_of_one_that_is_wanted_gives_it_with_its_models(self) -> None:
        found = wanted(registry_of(site(MODELS), places(site())), "opt-route-fast-s")
        assert [member.model for member in found.team.members] == ["mlx-c", "ov-d"]

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("opt-code-balanced-m", r"; did you mean 'opt-code-balanced-l'\?"),
            ("x", "; there are: opt-architect-high-xl, "),
        ],
    )
    def test_of_one_that_is_not_there_says_which_are(self, name: str, said: str) -> None:
        with pytest.raises(UsageError, match=f"there is no ensemble '{name}'{said}"):
            wanted(registry_of(site(MODELS), places(site())), name)


class TestRegistryOfOnesOwn:
    def test_comes_in_the_place_of_the_shipped_one(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_text(f"# ours\n\n{dumps([FULL])}")
        here = site({"small": "ov-d"}, path)
        [line] = rendered(here, places(here)).splitlines()
        members: list[Any] = json.loads(line)["members"]
        assert members == [
            {"model": "mlx-a", "role": "proposer", "weight": 2.0, "params": {"temperature": 0.2}},
            {"model": "ov-d", "role": "judge"},
        ]

    def test_is_read_in_a_staging_tree_where_it_is_there(self, tmp_path: Path) -> None:
        here = site({"small": "ov-d"}, Path("/srv/mine.jsonl"))
        staged = tmp_path / "srv/mine.jsonl"
        staged.parent.mkdir()
        staged.write_text(dumps([FULL]))
        assert names(rendered(here, places(here), tmp_path)) == ["opt-mine-fast-s"]

    def test_of_one_model_needs_the_policy(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        alone = replace(FULL, team=Team((Member("mlx-a"),)))
        path.write_text(dumps([alone]))
        with pytest.raises(ConfigError, match=r"policy\.single_model_handles: allow"):
            rendered(site(registry=path), places(site()))
        here = site(registry=path, single_model_handles="allow")
        assert names(rendered(here, places(here))) == [FULL.name]

    def test_with_mistakes_names_their_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_text(dumps([FULL]) + dumps([FULL]).replace("proposer", "boss"))
        here = site(MODELS, path)
        with pytest.raises(ConfigError, match=rf"^{path}:2: .*role must be one of"):
            rendered(here, places(here))

    def test_that_is_not_there_says_which_setting_names_it(self, tmp_path: Path) -> None:
        here = site(MODELS, tmp_path / "none.jsonl")
        with pytest.raises(
            ConfigError, match=r"^ensembles: /.*none\.jsonl does not exist; write it"
        ):
            rendered(here, places(here))

    def test_that_the_service_s_file_would_overwrite_is_refused(self) -> None:
        here = site(MODELS, Path("/etc/optillm-proxy/ensembles.jsonl"))
        with pytest.raises(ConfigError, match="keep the registry in another file"):
            rendered(here, places(here))


def test_what_is_written_is_read_as_it_was() -> None:
    assert list(loads(dumps([FULL]), Path("x")).values()) == [FULL]


def test_every_field_of_a_row_is_in_the_page() -> None:
    page = (ROOT / "docs/ENSEMBLES.md").read_text()
    row = as_row(FULL)
    fields = {*row, *(f"members[].{name}" for name in row["members"][0]), *row["budget"]}
    assert [name for name in fields if f"`{name}`" not in page] == []


class TestRendered:
    def artifacts(self, here: Site) -> dict[str, Any]:
        facts = Facts(
            optictl=Path("/usr/local/bin/optictl"),
            systemd=FLOOR,
            home=HOME,
            ensembles=rendered(here, places(here)),
        )
        return {each.path.name: each for each in render(here, facts, {}, places(here))}

    def test_the_service_reads_what_is_written_and_again_on_a_reload(self) -> None:
        files = self.artifacts(site(MODELS))
        written = files["ensembles.jsonl"]
        assert str(written.path) == "/etc/optillm-proxy/ensembles.jsonl"
        assert (written.effect, written.mode) == ("reload", 0o644)
        assert len(names(written.content.decode())) == 10
        unit = files["optillm-proxy.service"].content.decode()
        assert unit.count(" --ensembles /etc/optillm-proxy/ensembles.jsonl") == 2

    def test_the_service_is_told_that_one_model_is_enough(self) -> None:
        for policy, told in (("refuse", False), ("allow", True)):
            files = self.artifacts(site(MODELS, single_model_handles=policy))
            unit = files["optillm-proxy.service"].content.decode()
            assert (" --single-model-ensembles" in unit) is told

    def test_without_any_there_is_neither_file_nor_flag(self) -> None:
        files = self.artifacts(site())
        assert "ensembles.jsonl" not in files
        assert "--ensembles" not in files["optillm-proxy.service"].content.decode()

    def test_in_a_terminal_the_service_reads_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "optictl.yaml"
        path.write_text(f"proxy: {{base_model: sim}}\nmodels: {json.dumps(MODELS)}\n")
        machine = Machine(load_site(path, {}), FakeSystem(), FakeManager(), systemd=FLOOR)
        with foreground(machine) as started:
            read = Path(started.words[started.words.index("--ensembles") + 1])
            assert list(load(read)) == list(ROWS)
