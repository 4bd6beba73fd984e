"""Selectors: which approaches on which base model, from four places in a fixed order."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.approach import Entry, Kind, Shape, approach, entry_of
from proxy.chat import Chat, Reply
from proxy.errors import BadRequest
from proxy.llm import LLM
from proxy.registry import Registry, discover
from proxy.selector import Selector, find_tag, select, suggestion

REGISTRY = discover()


def read(
    model: str, *known: str, registry: Registry = REGISTRY, default_base: str = "base", **named: Any
) -> Selector:
    return select(model, registry, frozenset(known), default_base=default_base, **named)


def slugs(selector: Selector) -> list[list[str]]:
    return [[entry.slug for entry in branch] for branch in selector.branches]


def refusal(model: str, *known: str, **named: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(model, *known, **named)
    return caught.value


class TestModelNames:
    @pytest.mark.parametrize(
        ("model", "branches", "base"),
        [
            ("gpt-4o-mini", [[]], "gpt-4o-mini"),
            ("moa-gpt-4o-mini", [["moa"]], "gpt-4o-mini"),
            ("none-gpt-4", [["none"]], "gpt-4"),
            ("self_consistency-m", [["self_consistency"]], "m"),
            ("moa&bon-m", [["moa", "bon"]], "m"),
            ("moa&cot_reflection-gpt-4o-mini", [["moa", "cot_reflection"]], "gpt-4o-mini"),
            ("moa|bon-m", [["moa"], ["bon"]], "m"),
            ("moa|bon|self_consistency-m", [["moa"], ["bon"], ["self_consistency"]], "m"),
            ("re2&moa|bon-m", [["re2", "moa"], ["bon"]], "m"),
            ("bon|re2&moa-m", [["bon"], ["re2", "moa"]], "m"),
            ("moa&moa-m", [["moa", "moa"]], "m"),
            ("none|moa-m", [["none"], ["moa"]], "m"),
        ],
    )
    def test_a_pipeline_stands_in_front_of_the_base(
        self, model: str, branches: list[list[str]], base: str
    ) -> None:
        selector = read(model)
        assert slugs(selector) == branches
        assert selector.base == base

    @pytest.mark.parametrize(
        "base",
        [
            "org/model", "org/model-7b.Q4_K_M", "qwen3:8b", "models/a:b-c/d", "gpt-4.1-mini",
            "a", "-", "m--x", "m-", "1.5b", "models/llama-v3p1-8b", "bon-m", "m&n", "m|n",
        ],
    )  # fmt: skip
    def test_base_names_may_hold_what_model_names_hold(self, base: str) -> None:
        assert read(f"moa-{base}").base == base
        assert slugs(read(f"moa-{base}")) == [["moa"]]
        assert read(f"re2&moa|bon-{base}").base == base

    @pytest.mark.parametrize(
        "model",
        [
            "m", "moab-m", "moas", "amoa-m", "MOA-m", "Moa-m", "mo-a", "re22-m", "self-m",
            "self_consistency_2-m", "moa_x-m", "moa/x", "moa:latest", "moa.5-m", "mao-m", "-m",
            "gpt|x", "a&b-m", "|", "&", "none_of-m", "proxyless-m", "self_consistancy-m",
        ],
    )  # fmt: skip
    def test_a_first_part_that_is_no_slug_belongs_to_the_name(self, model: str) -> None:
        selector = read(model)
        assert slugs(selector) == [[]]
        assert selector.base == model
        assert selector.source == "default"

    def test_a_slug_alone_means_the_default_base(self) -> None:
        selector = read("moa", default_base="house-model")
        assert slugs(selector) == [["moa"]]
        assert selector.base == "house-model"
        assert slugs(read("moa&re2|bon")) == [["moa", "re2"], ["bon"]]
        assert read("moa&re2|bon").base == "base"

    def test_the_approach_is_reported_as_it_was_selected(self) -> None:
        assert read("re2&moa|bon-m").approach == "re2&moa|bon"
        assert read("m").approach == "none"

    def test_another_base_leaves_the_approaches(self) -> None:
        changed = read("moa-m", base_model="other")
        assert (slugs(changed), changed.base) == ([["moa"]], "other")


class TestNamesThatAreRefused:
    @pytest.mark.parametrize("model", ["moa-", "moa&bon-", "moa|bon-", "proxy-", "proxy-moa-"])
    def test_an_empty_base_name(self, model: str) -> None:
        error = refusal(model)
        assert error.code == "invalid_selector"
        assert error.param == "model"

    @pytest.mark.parametrize(
        "model",
        [
            "moa&-x", "&moa-x", "moa|-x", "|moa-x", "moa&&bon-x", "moa||bon-x", "moa&|bon-x",
            "moa&", "moa|", "&moa", "moa&bon&-x", "moa|bon|", "moa& ",
        ],
    )  # fmt: skip
    def test_a_missing_member(self, model: str) -> None:
        assert refusal(model).code == "invalid_selector"

    @pytest.mark.parametrize(
        ("model", "unknown"),
        [
            ("moa&nope-x", "nope"),
            ("nope&moa-x", "nope"),
            ("moa|nope-x", "nope"),
            ("nope|moa-x", "nope"),
            ("moa&nope", "nope"),
            ("re2&moa|nope&bon-x", "nope"),
            ("moa&self-x", "self"),
        ],
    )
    def test_an_unknown_member_of_a_group_is_told_what_there_is(
        self, model: str, unknown: str
    ) -> None:
        error = refusal(model)
        assert error.code == "unknown_approach"
        assert error.param == "model"
        assert f"'{unknown}'" in error.message
        assert REGISTRY.listing() in error.message

    def test_a_mistyped_member_is_asked_after(self) -> None:
        assert "Did you mean 'bon'?" in refusal("moa&bonn-x").message

    @pytest.mark.parametrize("slug", sorted(REGISTRY.reserved))
    @pytest.mark.parametrize("form", ["{}-gpt-4", "{}", "{}&moa-x", "moa|{}-x", "proxy-{}-x"])
    def test_a_slug_that_is_not_built_is_never_part_of_a_name(self, slug: str, form: str) -> None:
        error = refusal(form.format(slug))
        assert error.code == "approach_not_built"
        assert f"'{slug}'" in error.message

    @given(st.text("moabnre2&|- /x", min_size=1, max_size=24))
    def test_any_name_is_read_or_refused(self, model: str) -> None:
        try:
            selector = read(model)
        except BadRequest:
            return
        assert selector.branches
        assert selector.base == "base" or (selector.base and model.endswith(selector.base))


class TestKnownModels:
    """The prefix reading wins where its base is known; else a known whole name; else the prefix."""

    @pytest.mark.parametrize(
        ("model", "known", "branches", "base"),
        [
            ("moa-m", ["m"], [["moa"]], "m"),
            ("moa-m", ["m", "moa-m"], [["moa"]], "m"),
            ("moa-m", ["moa-m"], [[]], "moa-m"),
            ("moa-m", [], [["moa"]], "m"),
            ("moa-m", ["other"], [["moa"]], "m"),
            ("moa", ["moa"], [[]], "moa"),
            ("re2&moa-m", ["re2&moa-m"], [[]], "re2&moa-m"),
            ("json-mode-7b", ["json-mode-7b"], [[]], "json-mode-7b"),
            ("memory", ["memory"], [[]], "memory"),
            ("proxy-json-7b", ["json-7b"], [[]], "json-7b"),
            ("proxy-moa-m", ["moa-m"], [[]], "moa-m"),
            ("proxy-moa-m", ["moa-m", "m"], [["moa"]], "m"),
            ("moa-bon-m", ["bon-m"], [["moa"]], "bon-m"),
        ],
    )
    def test_precedence(
        self, model: str, known: Collection[str], branches: list[list[str]], base: str
    ) -> None:
        selector = read(model, *known)
        assert (slugs(selector), selector.base) == (branches, base)

    def test_a_reserved_slug_on_a_known_base_is_still_refused(self) -> None:
        assert refusal("memory-m", "m").code == "approach_not_built"
        assert refusal("memory-m", "m", "memory-m").code == "approach_not_built"

    def test_a_known_whole_name_leaves_room_for_the_body(self) -> None:
        assert slugs(read("json-7b", "json-7b", body_approach="moa")) == [["moa"]]


class TestThePool:
    """``proxy`` chooses who serves the run; it is no approach."""

    @pytest.mark.parametrize(
        ("model", "branches", "base"),
        [
            ("proxy-gpt-4", [[]], "gpt-4"),
            ("proxy", [[]], "base"),
            ("proxy-moa-x", [["moa"]], "x"),
            ("proxy-moa", [["moa"]], "base"),
            ("proxy-proxy-moa|bon-x", [["moa"], ["bon"]], "x"),
            ("bon&proxy-gpt-4", [["bon"]], "gpt-4"),
            ("proxy&bon-gpt-4", [["bon"]], "gpt-4"),
            ("proxy|bon-gpt-4", [[], ["bon"]], "gpt-4"),
        ],
    )
    def test_in_a_model_s_name(self, model: str, branches: list[list[str]], base: str) -> None:
        selector = read(model)
        assert (slugs(selector), selector.base) == (branches, base)
        assert selector.source == "prefix"

    def test_in_the_body(self) -> None:
        assert slugs(read("gpt-4", body_approach="proxy")) == [[]]
        assert slugs(read("moa-gpt-4", body_approach="proxy")) == [["moa"]]
        assert slugs(read("gpt-4", body_approach="proxy&moa")) == [["moa"]]

    def test_as_the_server_s_default(self) -> None:
        assert slugs(read("gpt-4", default_approach="proxy")) == [[]]
        assert slugs(read("moa-gpt-4", default_approach="proxy")) == [["moa"]]

    def test_it_leaves_the_choice_to_whoever_comes_next(self) -> None:
        assert slugs(read("proxy-gpt-4", body_approach="moa")) == [["moa"]]
        assert read("proxy-gpt-4", body_approach="moa").base == "gpt-4"
        assert slugs(read("proxy-gpt-4", tag="bon")) == [["bon"]]
        assert slugs(read("proxy-gpt-4", default_approach="bon")) == [["bon"]]
        assert slugs(read("gpt-4", body_approach="proxy", default_approach="bon")) == [["bon"]]


class TestPrecedence:
    @pytest.mark.parametrize(
        ("model", "named", "slug", "source"),
        [
            ("moa-m", {"body_approach": "bon", "tag": "re2"}, "moa", "prefix"),
            ("m", {"body_approach": "bon", "tag": "re2"}, "bon", "body"),
            ("m", {"tag": "re2"}, "re2", "tag"),
            ("m", {}, "self_consistency", "default"),
            ("m", {"body_approach": "auto", "tag": "re2"}, "re2", "tag"),
            ("m", {"body_approach": "auto"}, "self_consistency", "default"),
            ("m", {"body_approach": "none"}, "none", "body"),
            ("none-m", {"body_approach": "bon"}, "none", "prefix"),
        ],
    )
    def test_prefix_then_body_then_tag_then_default(
        self, model: str, named: dict[str, str], slug: str, source: str
    ) -> None:
        selector = read(model, default_approach="self_consistency", **named)
        assert slugs(selector) == [[slug]]
        assert selector.base == "m"
        assert selector.source == source

    @pytest.mark.parametrize("default", ["auto", "proxy", "", "none"])
    def test_a_default_of_auto_or_proxy_means_none(self, default: str) -> None:
        assert read("m", default_approach=default).approach == "none"
        assert read("moa-m", default_approach=default).approach == "moa"

    def test_any_of_them_may_be_a_pipeline(self) -> None:
        for named in ("body_approach", "tag", "default_approach"):
            assert read("m", **{named: "re2&moa|bon"}).approach == "re2&moa|bon"

    def test_blanks_around_names_in_the_body_do_not_matter(self) -> None:
        assert read("m", body_approach=" re2 & moa ").approach == "re2&moa"

    @pytest.mark.parametrize(
        ("named", "param"), [("body_approach", "optillm_approach"), ("tag", "messages")]
    )
    @pytest.mark.parametrize(
        ("approach", "code"),
        [
            ("nope", "unknown_approach"),
            ("moa-gpt-4", "unknown_approach"),
            ("MOA", "unknown_approach"),
            ("moa&", "invalid_selector"),
            ("", "invalid_selector"),
            ("memory", "approach_not_built"),
            ("moa|memory", "approach_not_built"),
        ],
    )
    def test_a_wrong_one_is_refused_where_it_stands(
        self, named: str, param: str, approach: str, code: str
    ) -> None:
        error = refusal("m", **{named: approach})
        assert (error.code, error.param) == (code, param)

    def test_a_tool_cannot_be_chosen_by_a_tag(self) -> None:
        registry = Registry([entry("none"), entry("shell", "tool")])
        for tag in ("shell", "none&shell", "none|shell"):
            assert refusal("m", registry=registry, tag=tag).code == "tag_not_allowed"
        assert read("shell-m", registry=registry).approach == "shell"
        assert read("m", registry=registry, body_approach="shell").approach == "shell"
        # What the prefix has settled, no tag can change.
        assert read("none-m", registry=registry, tag="shell").approach == "none"


def entry(slug: str, kind: Kind = "approach") -> Entry:
    @approach(slug, shape=lambda _: Shape(1, 1))
    async def function(chat: Chat, llm: LLM) -> Reply:
        return Reply.of(slug)

    found = entry_of(function)
    assert found is not None
    object.__setattr__(found.mark, "kind", kind)
    return found


TAG = "<optillm_approach>{}</optillm_approach>"


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


class TestTags:
    @pytest.mark.parametrize("role", ["system", "developer", "user"])
    def test_it_is_taken_out_of_where_it_may_stand(self, role: str) -> None:
        messages = [turn(role, f"{TAG.format('moa')} Hello"), turn("assistant", "Hi")]
        tag, cleaned = find_tag(messages)
        assert tag == "moa"
        assert cleaned == [turn(role, "Hello"), turn("assistant", "Hi")]

    def test_blanks_around_it_do_not_matter(self) -> None:
        tag, cleaned = find_tag([turn("user", f"a {TAG.format(' re2&moa ')}b")])
        assert tag == "re2&moa"
        assert cleaned == [turn("user", "a b")]

    def test_it_is_taken_out_of_a_part(self) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:"}}
        text = {"type": "text", "text": f"{TAG.format('moa')}\nHello", "cache": True}
        tag, cleaned = find_tag([turn("user", [image, text])])
        assert tag == "moa"
        assert cleaned[0]["content"] == [image, {"type": "text", "text": "Hello", "cache": True}]

    @pytest.mark.parametrize(
        "messages",
        [
            [turn("user", TAG.format("moa")), turn("assistant", "Hi"), turn("user", "Hello")],
            [turn("user", "Hello"), turn("assistant", TAG.format("moa"))],
            [turn("user", "Hello"), turn("tool", TAG.format("moa"))],
            [turn("user", "<optillm_approach>moa")],
            [turn("user", "<optillm_approach>m\noa</optillm_approach>")],
            [turn("user", "<optillm_approach></optillm_approach>")],
            [turn("user", TAG.format("x" * 201))],
            [turn("user", "Hello"), turn("assistant", None)],
        ],
    )
    def test_elsewhere_it_is_text(self, messages: list[dict[str, Any]]) -> None:
        """Turns that were quoted, retrieved or answered must not choose what runs."""
        tag, cleaned = find_tag(messages)
        assert tag is None
        assert list(cleaned) == messages

    def test_of_several_the_first_counts_and_none_is_left_for_the_model(self) -> None:
        messages = [
            turn("system", f"Be brief. {TAG.format('moa')}"),
            turn("user", f"{TAG.format('bon')}Hello{TAG.format('re2')}"),
        ]
        tag, cleaned = find_tag(messages)
        assert tag == "moa"
        assert cleaned == [turn("system", "Be brief. "), turn("user", "Hello")]

    def test_the_client_s_messages_are_not_changed(self) -> None:
        messages = [turn("user", [{"type": "text", "text": TAG.format("moa")}])]
        before = copy.deepcopy(messages)
        find_tag(messages)
        assert messages == before


class TestSuggestions:
    @pytest.mark.parametrize(
        ("model", "known", "meant"),
        [
            ("mao-gpt-4", [], "moa-gpt-4"),
            ("self_consistancy-gpt-4", [], "self_consistency-gpt-4"),
            ("self_consistency2-org/m:x", [], "self_consistency-org/m:x"),
            ("gtp-4o", ["gpt-4o", "llama"], "gpt-4o"),
        ],
    )
    def test_a_near_miss_is_asked_after(
        self, model: str, known: Collection[str], meant: str
    ) -> None:
        assert f"Did you mean '{meant}'?" in suggestion(model, REGISTRY, known)

    @pytest.mark.parametrize("model", ["xyzzy", "moa-m", "", "gpt-4"])
    def test_where_nothing_is_near_nothing_is_said(self, model: str) -> None:
        assert suggestion(model, REGISTRY, ["claude"]) == ""
