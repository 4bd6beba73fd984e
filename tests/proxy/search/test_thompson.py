"""Adaptive branching: posteriors as in the literature, and trees that widen or deepen by score."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean, pvariance

import pytest

from proxy.search.thompson import Node, Posterior, beta, gaussian, select

DRAWS = 20_000


def drawn(posterior: Posterior, scores: Sequence[float]) -> list[float]:
    random = Random(1)
    return [posterior(random, scores) for _ in range(DRAWS)]


class TestPosteriors:
    @pytest.mark.parametrize("scores", [(), (1.0,), (0.2, 0.9, 0.7), (0.5,) * 10])
    def test_beta_has_the_mean_and_variance_of_its_counts(self, scores: Sequence[float]) -> None:
        a, b = 0.5 + sum(scores), 0.5 + len(scores) - sum(scores)
        draws = drawn(beta, scores)
        assert fmean(draws) == pytest.approx(a / (a + b), abs=0.01)
        expected = a * b / (a + b) ** 2 / (a + b + 1)
        assert pvariance(draws) == pytest.approx(expected, rel=0.05)

    @pytest.mark.parametrize("scores", [(0.9,) * 4, (0.2, 0.9, 0.7), (0.1, 0.5) * 5])
    def test_gaussian_is_students_t_around_the_shrunk_mean(self, scores: Sequence[float]) -> None:
        """κ₀ = ν₀ = 1, τ₀² = 0.1: t with ν degrees of freedom, squared scale τ²/κ."""
        n, mean = len(scores), fmean(scores)
        nu = kappa = n + 1
        spread = 0.1 + n * pvariance(scores) + n * mean**2 / kappa
        draws = drawn(gaussian, scores)
        assert fmean(draws) == pytest.approx(n * mean / kappa, abs=0.02)
        expected = spread / nu / kappa * nu / (nu - 2)
        assert pvariance(draws) == pytest.approx(expected, rel=0.25)

    @pytest.mark.parametrize("posterior", [beta, gaussian])
    def test_better_scores_draw_higher(self, posterior: Posterior) -> None:
        pairs = zip(drawn(posterior, [0.9] * 8), drawn(posterior, [0.3] * 8)[::-1], strict=True)
        assert sum(good > bad for good, bad in pairs) > 0.95 * DRAWS


def grow(posterior: Posterior, fresh: float, gain: float, seed: int) -> tuple[int, int]:
    """The root's children and the tree's depth after 30 expansions.

    A fresh answer scores ``fresh``, a revision ``gain`` more than what it revises.
    """
    random, root, depths = Random(seed), Node[int](), [0]
    for _ in range(30):
        node = select(root, random, posterior)
        depth = 1 if node.item is None else node.item + 1
        score = fresh if node.score is None else min(1.0, max(0.0, node.score + gain))
        node.children.append(Node(depth, score))
        depths.append(depth)
    return len(root.children), max(depths)


class TestSelection:
    def test_an_empty_root_is_expanded(self) -> None:
        root: Node[str] = Node()
        assert select(root, Random(0), gaussian) is root

    @pytest.mark.parametrize("posterior", [beta, gaussian])
    def test_where_revising_helps_the_tree_is_deep_else_wide(self, posterior: Posterior) -> None:
        deep = [grow(posterior, 0.2, 0.2, seed) for seed in range(30)]
        wide = [grow(posterior, 0.8, -0.4, seed) for seed in range(30)]
        assert fmean(width for width, _ in wide) > 2 * fmean(width for width, _ in deep)
        assert fmean(depth for _, depth in deep) > fmean(depth for _, depth in wide) + 1

    def test_the_same_seed_grows_the_same_tree(self) -> None:
        assert grow(gaussian, 0.3, 0.1, 5) == grow(gaussian, 0.3, 0.1, 5)

    def test_unscored_nodes_say_nothing(self) -> None:
        root: Node[str] = Node(children=[Node("a"), Node("b", 0.5, [Node("c")])])
        assert (root.born(), list(root.below())) == ([0.5], [0.5])
        assert select(root, Random(0), beta) in {root, *root.children, root.children[1].children[0]}

    def test_a_generated_score_counts_for_generating_and_one_below_for_continuing(self) -> None:
        seen: list[list[float]] = []

        def watched(random: Random, scores: Sequence[float]) -> float:
            seen.append(list(scores))
            return 1.0 if len(seen) == 1 else 0.0

        root: Node[str] = Node(children=[Node("a", 0.1, [Node("b", 0.9)]), Node("c", 0.2)])
        assert select(root, Random(0), watched) is root
        assert seen == [[0.1, 0.2], [0.9]]
