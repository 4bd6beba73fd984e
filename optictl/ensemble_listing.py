"""The site's ensembles as rows for people: who is in them, what they cost, whether they are there.

Reads the registry, the service's file, LiteLLM's files and our own records; asks nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from optictl.ensemble_cost import Cost, cost
from optictl.ensemble_registry import Row, registry_of, row_of
from optictl.errors import CannotRead
from optictl.gateway import Graph, Node
from optictl.gateway_site import site_graph
from optictl.machine import Machine
from optictl.tried import Attempt, last_tries
from proxy.ensembles import Ensemble
from proxy.ensembles_file import loads
from proxy.errors import BadRequest, ConfigError
from proxy.registry import Registry, discover

#: ``declared``: the registry has it; ``installed``: the service's file has the same, and LiteLLM
#: its handle; ``warm``: its members and its handle have answered since; ``broken``: they have not,
#: or cannot.
State = Literal["declared", "installed", "warm", "broken"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One ensemble, with the site's models where it knows them."""

    ensemble: Ensemble
    #: None where the proxy would refuse it.
    cost: Cost | None
    state: State
    #: Why it is in no better state, and what to do; of a warm one when it was tried.
    why: str
    #: When it was last tried, and what came of that.
    attempt: Attempt | None = None

    @property
    def name(self) -> str:
        return self.ensemble.name

    @property
    def tier(self) -> str:
        """xl, l, m or s."""
        return self.name.rpartition("-")[2]

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The models by their roles."""
        found: dict[str, tuple[str, ...]] = {}
        for member in self.ensemble.team.members:
            found[member.role] = (*found.get(member.role, ()), member.model)
        return found

    @property
    def budget(self) -> Mapping[str, float]:
        """The limits that it has."""
        limits = asdict(self.ensemble.limits)
        return {name: value for name, value in limits.items() if value is not None}

    def as_json(self) -> dict[str, Any]:
        team = self.ensemble.team
        return {
            "name": self.name,
            "approach": self.ensemble.approach,
            "tier": self.tier,
            "members": [asdict(member) for member in team.members],
            "min_successful": team.min_successful,
            "params": dict(self.ensemble.params),
            "budget": self.budget,
            **(asdict(self.cost) if self.cost else {"calls": None, "rounds": None, "stages": []}),
            "purpose": self.ensemble.purpose,
            "notes": self.ensemble.notes,
            "state": self.state,
            "why": self.why,
            "tried": None if self.attempt is None else self.attempt.as_json(),
        }


def listed(machine: Machine, name: str | None = None) -> list[Listed]:
    """Every ensemble of the registry, or the one of that name.

    Raises `ConfigError` for a registry with a mistake, `UsageError` for a name that is not in it.
    """
    registry = discover()
    rows = registry_of(machine.site, machine.places)
    if name is not None:
        rows = (row_of(rows, name),)
    standing = _Standing.of(machine)
    return [_listed(row, registry, standing) for row in rows]


def _listed(row: Row, registry: Registry, standing: _Standing) -> Listed:
    ensemble = row.bound or row.declared
    taken, refused = None, ""
    try:
        taken = cost(ensemble, registry)
    except BadRequest as error:
        refused = error.message
    if row.why:
        return Listed(ensemble, taken, "declared", row.why)
    attempt = standing.attempt_of(ensemble)
    state, why = standing.state_of(ensemble, attempt)
    return Listed(ensemble, taken, state, why or refused, attempt)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the files of a machine say about its ensembles."""

    #: The service's, what it has, and why it has none.
    path: Path
    rows: Mapping[str, Ensemble]
    trouble: str
    #: The handles that LiteLLM has of us, and where names lead; None where the site does not name
    #: its files, or they are not for this user.
    handles: Collection[str] | None
    graph: Graph | None
    #: What is wrong with these files, if anything.
    wrong: str
    tries: Mapping[str, Attempt]

    @classmethod
    def of(cls, machine: Machine) -> _Standing:
        rows, trouble = _installed(machine)
        handles, graph, wrong = None, None, ""
        gateway = machine.site.gateway
        try:
            # One by one: our own variables are for root alone, LiteLLM's models need not be.
            with suppress(CannotRead):
                graph = site_graph(machine)
            with suppress(CannotRead):
                handles = machine.handles if gateway and gateway.router else None
        except ConfigError as error:
            wrong = _first_line(error)
        tries = last_tries(machine.system, machine.records)
        return cls(machine.places.ensembles, rows, trouble, handles, graph, wrong, tries)

    def attempt_of(self, ensemble: Ensemble) -> Attempt | None:
        attempt = self.tries.get(ensemble.name)
        return attempt if attempt is not None and attempt.is_of(ensemble) else None

    def state_of(self, ensemble: Ensemble, attempt: Attempt | None) -> tuple[State, str]:
        """Its state, and why it is no other, as in `Listed`."""
        why_not = self._why_not_installed(ensemble)
        if why_not:
            return "declared", why_not
        broken = self.wrong or "; ".join(dict.fromkeys(self._astray(ensemble)))
        if broken:
            return "broken", broken
        if attempt is None:
            return "installed", ""
        when = f"tried at {attempt.at}"
        if attempt.tried is None:
            return "broken", f"{when}: {attempt.failed}"
        if not attempt.tried.members:
            return "installed", f"{when}, its members were not asked"
        without = [f"{model} ({said})" for model, said in attempt.tried.missing.items()]
        return "warm", f"{when} without {', '.join(without)}" if without else when

    def _why_not_installed(self, ensemble: Ensemble) -> str:
        if self.rows.get(ensemble.name) != ensemble:
            there = "has it otherwise" if ensemble.name in self.rows else "does not have it"
            return self.trouble or f"{self.path} {there}; run optictl install"
        if self.handles is not None and ensemble.name not in self.handles:
            return f"not in LiteLLM; run optictl ensemble {ensemble.name}"
        return ""

    def _astray(self, ensemble: Ensemble) -> Iterator[str]:
        """Members that LiteLLM has no entry for, or leads back to us."""
        graph = self.graph
        if graph is None:
            return
        # Those of its database stand in no file.
        filed = graph.config.section("general_settings").get("store_model_in_db") is not True
        for edge in graph.edges(Node("proxy", ensemble.name)):
            at = edge.at if edge.to.where == "proxy" else _comes_back(graph, edge.to)
            if at:
                yield f"{edge.to.name} leads back to the proxy ({at})"
            elif filed and not graph.config.resolve(edge.to.name):
                yield f"LiteLLM has no entry for {edge.to.name}"


def _installed(machine: Machine) -> tuple[Mapping[str, Ensemble], str]:
    """What the service's file has; with none, why."""
    path = machine.places.ensembles
    found = machine.system.read(machine.places.on_disk(path))
    if found is None:
        return {}, f"{path} does not exist; run optictl install"
    try:
        return loads(found.content.decode(errors="replace"), path, single=True), ""
    except ConfigError as error:
        return {}, _first_line(error)


def _first_line(error: ConfigError) -> str:
    return str(error).partition("\n")[0]


def _comes_back(graph: Graph, start: Node) -> str:
    """What leads from a name of LiteLLM's to the proxy; '' where nothing does."""
    pending, seen = [start], {start}
    for node in pending:
        for edge in graph.edges(node):
            if edge.to.where == "proxy":
                return edge.at
            # A pattern may make a name longer at each turn.
            if edge.to not in seen and len(seen) <= len(graph.config.entries):
                seen.add(edge.to)
                pending.append(edge.to)
    return ""
