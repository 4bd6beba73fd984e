"""What a request for an ensemble or for a handle comes to, before the first call."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import chat_body

from proxy.ensembles import Ensemble, Member, Team, aliases_of, handle_key
from proxy.errors import BadRequest, BudgetTooSmall
from proxy.pipeline import Leaf, Node
from proxy.registry import discover
from proxy.run.plan import Plan, make_plan
from proxy.settings import Limits, Settings
from proxy.wire.request import parse_chat

NAME = "opt-code-balanced-l"
TEAM = Team(
    (Member("a"), Member("b"), Member("c", "aggregator"), Member("d", "judge")), min_successful=2
)
REGISTRY = discover()


def ensemble(**changes: Any) -> Ensemble:
    return Ensemble(**{"name": NAME, "approach": "bon", "team": TEAM, **changes})


def planned(
    model: str = NAME,
    ensemble: Ensemble | None = None,
    settings: dict[str, Any] | None = None,
    known: tuple[str, ...] = ("base",),
    **members: Any,
) -> Plan:
    if ensemble is None:
        ensemble = Ensemble(NAME, "bon", TEAM)
    made = Settings(base_url="http://x/v1", ensembles={NAME: ensemble}, **(settings or {}))
    return make_plan(parse_chat(chat_body(model, **members)), REGISTRY, known, made)


def leaf(plan: Plan) -> Leaf:
    node: Node | None = plan.branches[0].node
    assert isinstance(node, Leaf)
    return node


class TestAnEnsemble:
    def test_has_its_pipeline_and_its_team(self) -> None:
        plan = planned()
        assert (plan.approach, plan.team, plan.ensemble, plan.base) == ("bon", TEAM, NAME, NAME)

    @pytest.mark.parametrize(
        ("model", "members", "approach"),
        [
            (f"moa-{NAME}", {}, "moa"),
            (f"re2&moa-{NAME}", {}, "re2&moa"),
            (f"none-{NAME}", {}, "none"),
            (f"proxy-{NAME}", {}, "bon"),
            (NAME, {"optillm_approach": "moa"}, "moa"),
            (f"moa-{NAME}", {"optillm_approach": "bon"}, "moa"),
            ("moa-base", {"optillm_base_model": NAME}, "moa"),
            ("base", {"optillm_base_model": NAME}, "bon"),
        ],
    )
    def test_runs_another_approach_where_one_is_named(
        self, model: str, members: dict[str, Any], approach: str
    ) -> None:
        plan = planned(model, **members)
        assert (plan.approach, plan.team, plan.handle) == (approach, TEAM, model)

    def test_comes_before_the_default_approach_of_the_server(self) -> None:
        settings = {"approach": "moa"}
        assert planned(settings=settings).approach == "bon"
        assert planned("base", settings=settings).approach == "moa"

    def test_is_the_base_where_the_server_says_so(self) -> None:
        assert planned("moa", settings={"model": NAME}).team == TEAM

    def test_keeps_its_team_where_a_request_names_another_base(self) -> None:
        assert planned(NAME, optillm_base_model="base").team == Team.of("base")

    def test_is_served_by_the_pool_where_its_pipeline_names_it(self) -> None:
        plan = planned(ensemble=ensemble(approach="proxy&bon"))
        assert (plan.approach, plan.pooled) == ("bon", True)

    def test_says_so_where_its_approach_is_not_built(self) -> None:
        with pytest.raises(BadRequest, match="'memory' is reserved"):
            planned(ensemble=ensemble(approach="memory"))

    def test_goes_through_an_llm_even_with_none(self) -> None:
        plan = planned(ensemble=ensemble(approach="none"))
        assert plan.approach == "none"
        assert not plan.untouched

    def test_is_one_only_under_its_own_name(self) -> None:
        plan = planned("bon-base")
        assert (plan.team, plan.ensemble, plan.handle) == (Team.of("base"), None, None)


class TestItsParameters:
    def test_go_under_those_of_the_client(self) -> None:
        made = ensemble(params={"temperature": 0.1, "top_p": 0.5, "max_tokens": 9})
        plan = planned(ensemble=made, temperature=0.7, max_completion_tokens=50)
        assert plan.chat.params == {"temperature": 0.7, "top_p": 0.5, "max_completion_tokens": 50}

    def test_may_be_options_of_its_approach(self) -> None:
        made = ensemble(params={"samples": 4, "moa.layers": 2})
        assert leaf(planned(ensemble=made)).options["samples"] == 4
        assert leaf(planned(f"moa-{NAME}", made)).options == {
            "samples": 4, "layers": 2, "critique": True
        }  # fmt: skip
        assert not planned(ensemble=made).chat.params
        assert not planned(f"cot_reflection-{NAME}", made).chat.params
        asked = planned(ensemble=made, optillm_options={"samples": 6})
        assert leaf(asked).options["samples"] == 6

    def test_in_the_wrong_range_are_refused(self) -> None:
        with pytest.raises(BadRequest, match="samples"):
            planned(ensemble=ensemble(params={"samples": 0}))

    def test_samples_are_as_many_as_there_are_proposers_at_least(self) -> None:
        many = Team(tuple(Member(name) for name in "abcd"))
        drawn = leaf(planned(f"moa-{NAME}", ensemble(team=many))).options["samples"]
        assert drawn == 4
        assert leaf(planned(f"moa-{NAME}")).options["samples"] == 3
        by_the_server = planned(
            ensemble=ensemble(team=many), settings={"options": {"bon.samples": 3}}
        )
        assert leaf(by_the_server).options["samples"] == 4
        assert leaf(planned(f"rto-{NAME}", ensemble(team=many))).options["samples"] == 1


class TestItsLimits:
    def test_the_strictest_holds(self) -> None:
        made = ensemble(limits=Limits(max_calls=9, max_seconds=20.0))
        plan = planned(
            ensemble=made,
            settings={"limits": Limits(max_total_tokens=500)},
            optillm_budget={"max_calls": 50, "max_seconds": 5},
        )
        assert plan.limits == Limits(max_calls=9, max_total_tokens=500, max_seconds=5.0)
        assert plan.seconds == 5.0

    def test_a_deadline_of_its_own(self) -> None:
        assert planned(ensemble=ensemble(limits=Limits(max_seconds=20.0))).seconds == 20.0

    def test_too_few_calls_for_its_approach(self) -> None:
        with pytest.raises(BudgetTooSmall):
            planned(ensemble=ensemble(limits=Limits(max_calls=2)))


class TestWithoutItsApproach:
    def test_an_auxiliary_task_is_one_call_to_its_helper(self) -> None:
        team = Team((*TEAM.members, Member("h", "helper")))
        for of, model in ((TEAM, "b"), (team, "h")):
            plan = planned(ensemble=ensemble(team=of), metadata={"task": "title"})
            assert (plan.approach, plan.task) == ("none", "title")
            assert plan.team.member("aggregator").model == model
            assert plan.branches[0].skipped == ("bon: the request is an auxiliary task",)

    @pytest.mark.parametrize("model", [NAME, f"moa-{NAME}", "opt-plain"])
    def test_degraded_is_one_call_to_the_aggregator(self, model: str) -> None:
        settings = {"degraded": True, "aliases": {"OPT_PLAIN": "moa-base"}}
        plan = planned(model, settings=settings)
        assert plan.approach == "none"
        assert plan.team.member("aggregator").model == ("base" if model == "opt-plain" else "c")
        assert "the service is degraded" in plan.branches[0].skipped[0]

    @pytest.mark.parametrize(
        ("model", "members", "skipped"),
        [
            ("moa-base", {}, "moa"),
            ("re2&moa-base", {}, "re2&moa"),
            ("bon|moa-base", {}, "bon|moa"),
            ("base", {"optillm_approach": "bon"}, "bon"),
            (f"proxy-moa-{NAME}", {}, "moa"),
            ("opt-routed", {}, "rto"),
        ],
    )
    def test_degraded_is_one_call_for_every_request(
        self, model: str, members: dict[str, Any], skipped: str
    ) -> None:
        settings = {"degraded": True, "aliases": {"OPT_ROUTED": "rto-base"}}
        plan = planned(model, settings=settings, **members)
        assert (plan.approach, plan.total_choices) == ("none", 1)
        assert plan.branches[0].skipped == (f"{skipped}: the service is degraded",)

    def test_degraded_is_none_by_default_too(self) -> None:
        settings = {"degraded": True, "approach": "moa"}
        assert planned("base", settings=settings).approach == "none"

    def test_degraded_skips_nothing_where_nothing_was_asked_for(self) -> None:
        plan = planned("base", settings={"degraded": True})
        assert plan.untouched
        assert plan.branches[0].skipped == ()


class TestAliases:
    def test_are_the_variables_of_handles(self) -> None:
        environ = {
            "OPTILLM_OPT_CODE_BALANCED_L_MODEL": "moa-base",
            "OPTILLM_OPT_EMPTY_MODEL": "",
            "OPTILLM_MODEL": "no-alias",
            "OPTILLM_BASE_URL": "http://x/v1",
            "MLX_A_MODEL": "openai/a",
        }
        assert aliases_of(environ) == {"OPT_CODE_BALANCED_L": "moa-base"}

    @pytest.mark.parametrize("handle", ["opt-code-balanced-l", "opt_code_balanced_l"])
    def test_are_looked_up_as_a_handle_is_written_in_a_variable(self, handle: str) -> None:
        assert handle_key(handle) == "OPT_CODE_BALANCED_L"

    def test_a_handle_is_read_as_what_it_stands_for(self) -> None:
        plan = planned("opt-x", settings={"aliases": {"OPT_X": "moa-base"}})
        assert (plan.approach, plan.team, plan.handle) == ("moa", Team.of("base"), "opt-x")

    def test_a_handle_may_stand_for_an_ensemble(self) -> None:
        plan = planned("opt-x", settings={"aliases": {"OPT_X": f"moa-{NAME}"}})
        assert (plan.approach, plan.team, plan.ensemble) == ("moa", TEAM, NAME)

    def test_one_that_repeats_the_name_changes_nothing(self) -> None:
        plan = planned(settings={"aliases": {handle_key(NAME): NAME}})
        assert (plan.approach, plan.team) == ("bon", TEAM)

    def test_other_names_are_as_they_were(self) -> None:
        assert planned("moa-base", settings={"aliases": {"OPT_X": "bon-b"}}).approach == "moa"


class TestStandIns:
    FULL = Team(
        (
            Member("a"),
            Member("b"),
            Member("c", "aggregator"),
            Member("d", "judge"),
            Member("e", "critic"),
            Member("f", "helper"),
        )
    )

    @pytest.mark.parametrize(
        ("role", "missing", "model"),
        [
            ("aggregator", "c", "a"),
            ("aggregator", "ca", "b"),
            ("judge", "d", "c"),
            ("judge", "dc", "a"),
            ("critic", "e", "d"),
            ("helper", "f", "b"),
            ("helper", "fb", "a"),
            ("proposer", "a", "b"),
            ("proposer", "ab", "c"),
            ("judge", "abcdef", "d"),
        ],
    )
    def test_the_next_of_the_role_that_is_there(self, role: Any, missing: str, model: str) -> None:
        assert self.FULL.member(role, missing=missing).model == model

    def test_an_author_judges_itself_only_where_nobody_else_is_there(self) -> None:
        assert self.FULL.member("judge", not_model="a", missing="dc").model == "b"
        assert self.FULL.member("judge", not_model="a", missing="bcdef").model == "a"

    def test_whose_turn_it_is_does_not_hang_on_who_else_is_missing(self) -> None:
        team = Team((Member("a"), Member("b"), Member("c")))
        found = [team.member("proposer", nth=nth, missing="b").model for nth in range(6)]
        assert found == ["a", "c", "c", "a", "a", "c"]

    def test_whoever_leads_has_all_others_behind(self) -> None:
        led = self.FULL.led_by("helper")
        assert led.member("aggregator").model == "f"
        assert led.member("aggregator", missing="f").model == "a"
        assert {member.model for member in led.members} == set("abcdef")
