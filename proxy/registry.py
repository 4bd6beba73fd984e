"""Which approaches, transforms and tools exist: found by listing their folders."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from proxy.approach import Entry, entry_of
from proxy.errors import BadRequest, ConfigError
from proxy.pipeline import Leaf

#: Names that OptiLLM and its users know and that are not built yet: a model name that begins with
#: one is refused rather than sent upstream as a model.
RESERVED = frozenset({
    "cepo", "coc", "deep_research", "deepthink", "executecode", "genselect", "json", "leap",
    "longcepo", "majority_voting", "mars", "mcp", "mcts", "memory", "plansearch", "privacy", "pvg",
    "readurls", "router", "rstar", "rto", "spl", "web_search", "z3",
})  # fmt: skip
#: They choose the pool that serves a run and are no approach.
POOL_SLUGS = frozenset({"proxy"})


class Registry:
    """Entries by slug; immutable once built."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.slug in self._entries:
                raise ConfigError(f"approach '{entry.slug}' is defined twice")
            self._entries[entry.slug] = entry
        self.reserved = RESERVED - self._entries.keys()
        #: Longest first, so that a slug is never taken for a shorter one it begins with.
        self.slugs = tuple(
            sorted(self._entries.keys() | self.reserved | POOL_SLUGS, key=len, reverse=True)
        )

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.slug))

    def __contains__(self, slug: object) -> bool:
        return slug in self._entries

    def __getitem__(self, slug: str) -> Entry:
        return self._entries[slug]

    def known(self, slug: str) -> bool:
        """Whether ``slug`` may stand in a selector, built or not."""
        return slug in self._entries or slug in self.reserved or slug in POOL_SLUGS

    def checked(self, slug: str, param: str = "model") -> Entry:
        """The entry of ``slug``; raises `BadRequest` about ``param`` where there is none yet."""
        if slug in self._entries:
            return self._entries[slug]
        if slug in self.reserved:
            raise BadRequest(
                f"Approach '{slug}' is reserved but not built yet. Built: {self.listing()}.",
                code="approach_not_built",
                param=param,
            )
        near = difflib.get_close_matches(slug, self._entries, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise BadRequest(
            f"Unknown approach '{slug}'.{hint} Known: {self.listing()}.",
            code="unknown_approach",
            param=param,
        )

    def listing(self) -> str:
        return ", ".join(sorted(self._entries))

    def leaf(self, slug: str, options: Mapping[str, Any]) -> Leaf:
        """An approach by itself with ``options``, checked; raises `BadRequest`."""
        entry = self.checked(slug)
        return Leaf(entry, checked_options(entry, options))


def checked_options(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` under our names and in their types; raises `BadRequest` for anything else."""
    values = {}
    for name, value in given.items():
        option = entry.option(name)
        if option is None:
            accepted = ", ".join(sorted(entry.options)) or "none"
            raise BadRequest(
                f"Approach '{entry.slug}' has no option '{name}'. It has: {accepted}.",
                code="unknown_option",
                param=f"optillm_options.{name}",
            )
        values[option.name] = option.check(value, entry.slug)
    return values


def discover() -> Registry:
    """The approaches, transforms and tools that come with this package."""
    return Registry(entry for module in _modules() for entry in entries_of(module))


def slugs() -> frozenset[str]:
    """All that may stand in a pipeline, built or not, without importing any of it.

    A module is named like the approach in it. Whoever forks workers that are to load the code of
    the day asks here, and not `discover`.
    """
    return frozenset(name.rpartition(".")[2] for name in _module_names()) | RESERVED | POOL_SLUGS


def entries_of(module: ModuleType) -> Iterator[Entry]:
    """The marked functions that ``module`` itself defines."""
    functions: list[Callable[..., Any]] = [
        value
        for value in vars(module).values()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    for function in functions:
        entry = entry_of(function)
        if entry is not None:
            yield entry


def _modules() -> Iterator[ModuleType]:
    return map(importlib.import_module, _module_names())


def _module_names() -> Iterator[str]:
    for folder in ("approaches", "transforms", "tools"):
        package = importlib.import_module(f"proxy.{folder}")
        for info in pkgutil.iter_modules(package.__path__):
            yield f"{package.__name__}.{info.name}"
