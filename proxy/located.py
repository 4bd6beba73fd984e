"""YAML of which every value knows its place, so that what is wrong can be pointed at.

YAML 1.1 as PyYAML reads it, with three differences that suit a file of settings: a key is the text
that was written, a date is text too, and no key may stand twice in a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from proxy.errors import ConfigError

#: Keys and list positions that lead to a value from the top of a document.
Where = tuple[str | int, ...]

#: How deep a document may be nested, and how many values it may have with aliases written out.
_DEEPEST = 64
_MOST = 100_000

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_TAGGED = "a tag (!…) has no meaning here; remove it"
#: What a scalar can be besides text.
_VALUES = frozenset(_TAG + kind for kind in ("null", "bool", "int", "float"))
_TEXT = frozenset(_TAG + kind for kind in ("str", "timestamp", "value", "merge"))
#: Names in PyYAML's messages come from the file, where a secret without quotes may look like one.
_NAMED = re.compile(r"(alias|anchor|handle) (?:'[^']*'|\"[^\"]*\")")


class Place(NamedTuple):
    """Where something begins in its file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping in plain values, and the places of all that is in it."""

    value: dict[str, Any]
    _values: dict[Where, Place]
    _keys: dict[Where, Place]

    def place(self, where: Where) -> Place:
        """Where the value at ``where`` begins; if there is none, the value it would be in."""
        while where not in self._values:
            where = where[:-1]
        return self._values[where]

    def key(self, where: Where) -> Place:
        """Where the key of ``where`` begins; if there is none, the value it would be in."""
        return self._keys.get(where) or self.place(where)


def parse(text: str, file: Path) -> Document:
    """The one mapping that ``text`` is; raises `ConfigError` as ``FILE:LINE:COL: …``."""
    try:
        return _document(_Loader(text))
    except yaml.MarkedYAMLError as error:
        place = _at(error.problem_mark)
        said = _said(error)
    except yaml.reader.ReaderError as error:
        # What has been read is one string here, so the position counts from its beginning.
        before = text[: error.position]
        place = Place(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        said = f"not YAML: character #x{ord(text[error.position]):04x} is not allowed; remove it"
    except _Unusable as error:
        place, said = error.place, str(error)
    raise ConfigError(f"{file}:{place.line}:{place.column}: {said}")


def scalar(text: str) -> str | int | float | bool | None:
    """What ``text`` would be if it stood in a document without quotes."""
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    try:
        value: str | int | float | bool | None = _plain(loader, yaml.ScalarNode(tag, text))
    except ValueError:
        return text
    return value


class _Unusable(Exception):
    """YAML, but not for a file of settings."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


class _Loader(yaml.SafeLoader):
    """Refuses what is nested so deeply that Python's stack would not hold it."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth >= _DEEPEST:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Unusable(_place(event), "nested too deeply")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _document(loader: yaml.SafeLoader) -> Document:
    node = loader.get_single_node()
    if node is None:
        raise _Unusable(Place(1, 1), "the file is empty; it must name at least one provider")
    if not isinstance(node, yaml.MappingNode):
        raise _Unusable(_place(node), "the file must be a mapping; begin it with 'providers:'")
    reading = _Reading(loader)
    return Document(reading.value(node, ()), reading.values, reading.keys)


@dataclass(slots=True)
class _Reading:
    """One pass over the nodes of a document."""

    loader: yaml.SafeLoader
    values: dict[Where, Place] = field(default_factory=dict)
    keys: dict[Where, Place] = field(default_factory=dict)
    left: int = _MOST
    #: The mappings and lists around the node that is being read.
    around: list[yaml.Node] = field(default_factory=list)

    def value(self, node: yaml.Node, where: Where) -> Any:
        self.values[where] = _place(node)
        if isinstance(node, yaml.ScalarNode):
            self._count(node, 1)
            return self._scalar(node)
        self._enter(node)
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = {}
            for name, (key, child) in self._entries(node).items():
                self.keys[*where, name] = _place(key)
                value[name] = self.value(child, (*where, name))
        else:
            value = [self.value(child, (*where, i)) for i, child in enumerate(node.value)]
        self.around.pop()
        return value

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag not in _VALUES | _TEXT:
            raise _Unusable(_place(node), _TAGGED)
        try:
            return _plain(self.loader, node)
        except ValueError:
            kind = node.tag.removeprefix(_TAG)
            raise _Unusable(
                _place(node), f"cannot be read as {kind}; if it is text, put it in quotes"
            ) from None

    def _entries(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Keys with their values: those that are written here before those that are merged."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Unusable(_place(key), "a key must be text, not a list or a mapping")
            if key.value in own:
                first = _place(own[key.value][0])
                raise _Unusable(
                    _place(key),
                    f"key {key.value!r} stands twice, first in line {first.line}; remove one",
                )
            own[key.value] = key, child
            if key.tag == _MERGE:
                for source in _sources(child):
                    self._enter(source)
                    for name, entry in self._entries(source).items():
                        merged.setdefault(name, entry)
                    self.around.pop()
        return merged | {name: entry for name, entry in own.items() if entry[0].tag != _MERGE}

    def _enter(self, node: yaml.Node) -> None:
        self._count(node, 1 + len(node.value))
        if any(node is outer for outer in self.around):
            raise _Unusable(
                _place(node), "an alias leads back into what it names; write it out instead"
            )
        if len(self.around) >= _DEEPEST:
            raise _Unusable(_place(node), "nested too deeply")
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            raise _Unusable(_place(node), _TAGGED)
        self.around.append(node)

    def _count(self, node: yaml.Node, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise _Unusable(
                _place(node), f"with its aliases written out the file has over {_MOST} values"
            )


def _sources(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(source, yaml.MappingNode):
            raise _Unusable(
                _place(source), "'<<' merges a mapping or a list of mappings, nothing else"
            )
        yield source


def _plain(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    """The value of a scalar; raises `ValueError` where it is not what its tag says."""
    if node.tag not in _VALUES:
        return node.value
    try:
        return loader.construct_object(node)
    except LookupError:
        raise ValueError from None


def _place(node: yaml.Node | yaml.Event) -> Place:
    return _at(node.start_mark)


def _at(mark: yaml.error.Mark | yaml._yaml.Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _said(error: yaml.MarkedYAMLError) -> str:
    said = error.problem or ""
    if error.context is not None:
        mark = error.context_mark
        since = f" (from line {mark.line + 1})" if mark else ""
        said = f"{error.context}{since}, {said}"
    said = _NAMED.sub(r"\1", said)
    return f"not YAML: {said}; check indentation, quotes and colons"
