"""Pipelines: ``&`` folds from the right, and what cannot treat a request honestly is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from proxy.approach import Entry
from proxy.chat import Chat
from proxy.pipeline import Branch, Feed, Leaf, Node, Wrap, compile_branch
from proxy.registry import discover

REGISTRY = discover()
TURN = {"role": "user", "content": "Hello"}
PLAIN = Chat((TURN,))
TOOLS = Chat((TURN,), {"tools": [{"type": "function", "function": {"name": "f"}}]})
PARTS = Chat(({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},))
FORMAT = Chat((TURN,), {"response_format": {"type": "json_object"}})


def branch(stages: str, chat: Chat = PLAIN) -> Branch:
    def options(entry: Entry) -> Mapping[str, Any]:
        return entry.defaults

    entries = [REGISTRY[slug] for slug in stages.split("&") if slug]
    return compile_branch(entries, REGISTRY["none"], chat, options)


def drawn(node: Node | None) -> str:
    """The tree as nested calls."""
    if node is None:
        return ""
    if isinstance(node, Leaf):
        return node.entry.slug
    if isinstance(node, Feed):
        return f"({drawn(node.first)} > {drawn(node.then)})"
    return f"{node.entry.slug}[{drawn(node.inner)}]"


@pytest.mark.parametrize(
    ("stages", "tree"),
    [
        ("moa", "moa"),
        ("moa&bon", "(moa > bon)"),
        ("moa&bon&self_consistency", "(moa > (bon > self_consistency))"),
        ("re2", "re2[none]"),
        ("re2&moa", "re2[moa]"),
        ("re2&moa&bon", "re2[(moa > bon)]"),
        ("moa&re2&bon", "(moa > re2[bon])"),
        ("moa&re2", "(moa > re2[none])"),
        ("re2&re2&moa", "re2[re2[moa]]"),
        ("none&moa", "(none > moa)"),
        ("moa&none", "(moa > none)"),
    ],
)
def test_a_transform_wraps_what_is_to_its_right_and_an_approach_feeds_it(
    stages: str, tree: str
) -> None:
    found = branch(stages)
    assert drawn(found.node) == tree
    assert found.label == stages
    assert found.skipped == ()


@pytest.mark.parametrize("stages", ["", "none", "none&none"])
def test_none_alone_is_no_tree_at_all(stages: str) -> None:
    found = branch(stages)
    assert found.node is None
    assert found.label == "none"
    assert (found.shape.least_calls, found.shape.least_rounds) == (1, 1)


def test_stages_take_their_options() -> None:
    found = compile_branch(
        [REGISTRY["re2"], REGISTRY["bon"], REGISTRY["moa"]],
        REGISTRY["none"],
        PLAIN,
        lambda entry: {"re2": {"trigger": False}, "bon": {"samples": 5}}.get(entry.slug, {}),
    )
    assert isinstance(found.node, Wrap)
    assert found.node.options == {"trigger": False}
    inner = found.node.inner
    assert isinstance(inner, Feed)
    assert inner.first.options == {"samples": 5}


def test_the_shape_of_a_chain_is_the_sum_of_its_stages() -> None:
    node = branch("re2&bon&self_consistency").node
    assert node is not None
    bon, votes = REGISTRY["bon"].shape({}), REGISTRY["self_consistency"].shape({})
    assert node.shape.least_calls == bon.least_calls + votes.least_calls
    assert node.shape.most_rounds == bon.most_rounds + votes.most_rounds


@pytest.mark.parametrize(
    ("stages", "chat", "tree", "label", "skipped"),
    [
        ("rto", TOOLS, "", "none", ["rto: the request carries tools"]),
        (
            "cot_reflection&rto",
            TOOLS,
            "",
            "none",
            ["cot_reflection: the request carries tools", "rto: the request carries tools"],
        ),
        ("re2&rto", TOOLS, "re2[none]", "re2", ["rto: the request carries tools"]),
        ("rto&moa", TOOLS, "moa", "moa", ["rto: the request carries tools"]),
        ("none", TOOLS, "", "none", []),
        ("re2", PARTS, "", "none", ["re2: the request carries images or files"]),
        ("re2&moa", PARTS, "moa", "moa", ["re2: the request carries images or files"]),
        ("moa", PARTS, "moa", "moa", []),
        ("moa", FORMAT, "moa", "moa", []),
        (
            "cot_reflection&moa",
            FORMAT,
            "moa",
            "moa",
            ["cot_reflection: the request carries a response format"],
        ),
    ],
)
def test_a_stage_that_would_drop_something_is_left_out_and_named(
    stages: str, chat: Chat, tree: str, label: str, skipped: list[str]
) -> None:
    found = branch(stages, chat)
    assert drawn(found.node) == tree
    assert found.label == label
    assert list(found.skipped) == skipped


def test_a_stage_lacking_several_says_all_of_them() -> None:
    chat = Chat(PARTS.messages, {**TOOLS.params, **FORMAT.params})
    (reason,) = branch("cot_reflection", chat).skipped
    assert reason.startswith("cot_reflection: ")
    assert "tools" in reason
    assert "a response format" in reason
    assert "images" not in reason
