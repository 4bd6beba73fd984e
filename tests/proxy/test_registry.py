"""The registry: found by listing the folders, each slug once, names of the peer reserved."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import proxy.approaches
from proxy.approach import Entry, Shape, approach, entry_of
from proxy.chat import Chat, Reply
from proxy.errors import BadRequest, ConfigError
from proxy.llm import LLM
from proxy.registry import POOL_SLUGS, Registry, discover, entries_of

BUILT = {"none", "re2", "cot_reflection", "bon", "moa", "self_consistency"}
#: All approaches, plugins and examples that OptiLLM's own guides and the operator's pages name.
NAMED = BUILT | {
    "cepo", "deep_research", "deepthink", "executecode", "json", "leap", "mars", "mcp", "mcts",
    "memory", "plansearch", "privacy", "proxy", "pvg", "router", "rstar", "rto", "z3",
}  # fmt: skip
#: Further plugins of OptiLLM 0.3.12.
PLUGINS = {
    "coc", "genselect", "longcepo", "majority_voting", "readurls", "spl", "web_search",
}  # fmt: skip


def entry(slug: str) -> Entry:
    @approach(slug, shape=lambda _: Shape(1, 1))
    async def function(chat: Chat, llm: LLM) -> Reply:
        return Reply.of(slug)

    found = entry_of(function)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.mark.parametrize("slug", sorted(NAMED | PLUGINS))
def test_every_name_that_users_know_is_known(registry: Registry, slug: str) -> None:
    assert registry.known(slug)
    assert slug in registry.slugs


@pytest.mark.parametrize("slug", sorted(BUILT))
def test_what_is_built_is_discovered(registry: Registry, slug: str) -> None:
    found = registry.checked(slug)
    assert found is registry[slug]
    assert found.slug == slug
    assert slug in registry
    assert found.summary
    assert found.mark.use


def test_what_is_built_is_not_reserved_as_well(registry: Registry) -> None:
    assert not {found.slug for found in registry} & registry.reserved


def test_it_lists_its_entries_by_slug(registry: Registry) -> None:
    slugs = [found.slug for found in registry]
    assert slugs == sorted(slugs)
    assert set(slugs) >= BUILT


@pytest.mark.parametrize("slug", sorted((NAMED | PLUGINS) - BUILT - POOL_SLUGS))
def test_what_is_not_built_says_so(registry: Registry, slug: str) -> None:
    if slug in registry:
        return
    with pytest.raises(BadRequest) as caught:
        registry.checked(slug)
    assert caught.value.code == "approach_not_built"
    assert caught.value.param == "model"
    assert f"'{slug}'" in caught.value.message
    assert registry.listing() in caught.value.message


def test_what_is_unknown_is_told_what_there_is(registry: Registry) -> None:
    with pytest.raises(BadRequest) as caught:
        registry.checked("self_consistancy", "optillm_approach")
    assert caught.value.code == "unknown_approach"
    assert caught.value.param == "optillm_approach"
    assert "Did you mean 'self_consistency'?" in caught.value.message
    assert registry.listing() in caught.value.message


def test_an_unlikely_name_gets_no_suggestion(registry: Registry) -> None:
    with pytest.raises(BadRequest) as caught:
        registry.checked("xyzzy")
    assert "Did you mean" not in caught.value.message


def test_slugs_are_tried_longest_first(registry: Registry) -> None:
    lengths = [len(slug) for slug in registry.slugs]
    assert lengths == sorted(lengths, reverse=True)


def test_a_doubled_slug_is_refused() -> None:
    with pytest.raises(ConfigError, match="'twice' is defined twice"):
        Registry([entry("twice"), entry("other"), entry("twice")])


def test_building_a_reserved_name_takes_it_off_the_list() -> None:
    assert "mcts" in Registry([]).reserved
    built = Registry([entry("mcts")])
    assert "mcts" not in built.reserved
    assert built.checked("mcts").slug == "mcts"
    assert built.known("mcts")


def test_a_new_file_in_the_folder_is_all_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brandnew.py").write_text(
        "from proxy.chat import Chat, Reply\n"
        "from proxy.llm import LLM, Shape, approach\n"
        "@approach('brandnew', shape=lambda _: Shape(calls=1, rounds=1))\n"
        "async def brandnew(chat: Chat, llm: LLM, *, deep: bool = False) -> Reply:\n"
        "    '''New.'''\n"
        "    return await llm.final(chat.messages)\n"
    )
    monkeypatch.setattr(proxy.approaches, "__path__", [*proxy.approaches.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "proxy.approaches.brandnew", raising=False)
    try:
        found = discover().checked("brandnew")
    finally:
        sys.modules.pop("proxy.approaches.brandnew", None)
    assert found.summary == "New."
    assert list(found.options) == ["deep"]


def test_a_module_offers_what_it_defines_not_what_it_imports() -> None:
    marked = entry("mine").function
    module = ModuleType("some_module")
    marked.__module__ = "some_module"
    vars(module).update(mine=marked, theirs=entry("theirs").function, number=3, plain=entry)
    assert [found.slug for found in entries_of(module)] == ["mine"]


def test_a_leaf_has_checked_options(registry: Registry) -> None:
    leaf = registry.leaf("bon", {"best_of_n": 4})
    assert leaf.options == {"samples": 4}
    assert leaf.shape.most_calls == 8
    with pytest.raises(BadRequest, match="from 1 to 64"):
        registry.leaf("bon", {"samples": 65})
    with pytest.raises(BadRequest, match="not built"):
        registry.leaf("memory", {})
