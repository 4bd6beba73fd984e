"""Adaptive branching: whether to widen or to deepen a tree is drawn from what both have brought.

Inoue, Misaki, Imajuku, Kuroki, Nakamura, Akiba: Wider or Deeper? Scaling LLM Inference-Time Compute
with Adaptive Branching Tree Search, arXiv:2503.04412; AB-MCTS-A, with node aggregation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import fsum, sqrt
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")

#: A draw from the posterior of an arm's mean score, given its scores from 0 to 1.
Posterior = Callable[[Random, Sequence[float]], float]


def gaussian(random: Random, scores: Sequence[float]) -> float:
    """Normal scores of unknown mean and variance: prior mean 0, κ = 1, ν = 1, τ² = 0.1."""
    n = len(scores)
    mean = fsum(scores) / n if n else 0.0
    deviations = fsum((score - mean) ** 2 for score in scores)
    kappa, nu = 1 + n, 1 + n
    spread = 0.1 + deviations + mean * mean * n / kappa
    # Inverse gamma with shape ν/2 and scale ντ²/2.
    variance = spread / 2 / random.gammavariate(nu / 2, 1.0)
    return random.gauss(n * mean / kappa, sqrt(variance / kappa))


def beta(random: Random, scores: Sequence[float]) -> float:
    """Scores as fractions of a success, under Jeffreys' prior Beta(½, ½)."""
    won = fsum(scores)
    return random.betavariate(0.5 + won, 0.5 + len(scores) - won)


@dataclass(slots=True, eq=False)
class Node(Generic[T]):
    """A state and its score; None where nobody could score it. Only the root has no ``item``."""

    item: T | None = None
    score: float | None = None
    children: list[Node[T]] = field(default_factory=list)

    def born(self) -> list[float]:
        """The scores of its children."""
        return [child.score for child in self.children if child.score is not None]

    def below(self) -> Iterator[float]:
        """The scores of all that descends from it."""
        yield from self.born()
        for child in self.children:
            yield from child.below()


def select(root: Node[T], random: Random, posterior: Posterior) -> Node[T]:
    """The node that is to get one more child.

    At each node two arms are drawn: to generate another child, known by the scores of those there
    are, and to continue with one of them, known by the scores of what descends from them. To
    continue, the child is drawn in the same way.
    """
    node = root
    while node.children:
        beneath = {child: list(child.below()) for child in node.children}
        continued = [score for scores in beneath.values() for score in scores]
        if posterior(random, node.born()) >= posterior(random, continued):
            return node
        drawn = {child: posterior(random, scores) for child, scores in beneath.items()}
        node = max(drawn, key=drawn.__getitem__)
    return node
