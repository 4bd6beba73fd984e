"""LiteLLM's configuration as it counts: included files joined, variables put in, lines known.

It is read as LiteLLM 1.106 reads it, which takes what our own files may not say: tags of plain
YAML, a key that stands twice (the last counts), whatever is unknown. Paths may be to files that are
not written yet; nothing is looked up but by ``read``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from optictl.unit_file import environment_file
from proxy.errors import ConfigError
from proxy.located import parse

#: What a value begins with that stands in a variable.
REFERENCE = "os.environ/"
#: The content of a file, or None where there is none.
Read = Callable[[Path], bytes | None]

_EXPORT = re.compile(rb"^[ \t]*export[ \t]+", re.MULTILINE)
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


class Mapped(dict[Any, Any]):
    """A mapping that knows its file, its line, and those of its keys."""

    def __init__(self, file: Path, node: yaml.MappingNode) -> None:
        super().__init__()
        self._file = file
        self._node = node

    def at(self, key: object = None) -> str:
        """``FILE:LINE`` of a key, or of the mapping's beginning."""
        lines = [each.start_mark.line for each, _ in self._node.value if each.value == key]
        return f"{self._file}:{(lines or [self._node.start_mark.line])[-1] + 1}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A deployment: one entry of ``model_list``."""

    #: The name that clients call, or a pattern with ``*``.
    name: str
    #: What is asked for there, without the provider's name; '' where its variable is not set.
    model: str
    #: Where it is asked; '' for the provider's own address.
    api_base: str = field(repr=False)
    #: ``FILE:LINE``, of the entry and of what says where it leads.
    origin: str
    leads_at: str


@dataclass(frozen=True)
class Config:
    """All files of one LiteLLM, as one."""

    #: The files' mappings, in the order in which they are joined.
    documents: tuple[Mapped, ...]
    variables: Mapping[str, str] = field(repr=False)

    def section(self, name: str) -> Mapping[Any, Any]:
        """The mapping called so of the last file that has one: LiteLLM joins lists alone."""
        found = [each[name] for each in self.documents if isinstance(each.get(name), Mapped)]
        return found[-1] if found else {}

    def listed(self) -> Iterator[tuple[Mapped, Mapped]]:
        """Each entry of ``model_list`` that is one, with its ``litellm_params``."""
        for document in self.documents:
            entries = document.get("model_list")
            for entry in entries if isinstance(entries, list) else []:
                params = entry.get("litellm_params") if isinstance(entry, Mapped) else None
                if isinstance(params, Mapped) and isinstance(entry.get("model_name"), str):
                    yield entry, params

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entry(entry, params) for entry, params in self.listed())

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Names that stand for others (``model_group_alias``)."""
        found = self.section("router_settings").get("model_group_alias")
        named = found.items() if isinstance(found, dict) else ()
        meant = {n: t.get("model") if isinstance(t, dict) else t for n, t in named}
        return {name: target for name, target in meant.items() if isinstance(target, str)}

    @cached_property
    def fallbacks(self) -> Mapping[str, tuple[str, ...]]:
        """Who is asked next where a call of a name fails; ``*``: of any name."""
        found: dict[str, tuple[str, ...]] = {}
        for section in ("litellm_settings", "router_settings"):
            for kind in _FALLBACKS:
                rows = self.section(section).get(kind)
                for row in rows if isinstance(rows, list) else []:
                    for name, targets in row.items() if isinstance(row, dict) else ():
                        found[name] = found.get(name, ()) + _texts(targets)
            found["*"] = found.get("*", ()) + _texts(self.section(section).get("default_fallbacks"))
        return found

    def resolved(self, value: Any) -> Any:
        """A value, or what its variable holds; '' where that is not set."""
        if isinstance(value, str) and value.startswith(REFERENCE):
            return self.variables.get(value.removeprefix(REFERENCE), "")
        return value

    def references(self) -> Iterator[tuple[str, str]]:
        """Every variable that a value names, and ``FILE:LINE`` of the value's key."""
        seen: set[int] = set()
        for document in self.documents:
            yield from _references(document, seen)

    def resolve(self, name: str) -> tuple[tuple[Entry, str], ...]:
        """The entries that may answer ``name``, each with the model that it asks for.

        An alias comes first, then entries of exactly this name, then the longest pattern that fits.
        A pattern is resolved under its own name, with the stars left in.
        """
        name = self.aliases.get(name, name)
        exact = [(entry, entry.model) for entry in self.entries if entry.name == name]
        if exact:
            return tuple(exact)
        patterns = {_regex(entry.name): entry.name for entry in self.entries if "*" in entry.name}
        # LiteLLM's order; and it does not ask that a pattern fits to the end.
        for regex in sorted(patterns, key=lambda each: (len(each), each.count("*")), reverse=True):
            fitting = re.match(regex, name)
            if fitting is not None:
                pattern = patterns[regex]
                return tuple(
                    (entry, _filled(entry.model, fitting))
                    for entry in self.entries
                    if entry.name == pattern
                )
        return ()

    def _entry(self, entry: Mapped, params: Mapped) -> Entry:
        model = _text(self.resolved(params.get("model")))
        provider = _text(self.resolved(params.get("custom_llm_provider")))
        before, slash, behind = model.partition("/")
        # Without a provider of its own the part before the first slash is one.
        cut = slash and (not provider or before == provider)
        base, leads_at = "", params.at("model")
        for key in ("api_base", "base_url"):
            if not base and (base := _text(self.resolved(params.get(key)))):
                leads_at = params.at(key)
        if not base and (provider or before) == "openai":
            named = map(self.variables.get, ("OPENAI_BASE_URL", "OPENAI_API_BASE"))
            base = next(filter(None, named), "")
        return Entry(
            name=entry["model_name"],
            model=behind if cut else model,
            api_base=base,
            origin=entry.at("model_name"),
            leads_at=leads_at,
        )


def read_config(path: Path, read: Read, variables: Mapping[str, str]) -> Config:
    """LiteLLM's configuration at ``path`` with all that it includes.

    ``variables`` are those that LiteLLM is started with: what the files set themselves, under
    ``environment_variables``, is set too late for them. Raises `ConfigError` for a file that is not
    there or that LiteLLM cannot read.
    """
    documents: list[Mapped] = []
    pending, seen = [(path, "")], {path}
    for file, named_at in pending:
        content = read(file)
        if content is None:
            raise ConfigError(f"{named_at}{file} does not exist; write it, or name another")
        documents.append(_document(content, file))
        for below in _included(documents[-1], file, path, read):
            if below not in seen:
                seen.add(below)
                pending.append((below, f"{documents[-1].at('include')}: "))
    return Config(tuple(documents), variables)


def variables_in(content: bytes) -> dict[str, str]:
    """A file of variables as systemd reads it, and as a shell does that is to export them."""
    return environment_file(_EXPORT.sub(b"", content))


class _Loader(yaml.SafeLoader):
    def __init__(self, content: bytes, file: Path) -> None:
        super().__init__(content)
        self.file = file


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[Mapped]:
    mapping = Mapped(loader.file, node)
    yield mapping
    mapping.update(loader.construct_mapping(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _document(content: bytes, file: Path) -> Mapped:
    loader = _Loader(content, file)
    try:
        found = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        # It says where, and nothing that stands there.
        parse(content.decode(errors="replace"), file)
        raise ConfigError(f"{file}: not YAML that LiteLLM can read") from None
    if not isinstance(found, Mapped):
        raise ConfigError(f"{file}:1: must be a mapping; begin it with 'model_list:'")
    return found


def _included(document: Mapped, file: Path, root: Path, read: Read) -> Iterator[Path]:
    """The files that ``file`` names, which stand beside it or else beside the ``root``."""
    for name in _texts(document.get("include")):
        beside, beside_root = (Path(os.path.normpath(each.parent / name)) for each in (file, root))
        missing = read(beside) is None and read(beside_root) is not None
        yield beside_root if missing else beside


def _references(mapping: Mapped, seen: set[int]) -> Iterator[tuple[str, str]]:
    # What an alias leads to is written once, and may lead back.
    if id(mapping) in seen:
        return
    seen.add(id(mapping))
    for key, value in mapping.items():
        if isinstance(value, str) and value.startswith(REFERENCE):
            yield value.removeprefix(REFERENCE), mapping.at(key)
        # A text in a list is what it says to LiteLLM too.
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapped):
                yield from _references(each, seen)


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", "(.*)")


def _filled(model: str, fitting: re.Match[str]) -> str:
    """``model`` with its stars replaced, one after the other, by what those of the name meant."""
    if "*" in model and len(fitting.groups()) > model.count("*"):
        return fitting.string
    for segment in fitting.groups():
        model = model.replace("*", segment, 1)
    return model


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
