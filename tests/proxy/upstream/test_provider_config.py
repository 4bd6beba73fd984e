"""What a provider calls a model, what clients call it, and which machine serves it."""

from __future__ import annotations

import pytest

from proxy.upstream.config import ProviderConfig


def provider(**given: dict[str, str]) -> ProviderConfig:
    return ProviderConfig(name="p", base_url="http://h/v1", **given)  # type: ignore[arg-type]


class TestModel:
    @pytest.mark.parametrize(
        ("model_map", "name", "called"),
        [
            ({}, "gpt-4", "gpt-4"),
            ({"gpt-4": "four"}, "gpt-4", "four"),
            ({"gpt-4": "four"}, "gpt-4o", "gpt-4o"),
            ({"gpt-*": "any", "gpt-4": "four"}, "gpt-4", "four"),
            ({"*": "all", "gpt-*": "gpt", "gpt-4*": "fours"}, "gpt-4o", "fours"),
            ({"gpt-4*": "fours", "*": "all"}, "llama", "all"),
            ({"*": "router-*"}, "gpt-4", "router-gpt-4"),
            ({"gpt-*": "*-gpt"}, "gpt-4", "4-gpt"),
            ({"*-mini": "small/*/x"}, "gpt-4o-mini", "small/gpt-4o/x"),
            ({"a*z": "<*>"}, "az", "<>"),
            ({"GPT*": "x"}, "gpt-4", "gpt-4"),
            ({"a[b]*": "x-*"}, "a[b]c", "x-c"),
            ({"a?*": "x"}, "abc", "abc"),
        ],
    )
    def test_exact_names_come_before_patterns_and_long_patterns_before_short(
        self, model_map: dict[str, str], name: str, called: str
    ) -> None:
        assert provider(model_map=model_map).model(name) == called


class TestNamesOf:
    @pytest.mark.parametrize(
        ("model_map", "listed", "names"),
        [
            ({}, "gpt-4", ["gpt-4"]),
            ({"fast": "mini", "small": "mini", "big": "max"}, "mini", ["fast", "small"]),
            ({"fast": "mini"}, "max", ["max"]),
            ({"*": "router-*"}, "router-gpt-4", ["gpt-4"]),
            ({"*": "router-*"}, "gpt-4", ["gpt-4"]),
            ({"*": "r-*", "best": "r-x"}, "r-x", ["best"]),
            ({"any-*": "mini"}, "mini", ["mini"]),
        ],
    )
    def test_the_public_name_stands_for_the_internal_one(
        self, model_map: dict[str, str], listed: str, names: list[str]
    ) -> None:
        assert provider(model_map=model_map).names_of(listed) == names

    def test_a_name_given_back_leads_to_the_model_again(self) -> None:
        mapped = provider(model_map={"fast": "mini", "team-*": "gpt-*", "*": "r/*"})
        for listed in ("mini", "gpt-4o", "r/llama"):
            assert [mapped.model(name) for name in mapped.names_of(listed)] == [listed]


class TestHost:
    @pytest.mark.parametrize(
        ("hosts", "name", "host"),
        [
            ({}, "gpt-4", None),
            ({"*": "box"}, "gpt-4", "box"),
            ({"llama-*": "box"}, "gpt-4", None),
            ({"*": "box", "llama-*": "tin", "llama-3": "can"}, "llama-3", "can"),
            ({"*": "box", "llama-*": "tin", "llama-3": "can"}, "llama-2", "tin"),
        ],
    )
    def test_exact_names_come_before_patterns(
        self, hosts: dict[str, str], name: str, host: str | None
    ) -> None:
        assert provider(hosts=hosts).host(name) == host
