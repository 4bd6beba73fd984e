"""UCT with virtual loss and widening: where simulations go, alone and side by side."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from math import isqrt, log, sqrt
from random import Random

import pytest

from proxy.search.uct import Node, Tree


def grown(tree: Tree[str], simulations: int, reward: dict[str, float]) -> Counter[str]:
    """How often each of the root's children's descendants came about, by its first letter."""
    seen: Counter[str] = Counter()
    for number in range(simulations):
        node = tree.select()
        family = "abcdefgh"[len(tree.root.children)] if node is tree.root else str(node.item)[0]
        seen[family] += 1
        with tree.visit(node) as land:
            land(f"{family}{number}", reward[family])
    return seen


def walk(node: Node[str]) -> list[Node[str]]:
    return [node, *(below for child in node.children for below in walk(child))]


class TestSelection:
    def test_the_root_is_filled_first(self) -> None:
        tree: Tree[str] = Tree(0.2, width=3)
        assert grown(tree, 3, dict.fromkeys("abc", 0.5)) == {"a": 1, "b": 1, "c": 1}

    def test_then_the_best_is_expanded_again_and_again(self) -> None:
        tree: Tree[str] = Tree(0.2, width=3)
        seen = grown(tree, 11, {"a": 0.2, "b": 0.9, "c": 0.3})
        assert seen["b"] == 9
        assert max(node.depth for node in walk(tree.root)) >= 3

    def test_without_exploration_the_others_are_never_looked_at_again(self) -> None:
        tree: Tree[str] = Tree(0.0, width=2)
        assert grown(tree, 40, dict.fromkeys("bcdefgh", 0.5) | {"a": 0.6})["b"] == 1

    def test_with_much_of_it_all_are(self) -> None:
        tree: Tree[str] = Tree(10.0, width=2)
        seen = grown(tree, 60, dict.fromkeys("bcdefgh", 0.0) | {"a": 1.0})
        assert min(seen[family] for family in "ab") > 5

    def test_the_bound_is_that_of_the_paper(self) -> None:
        """Mean plus c√(ln N / n), computed by hand for every choice."""
        random, c = Random(7), 0.7
        tree: Tree[str] = Tree(c, width=3)
        for _ in range(80):
            node = tree.root
            while node.children and len(node.children) >= max(
                3 if node is tree.root else 1, isqrt(node.visits)
            ):
                logarithm = log(node.visits)
                node = max(
                    node.children,
                    key=lambda n: n.total / n.visits + c * sqrt(logarithm / n.visits),
                )
            assert tree.select() is node
            with tree.visit(node) as land:
                land("x", random.random())

    def test_a_rating_counts_for_all_above(self) -> None:
        tree: Tree[str] = Tree(0.2, width=1)
        with tree.visit(tree.root) as land:
            child = land("a", 0.4)
        with tree.visit(child) as land:
            grandchild = land("b", 0.8)
        assert (grandchild.value, child.value, tree.root.value) == pytest.approx((0.8, 0.6, 0.6))
        assert (grandchild.visits, child.visits, tree.root.visits) == (1, 2, 2)
        assert [node.depth for node in grandchild.path()] == [2, 1, 0]


class TestSideBySide:
    def test_virtual_loss_sends_the_second_elsewhere(self) -> None:
        tree: Tree[str] = Tree(0.2, width=2)
        grown(tree, 2, {"a": 0.9, "b": 0.8})
        first, second = tree.root.children
        with tree.visit(tree.select()) as land:
            assert (first.visits, first.coming) == (2, 1)
            assert tree.select() is second
            land("aa", 0.9)
        assert first in tree.select().path()

    def test_but_not_from_one_that_is_much_better(self) -> None:
        tree: Tree[str] = Tree(0.1, width=2)
        grown(tree, 2, {"a": 1.0, "b": 0.1})
        with tree.visit(tree.select()) as _:
            assert tree.select() is tree.root.children[0]

    def test_what_comes_to_nothing_stays_a_loss(self) -> None:
        tree: Tree[str] = Tree(0.2, width=2)
        grown(tree, 2, {"a": 0.9, "b": 0.8})
        with pytest.raises(KeyError), tree.visit(tree.select()):
            raise KeyError
        assert [(n.visits, n.total, n.coming) for n in tree.root.children] == [
            (2, 0.9, 0),
            (1, 0.8, 0),
        ]
        assert tree.select() is tree.root.children[1]

    def test_any_number_at_once_never_waits_and_adds_up(self) -> None:
        random = Random(3)
        tree: Tree[str] = Tree(0.5, width=3)
        for _ in range(20):
            with ExitStack() as under_way:
                lands = [
                    under_way.enter_context(tree.visit(tree.select()))
                    for _ in range(random.randint(1, 8))
                ]
                for land in random.sample(lands, len(lands)):
                    if random.random() < 0.8:
                        land("x", random.random())
        for node in walk(tree.root):
            assert node.visits >= sum(child.visits for child in node.children)
            assert node.coming == 0
            assert 0 <= node.value <= 1
