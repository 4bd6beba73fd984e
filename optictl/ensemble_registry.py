"""The site's ensembles: a registry's rows, with the site's models where they leave them open.

A member whose model is ``@large`` is played by the base model that the site names under
``models: {large: …}``. A row that needs a model which the site does not name is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optictl.errors import UsageError
from optictl.key_places import staged
from optictl.places import Places
from optictl.site import Site
from proxy.ensembles import Ensemble, Member
from proxy.ensembles_file import load
from proxy.errors import ConfigError
from proxy.strict import did_you_mean

#: The set that comes with optictl (docs/ENSEMBLES.md).
SHIPPED = Path(__file__).parent / "ensembles.jsonl"
#: What a model's name begins with that the site is to give.
OPEN = "@"


@dataclass(frozen=True, slots=True)
class Row:
    """One ensemble: as the registry has it, and with the site's models."""

    declared: Ensemble
    #: None where it cannot be had on this site.
    bound: Ensemble | None
    #: Why not, and what to do.
    why: str = ""


def registry_of(site: Site, places: Places, root: Path = Path("/")) -> tuple[Row, ...]:
    """All rows of the registry that the site names, else of the one that comes with optictl.

    In the staging tree ``root`` a registry that is there comes before this machine's. Raises
    `ConfigError` with everything that is wrong in the registry, a ``FILE:LINE: …`` each.
    """
    path = SHIPPED if site.ensembles is None else staged(site.ensembles, root)
    if site.ensembles == str(places.ensembles):
        raise ConfigError(
            f"ensembles: {path} is where optictl writes what the service reads; "
            "keep the registry in another file"
        )
    if not path.exists():
        raise ConfigError(
            f"ensembles: {path} does not exist; write it, or take the setting out of the site"
        )
    single = site.policy.single
    declared = load(path, single=single)
    for name, model in site.models.items():
        if model in declared or model.startswith(OPEN):
            raise ConfigError(f"models.{name}: {model} is no base model; name one of LiteLLM's")
    return tuple(_row(each, site.models, single) for each in declared.values())


def rendered(site: Site, places: Places, root: Path = Path("/")) -> str:
    """The rows that can be had on this site, as the service reads them; '' where there are none.

    Raises as `registry_of` does.
    """
    return dumps(row.bound for row in registry_of(site, places, root) if row.bound is not None)


def wanted(rows: tuple[Row, ...], name: str) -> Ensemble:
    """The ensemble ``name``. Raises `UsageError` where there is none, or it cannot be had here."""
    found = row_of(rows, name)
    if found.bound is None:
        raise UsageError(f"{name}: {found.why}")
    return found.bound


def row_of(rows: tuple[Row, ...], name: str) -> Row:
    """Its row. Raises `UsageError` where there is none."""
    for row in rows:
        if row.declared.name == name:
            return row
    known = [row.declared.name for row in rows]
    hint = did_you_mean(name, known) or f"; there are: {', '.join(known) or 'none'}"
    raise UsageError(f"there is no ensemble '{name}'{hint}")


def dumps(ensembles: Iterable[Ensemble]) -> str:
    """A registry's text: a JSON object a line, without what is left at its default."""
    return "".join(json.dumps(as_row(each), ensure_ascii=False) + "\n" for each in ensembles)


def as_row(ensemble: Ensemble) -> dict[str, Any]:
    """An ensemble as the JSON object of its line."""
    budget = {name: value for name, value in asdict(ensemble.limits).items() if value is not None}
    return {
        "ensemble": ensemble.name,
        "approach": ensemble.approach,
        "members": list(map(_as_member, ensemble.team.members)),
        "min_successful": ensemble.team.min_successful,
        **_said(params=dict(ensemble.params), budget=budget),
        **_said(purpose=ensemble.purpose, notes=ensemble.notes),
    }


def _as_member(member: Member) -> dict[str, Any]:
    weight = {} if member.weight == 1.0 else {"weight": member.weight}
    return {"model": member.model, "role": member.role} | weight | _said(params=member.params)


def _said(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _row(declared: Ensemble, models: Mapping[str, str], single: bool) -> Row:
    opened = {
        member.model: models.get(member.model.removeprefix(OPEN))
        for member in declared.team.members
        if member.model.startswith(OPEN)
    }
    unbound = [f"models.{name.removeprefix(OPEN)}" for name in opened if opened[name] is None]
    if unbound:
        why = f"the site names no {' and no '.join(unbound)}; add it to optictl.yaml"
        return Row(declared, None, why)
    members = tuple(
        replace(member, model=opened.get(member.model) or member.model)
        for member in declared.team.members
    )
    bound = replace(declared, team=replace(declared.team, members=members))
    if not (bound.team.mixed or single):
        names = " and ".join(f"models.{name.removeprefix(OPEN)}" for name in opened)
        why = f"{names} are the same model, {members[0].model}; an ensemble is of two or more"
        return Row(declared, None, why)
    return Row(declared, bound)
