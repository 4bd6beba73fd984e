"""A selection compiled to what will be run: a tree of nodes for each branch.

``&`` folds from the right: a transform wraps everything to its right, an approach feeds it.
``privacy&moa&json`` is privacy(moa → json).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.approach import Entry, Feature, Shape
from proxy.chat import Chat


@dataclass(frozen=True, slots=True)
class Leaf:
    """One approach with its options."""

    entry: Entry
    options: Mapping[str, Any]

    @property
    def shape(self) -> Shape:
        return self.entry.shape(self.options)


@dataclass(frozen=True, slots=True)
class Feed:
    """``first``'s answer goes into ``then`` as a draft."""

    first: Leaf
    then: Node

    @property
    def shape(self) -> Shape:
        return self.first.shape + self.then.shape


@dataclass(frozen=True, slots=True)
class Wrap:
    """A transform around ``inner``: the chat on its way in, the answer on its way out."""

    entry: Entry
    options: Mapping[str, Any]
    inner: Node

    @property
    def shape(self) -> Shape:
        return self.entry.shape(self.options) + self.inner.shape


Node = Leaf | Feed | Wrap


@dataclass(frozen=True, slots=True)
class Branch:
    """One side of ``|``: its tree, or None where the request goes through untouched."""

    label: str
    node: Node | None
    #: Stages left out because they cannot treat this request honestly, with the reason.
    skipped: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        return Shape(calls=1, rounds=1) if self.node is None else self.node.shape

    def played(self, none: Entry) -> Branch:
        """The same with a run of ``none`` where the request would go through untouched."""
        return replace(self, node=self.node or Leaf(none, {}))


def compile_branch(
    stages: Sequence[Entry],
    none: Entry,
    chat: Chat,
    options: Callable[[Entry], Mapping[str, Any]],
) -> Branch:
    """The tree of one chain of stages for ``chat``.

    A stage that would have to drop tools, parts or a response format is left out and named in
    ``skipped``. What then is ``none`` alone is no tree at all.
    """
    carried = _features(chat)
    kept: list[Entry] = []
    skipped: list[str] = []
    for entry in stages:
        missing = sorted(carried - entry.mark.handles)
        if missing:
            skipped.append(f"{entry.slug}: the request carries {_said(missing)}")
        else:
            kept.append(entry)
    label = "&".join(entry.slug for entry in kept) or none.slug
    if all(entry.slug == none.slug for entry in kept):
        return Branch(label=none.slug, node=None, skipped=tuple(skipped))
    node: Node | None = None
    for entry in reversed(kept):
        values = options(entry)
        if entry.mark.kind == "transform":
            node = Wrap(entry, values, node or Leaf(none, {}))
        else:
            leaf = Leaf(entry, values)
            node = leaf if node is None else Feed(leaf, node)
    return Branch(label=label, node=node, skipped=tuple(skipped))


def treats(entry: Entry, chat: Chat) -> bool:
    """Whether ``entry`` would drop nothing that ``chat`` carries."""
    return entry.mark.handles >= _features(chat)


def _features(chat: Chat) -> set[Feature]:
    features: set[Feature] = set()
    if chat.uses_tools:
        features.add("tools")
    if chat.has_parts:
        features.add("parts")
    if chat.formatted:
        features.add("formats")
    return features


def _said(features: Sequence[str]) -> str:
    words = {"tools": "tools", "parts": "images or files", "formats": "a response format"}
    return " and ".join(words[feature] for feature in features)
