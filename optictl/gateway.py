"""Which name leads where: LiteLLM's entries and our own names as one graph, and what loops in it.

    client ──> LiteLLM (handle) ──> proxy (selector) ──> LiteLLM (base model) ──> backend

What the proxy calls may not come to the proxy again: it refuses a request that has been there
before (`proxy.hops`), and where nobody did, it would never end. Pure: what is on disk, or is to be
written there, comes from `optictl.gateway_site`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from optictl.gateway_config import Config, Entry
from optictl.gateway_mistakes import Mistake
from optictl.own_host import Host
from proxy.approach import Entry as Approach
from proxy.ensembles import Ensemble, handle_key
from proxy.errors import BadRequest, ConfigError
from proxy.registry import Registry, discover
from proxy.selector import select
from proxy.strict import did_you_mean
from proxy.upstream.config import ProviderConfig


@dataclass(frozen=True, slots=True)
class Node:
    """A name at LiteLLM, or at the proxy."""

    where: Literal["gateway", "proxy"]
    name: str

    def __str__(self) -> str:
        return self.name if self.where == "gateway" else f"optillm-proxy ({self.name})"


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a name leads next."""

    to: Node
    #: What says so: ``FILE:LINE``, or a setting of ours.
    at: str


@dataclass(frozen=True, slots=True)
class Ours:
    """The proxy, as far as names go."""

    port: int
    base_model: str
    approach: str
    #: Whom it calls, and whom for a selector that names ``proxy``, or where that is the default.
    upstream: ProviderConfig
    pool: Sequence[ProviderConfig] = ()
    ensembles: Mapping[str, Ensemble] = field(default_factory=dict)
    #: What a handle stands for, by its `handle_key`.
    aliases: Mapping[str, str] = field(default_factory=dict)


class _Names(Registry):
    """Reads names alone: an approach that is not built yet calls the same base model."""

    def checked(self, slug: str, param: str = "model") -> Approach:
        return next(iter(self)) if slug in self.reserved else super().checked(slug, param)


#: From a call to its return: the names between, and the edge that comes back.
_Way = tuple[tuple[Node, ...], Edge]


@dataclass(frozen=True)
class Graph:
    """Names and where they lead. ``url`` is LiteLLM's."""

    config: Config
    ours: Ours
    url: str
    host: Host

    def loops(self) -> Iterator[Mistake]:
        """What comes back to the proxy, once for each line of LiteLLM's that leads there."""
        returns: dict[Node, tuple[_Way, ...]] = {}
        pending = list(self._entrances)
        for node in pending:
            if node not in returns:
                returns[node] = tuple(self._returns(node))
                # One that a pattern makes longer at each turn would never come to an end.
                targets = (edge.to for _, edge in returns[node])
                pending += [each for each in targets if len(each.name) <= len(node.name)]
        found: dict[tuple[str, Node], list[_Way]] = {}
        for ways in returns.values():
            for nodes, edge in ways:
                found.setdefault((edge.at, nodes[-1]), []).append((nodes, edge))
        for (at, culprit), ways_of in found.items():
            yield self._loop(at, culprit.name, ways_of, returns)

    def refuse_loops(self) -> None:
        """Raises `ConfigError` with every loop: for whoever is about to write such files."""
        found = list(self.loops())
        if found:
            raise ConfigError("\n".join(f"{each}; {each.fix}" for each in found))

    def missing(self, listed: Collection[str] = ()) -> Iterator[Mistake]:
        """Base models that the proxy would call and LiteLLM has no entry for.

        ``listed`` are names that LiteLLM has from elsewhere, such as its database.
        """
        for node, at in self._entrances.items():
            for edge in self.edges(node):
                name = edge.to.name
                # What a star stands for, nobody knows.
                if edge.to.where == "proxy" or "*" in name or name in listed:
                    continue
                if not self.config.resolve(name):
                    near = did_you_mean(name, {each.name for each in self.config.entries})
                    said = f"{node} calls {name}, and LiteLLM has no such entry{near}"
                    yield Mistake("missing", at, said, f"add {name} to LiteLLM, or mend {at}")

    def handles(self) -> Iterator[Entry]:
        """The entries of LiteLLM that lead to the proxy."""
        return (each for each in self.config.entries if self.is_ours(each.api_base))

    def is_ours(self, url: str) -> bool:
        """Whether a base URL is the proxy's, by whichever name of this machine."""
        return self.host.listens(url, self.ours.port)

    def edges(self, node: Node) -> Iterator[Edge]:
        """Where a name leads next; nowhere where that is a backend."""
        if node.where == "gateway":
            for entry, model in self.config.resolve(node.name):
                yield from self._edge(entry.api_base, model, entry.leads_at)
            for name in (*self.config.fallbacks.get(node.name, ()), *self.config.fallbacks["*"]):
                yield Edge(Node("gateway", name), f"the fallbacks of {node.name}")
            return
        calls, providers = self._calls(node.name)
        for model in calls:
            for each in providers:
                yield from self._edge(each.base_url, each.model(model), "upstream.base_url")

    def _edge(self, url: str, model: str, at: str) -> Iterator[Edge]:
        if model and self.is_ours(url):
            yield Edge(Node("proxy", model), at)
        elif model and self.host.same(url, self.url):
            yield Edge(Node("gateway", model), at)

    def _calls(self, name: str) -> tuple[Collection[str], Sequence[ProviderConfig]]:
        """The base models that a name of ours calls, and at whom."""
        ours = self.ours
        try:
            selector = select(
                ours.aliases.get(handle_key(name), name),
                self._registry,
                self._known,
                default_base=ours.base_model,
                default_approach=ours.approach,
            )
        except BadRequest:
            return (), ()
        ensemble = ours.ensembles.get(selector.base)
        members = ensemble.team.members if ensemble else ()
        # One call of a model is like the other.
        models = dict.fromkeys(each.model for each in members) if ensemble else (selector.base,)
        return models, (selector.pooled and ours.pool) or (ours.upstream,)

    @cached_property
    def _known(self) -> frozenset[str]:
        """What the proxy finds in the lists of its upstreams."""
        listed = [each.name for each in self.config.entries if "*" not in each.name]
        providers = (self.ours.upstream, *self.ours.pool)
        models = {name for each in providers for at in listed for name in each.names_of(at)}
        mapped = {name for each in providers for name in each.model_map if "*" not in name}
        return frozenset({*models, *mapped, *self.ours.ensembles})

    @cached_property
    def _registry(self) -> Registry:
        return _Names(discover())

    @cached_property
    def _entrances(self) -> Mapping[Node, str]:
        """Every name that the proxy may be asked for, and what says so."""
        found: dict[Node, str] = {}
        for entry in self.config.entries:
            for edge in self.edges(Node("gateway", entry.name)):
                if edge.to.where == "proxy":
                    found.setdefault(edge.to, edge.at)
        for name in self.ours.ensembles:
            found.setdefault(Node("proxy", name), f"the ensemble {name}")
        for key, selector in self.ours.aliases.items():
            found.setdefault(Node("proxy", selector), f"OPTILLM_{key}_MODEL")
        found.setdefault(Node("proxy", self.ours.base_model), "proxy.base_model")
        return found

    def _returns(self, start: Node) -> Iterator[_Way]:
        """Each way from a name of the proxy to the next one, none of them twice in a node."""
        seen, pending = {start}, [*self._onward((start,))]
        for nodes, edge in pending:
            if edge.to.where == "proxy":
                yield nodes, edge
            elif edge.to not in seen and len(nodes) <= len(self.config.entries):
                seen.add(edge.to)
                pending += self._onward((*nodes, edge.to))

    def _onward(self, nodes: tuple[Node, ...]) -> Iterator[_Way]:
        return ((nodes, edge) for edge in self.edges(nodes[-1]))

    def _loop(
        self, at: str, culprit: str, ways: Sequence[_Way], returns: Mapping[Node, Sequence[_Way]]
    ) -> Mistake:
        """What one line does wrong, by the shortest circle that it closes."""
        circles = sorted((found for way in ways if (found := _circle(way, returns))), key=len)
        nodes, edge = ways[0]
        shown = " → ".join(map(str, circles[0] if circles else (*nodes, edge.to)))
        said = f"{culprit} leads back to the proxy, which calls it: {shown}"
        said += " → …" if circles else ""
        asking = [way[0].name for way, _ in ways if way[0].name in self.ours.ensembles]
        if asking:
            said += f"; it is called for {', '.join(asking)}"
        return Mistake("loop", at, said, f"lead {culprit} to a backend at {at}")


def _circle(way: _Way, returns: Mapping[Node, Sequence[_Way]]) -> tuple[Node, ...]:
    """The names from LiteLLM's first in ``way`` to itself; none where it never closes."""
    nodes, edge = way
    seen, pending = {edge.to}, [(nodes, edge.to)]
    for before, at in pending:
        if at == nodes[0]:
            first = next((i for i, each in enumerate(before) if each.where == "gateway"), 0)
            return (*before[first:], *before[: first + 1])
        for more, following in returns.get(at, ()):
            if following.to not in seen:
                seen.add(following.to)
                pending.append(((*before, *more), following.to))
    return ()
