"""The site's ensembles as rows for people: who is in them, what they cost, whether they are there.

Reads the registry and the installed file; asks nothing of the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from optictl.ensemble_cost import Cost, cost
from optictl.ensemble_registry import Row, registry_of, row_of
from optictl.machine import Machine
from proxy.ensembles import Ensemble
from proxy.ensembles_file import loads
from proxy.errors import BadRequest, ConfigError
from proxy.registry import Registry, discover

#: ``declared``: the registry has it; ``installed``: the service's file has the same.
State = Literal["declared", "installed"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One ensemble, with the site's models where it knows them."""

    ensemble: Ensemble
    #: None where the proxy would refuse it.
    cost: Cost | None
    state: State
    #: Why it is not installed, or why the proxy would refuse it, and what to do.
    why: str

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
        }


def listed(machine: Machine, name: str | None = None) -> list[Listed]:
    """Every ensemble of the registry, or the one of that name.

    Raises `ConfigError` for a registry with a mistake, `UsageError` for a name that is not in it.
    """
    registry = discover()
    rows = registry_of(machine.site, machine.places)
    if name is not None:
        rows = (row_of(rows, name),)
    installed = _Installed.of(machine)
    return [_listed(row, registry, installed) for row in rows]


@dataclass(frozen=True, slots=True)
class _Installed:
    """What the service's file has."""

    path: Path
    rows: Mapping[str, Ensemble]
    #: Why it has none.
    trouble: str = ""

    @classmethod
    def of(cls, machine: Machine) -> _Installed:
        path = machine.places.ensembles
        found = machine.system.read(machine.places.on_disk(path))
        if found is None:
            return cls(path, {}, f"{path} does not exist; run optictl install")
        try:
            return cls(path, loads(found.content.decode(errors="replace"), path, single=True))
        except ConfigError as error:
            return cls(path, {}, str(error).partition("\n")[0])

    def why_not(self, ensemble: Ensemble) -> str:
        """Why that ensemble is not among them, and what to do; '' where it is."""
        if self.rows.get(ensemble.name) == ensemble:
            return ""
        there = "has it otherwise" if ensemble.name in self.rows else "does not have it"
        return self.trouble or f"{self.path} {there}; run optictl install"


def _listed(row: Row, registry: Registry, installed: _Installed) -> Listed:
    ensemble = row.bound or row.declared
    taken, refused = None, ""
    try:
        taken = cost(ensemble, registry)
    except BadRequest as error:
        refused = error.message
    why = row.why or installed.why_not(ensemble)
    return Listed(ensemble, taken, "declared" if why else "installed", why or refused)
