"""The routing graph: which name leads where, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
from litellm_files import BACKEND, LITELLM, ROUTER, US, entry, read

from optictl.gateway import Graph, Ours
from optictl.gateway_config import variables_in
from optictl.own_host import Host
from proxy.ensembles import Ensemble, Member, Team
from proxy.errors import ConfigError
from proxy.upstream.config import ProviderConfig


def routed(*entries: str, variables: dict[str, str] | None = None, **ours: Any) -> Graph:
    """The graph of these entries of LiteLLM, and of what the proxy is told."""
    return Graph(
        config=read("model_list:\n" + "".join(entries), variables),
        ours=Ours(
            **{
                "port": 4020,
                "base_model": "base",
                "approach": "proxy",
                "upstream": ProviderConfig("upstream", LITELLM),
                **ours,
            }
        ),
        url=LITELLM,
        host=Host(),
    )


def pool(**model_map: str) -> dict[str, Any]:
    """What the proxy calls models at LiteLLM."""
    return {"pool": (ProviderConfig("litellm", LITELLM, model_map=model_map),)}


def ensembles(**members: str) -> dict[str, Any]:
    """Ensembles by name (with _ for -) of models, which blanks part."""
    made = {
        name.replace("_", "-"): Team(tuple(map(Member, models.split())))
        for name, models in members.items()
    }
    return {"ensembles": {name: Ensemble(name, "moa", team) for name, team in made.items()}}


def loops(graph: Graph) -> list[str]:
    return [each.said.partition(": ")[2].partition(";")[0] for each in graph.loops()]


class TestLoops:
    def test_a_handle_that_leads_to_a_backend_by_way_of_us(self) -> None:
        assert loops(routed(entry("opt-x", "moa-base"), entry("base", "base", BACKEND))) == []

    def test_a_base_model_that_comes_back(self) -> None:
        graph = routed(entry("b", "moa-b"), entry("base", "base", BACKEND))
        [found] = graph.loops()
        assert found.said == (
            "b leads back to the proxy, which calls it: b → optillm-proxy (moa-b) → b → …"
        )
        assert found.at == f"{ROUTER}:4"
        assert found.fix == f"lead b to a backend at {ROUTER}:4"

    def test_all_is_routed_by_us_without_the_models_internal_names(self) -> None:
        entries = entry("base", "router-base"), entry("router-base", "base", BACKEND)
        assert loops(routed(*entries)) == ["base → optillm-proxy (router-base) → base → …"]
        assert loops(routed(*entries, **pool(base="router-base"))) == []

    def test_the_internal_names_serve_only_who_asks_for_the_pool(self) -> None:
        entries = entry("base", "router-base"), entry("router-base", "base", BACKEND)
        assert loops(routed(*entries, approach="none", **pool(base="router-base"))) != []

    def test_all_is_routed_by_patterns(self) -> None:
        entries = entry("mlx-*", "router-mlx-*"), entry("router-mlx-*", "*", BACKEND)
        assert loops(routed(*entries)) == ["mlx-* → optillm-proxy (router-mlx-*) → mlx-* → …"]
        mapped = routed(*entries, pool=(
            ProviderConfig("litellm", LITELLM, model_map={"mlx-*": "router-mlx-*"}),
        ))  # fmt: skip
        assert loops(mapped) == []

    def test_a_circle_of_two_handles(self) -> None:
        graph = routed(entry("a", "moa-b"), entry("b", "bon-a"))
        assert loops(graph) == [
            "b → optillm-proxy (bon-a) → a → optillm-proxy (moa-b) → b → …",
            "a → optillm-proxy (moa-b) → b → optillm-proxy (bon-a) → a → …",
        ]

    def test_to_come_back_once_is_to_be_refused(self) -> None:
        graph = routed(entry("a", "moa-b"), entry("b", "bon-c"), entry("c", "c", BACKEND))
        assert loops(graph) == ["optillm-proxy (moa-b) → b → optillm-proxy (bon-c)"]

    def test_a_member_that_leads_back(self) -> None:
        graph = routed(
            entry("opt-x-high-s", "opt-x-high-s"),
            entry("good", "good", BACKEND),
            entry("bad", "moa-good"),
            **ensembles(opt_x_high_s="good bad"),
        )
        [found] = graph.loops()
        assert found.said.startswith("bad leads back to the proxy, which calls it: ")
        assert found.said.endswith("; it is called for opt-x-high-s")

    def test_a_circle_through_two_ensembles(self) -> None:
        graph = routed(
            entry("one", "opt-one-high-s"),
            entry("two", "opt-two-high-s"),
            entry("good", "good", BACKEND),
            **ensembles(opt_one_high_s="good two", opt_two_high_s="good one"),
        )
        assert loops(graph) == [
            "two → optillm-proxy (opt-two-high-s) → one → optillm-proxy (opt-one-high-s) → two → …",
            "one → optillm-proxy (opt-one-high-s) → two → optillm-proxy (opt-two-high-s) → one → …",
        ]

    def test_approaches_in_front_of_an_ensemble(self) -> None:
        graph = routed(
            entry("one", "re2&bon-opt-one-high-s"), **ensembles(opt_one_high_s="one good")
        )
        assert "one → optillm-proxy (re2&bon-opt-one-high-s) → one → …" in loops(graph)

    def test_a_handle_that_litellm_sends_as_it_is(self) -> None:
        graph = routed(entry("opt-b", "opt-b"), aliases={"OPT_B": "moa-opt-b"})
        assert "opt-b → optillm-proxy (opt-b) → opt-b → …" in loops(graph)
        assert loops(routed(entry("opt-b", "opt-b"), aliases={"OPT_B": "moa-base"})) == []

    def test_an_ensemble_that_no_handle_leads_to(self) -> None:
        graph = routed(entry("bad", "moa-base"), **ensembles(opt_x_high_s="bad"))
        assert loops(graph) == ["optillm-proxy (opt-x-high-s) → bad → optillm-proxy (moa-base)"]

    def test_the_default_model(self) -> None:
        assert loops(routed(entry("base", "base"))) == ["base → optillm-proxy (base) → base → …"]

    def test_no_base_model_in_the_handle_is_the_default_model(self) -> None:
        assert "base → optillm-proxy (moa) → base → …" in loops(routed(entry("base", "moa")))

    def test_everything_unknown_comes_back(self) -> None:
        graph = routed(entry("*", "*"), entry("base", "base", BACKEND))
        assert loops(graph) == ["* → optillm-proxy (*) → * → …"]

    @pytest.mark.timeout(20)
    def test_names_that_grow_at_each_turn_come_to_an_end(self) -> None:
        graph = routed(entry("*", "any-*"), entry("b-*", "any-b-*"), entry("base", "b", BACKEND))
        assert "optillm-proxy (any-*) → any-* → optillm-proxy (any-any-*)" in loops(graph)
        through_litellm = routed(entry("*", "any-*", LITELLM), entry("b", "moa-c"))
        assert loops(through_litellm) == []

    def test_a_pattern_for_handles_is_none(self) -> None:
        assert loops(routed(entry("opt-*", "*"), entry("*", "*", BACKEND))) == []

    def test_one_of_two_that_share_a_name(self) -> None:
        graph = routed(entry("b", "b", BACKEND), entry("b", "moa-b"))
        [found] = graph.loops()
        assert found.at == f"{ROUTER}:7"

    def test_by_variables_of_which_the_last_counts(self) -> None:
        text = (
            "- {model_name: b, litellm_params: {model: os.environ/B_MODEL, "
            "api_base: os.environ/B_API_BASE}}\n"
        )
        straight = f"B_MODEL=openai/b\nB_API_BASE={BACKEND}\n"
        through = f"B_MODEL=openai/router-b\nB_API_BASE={US}\n"
        variables = variables_in(f"{straight}{through}".encode())
        assert loops(routed(text, variables=variables)) != []
        variables = variables_in(f"{through}{straight}".encode())
        assert loops(routed(text, variables=variables)) == []

    def test_through_litellm_twice(self) -> None:
        graph = routed(entry("b", "c", LITELLM), entry("c", "moa-b"))
        assert "b → c → optillm-proxy (moa-b) → b → …" in loops(graph)

    def test_where_a_failed_call_goes(self) -> None:
        graph = routed(
            entry("b", "b", BACKEND),
            entry("opt-b", "moa-b"),
            "litellm_settings: {fallbacks: [{b: [opt-b]}]}\n",
        )
        assert loops(graph) == ["b → opt-b → optillm-proxy (moa-b) → b → …"]

    def test_where_any_failed_call_goes(self) -> None:
        graph = routed(
            entry("base", "b", BACKEND),
            entry("opt-b", "moa-base"),
            "router_settings: {default_fallbacks: [opt-b]}\n",
        )
        assert loops(graph) == ["base → opt-b → optillm-proxy (moa-base) → base → …"]

    def test_an_upstream_that_is_the_proxy_itself(self) -> None:
        graph = routed(upstream=ProviderConfig("upstream", US))
        assert loops(graph) == ["optillm-proxy (base) → optillm-proxy (base) → …"]

    def test_an_upstream_that_is_another_litellm(self) -> None:
        upstream = ProviderConfig("upstream", "http://elsewhere:4000/v1")
        assert loops(routed(entry("b", "moa-b"), upstream=upstream)) == []

    def test_nothing_of_the_sort_is_written(self) -> None:
        routed(entry("opt-b", "moa-base")).refuse_loops()
        with pytest.raises(
            ConfigError, match=r"router.yaml:4: b leads back .* lead b to a backend"
        ):
            routed(entry("b", "moa-b")).refuse_loops()

    def test_a_password_in_an_url_is_not_shown(self) -> None:
        graph = routed(entry("b", "moa-b", "http://user:secret@localhost:4020/v1"))
        [found] = graph.loops()
        assert "secret" not in f"{found} {found.fix} {graph.config.entries}"


class TestMissing:
    def missing(self, graph: Graph, *listed: str) -> list[str]:
        return [str(each) for each in graph.missing(listed)]

    def test_a_base_model_without_an_entry(self) -> None:
        graph = routed(
            entry("opt-x", "moa-qwen3"), entry("qwen-3", "q", BACKEND), base_model="qwen-3"
        )
        assert self.missing(graph) == [
            f"{ROUTER}:4: optillm-proxy (moa-qwen3) calls qwen3, and LiteLLM has no such entry; "
            "did you mean 'qwen-3'?"
        ]

    def test_it_may_have_it_from_elsewhere(self) -> None:
        assert self.missing(routed(entry("opt-x", "moa-b")), "b", "base") == []

    def test_a_pattern_has_it(self) -> None:
        assert self.missing(routed(entry("opt-*", "*"), entry("*", "*", BACKEND))) == []

    def test_what_a_star_stands_for_is_not_known(self) -> None:
        graph = routed(entry("opt-*", "moa-*"), entry("base", "base", BACKEND))
        assert self.missing(graph) == []

    def test_the_internal_entries_of_routing(self) -> None:
        graph = routed(entry("base", "router-base"), **pool(base="router-base"))
        assert self.missing(graph) == [
            f"{ROUTER}:4: optillm-proxy (router-base) calls router-base, and LiteLLM has no such "
            "entry",
            "proxy.base_model: optillm-proxy (base) calls router-base, and LiteLLM has no such "
            "entry",
        ]
