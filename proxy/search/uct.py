"""Upper confidence bounds on trees, for simulations that run side by side.

Kocsis, Szepesvári: Bandit Based Monte-Carlo Planning, 2006. A node's actions are without number
here (an answer can be revised again and again), so a node that is visited n times has up to √n
children (progressive widening: Coulom, 2007). A simulation under way counts as a visit without
reward (virtual loss: Chaslot, Winands, van den Herik, 2008), so that the next one looks elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt, log, sqrt
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Node(Generic[T]):
    """A state, and what the simulations through it brought. Only the root has no ``item``."""

    item: T | None = None
    parent: Node[T] | None = None
    children: list[Node[T]] = field(default_factory=list)
    #: Simulations that went through it, those under way included.
    visits: int = 0
    #: The sum of their rewards.
    total: float = 0.0
    #: Children that are being made.
    coming: int = 0

    @property
    def value(self) -> float:
        """The mean reward; a simulation under way counts as a loss."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def depth(self) -> int:
        """How far it is from the root, which is at 0."""
        return 0 if self.parent is None else self.parent.depth + 1

    def path(self) -> Iterator[Node[T]]:
        """The node and all above it."""
        node: Node[T] | None = self
        while node is not None:
            yield node
            node = node.parent


@dataclass(slots=True)
class Tree(Generic[T]):
    """A tree of states with rewards from 0 to 1; its root has ``width`` children at least."""

    exploration: float
    width: int
    root: Node[T] = field(default_factory=Node)

    def select(self) -> Node[T]:
        """The node to expand: the first on the way of the best bounds that may have more children.

        A node whose children are all still being made is expanded once more instead of waited for.
        """
        node = self.root
        while node.children and self._full(node):
            node = max(node.children, key=self._bound)
        return node

    @contextmanager
    def visit(self, node: Node[T]) -> Iterator[Callable[[T, float], Node[T]]]:
        """Make a child of ``node``: call what is yielded with its item and its reward.

        The path counts as visited at once. A visit that brings no child stays a loss, so that a
        node that cannot be expanded is not tried for ever.
        """
        for above in node.path():
            above.visits += 1
        node.coming += 1

        def land(item: T, reward: float) -> Node[T]:
            child = Node(item, node, visits=1, total=reward)
            node.children.append(child)
            for above in node.path():
                above.total += reward
            return child

        try:
            yield land
        finally:
            node.coming -= 1

    def _full(self, node: Node[T]) -> bool:
        least = self.width if node is self.root else 1
        return len(node.children) + node.coming >= max(least, isqrt(node.visits))

    def _bound(self, node: Node[T]) -> float:
        """Its mean reward, and how much better it may be for all that is known."""
        assert node.parent is not None
        return node.value + self.exploration * sqrt(log(node.parent.visits) / node.visits)
