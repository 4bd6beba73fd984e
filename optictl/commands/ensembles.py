"""``optictl ensembles``: the names that several models answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from optictl import completions
from optictl.console import emit_json, show
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from optictl.ensemble_cost import Cost
    from optictl.ensemble_listing import Listed


def ensembles(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="One of them, in full.", autocompletion=completions.ensembles
        ),
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """List the ensembles, or describe one: its models in their roles, its calls and rounds.

    They are those of the registry that the site names, else those that come
    with optictl; the site says under models which model is the large one.
    What is installed is in the service's file as in the registry, and LiteLLM
    has its handle. It is warm where optictl ensemble has last seen it answer,
    and broken where that failed, or LiteLLM leads a member nowhere or back.

    \b
    Examples:
      optictl ensembles
      optictl ensembles opt-code-balanced-l
      optictl ensembles --json | jq -r '.data[] | select(.state == "installed").name'
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.ensemble_listing import listed

    found = listed(open_machine(config, sets, user=user), name)
    if as_json:
        rows = [each.as_json() for each in found]
        emit_json(Result("ensembles", rows if name is None else rows[0]))
    elif name is None:
        show(_listing(found))
    else:
        show(*page(found[0]))


def _listing(found: Iterable[Listed]) -> Table:
    table = _table("NAME", "APPROACH", "TIER", "MEMBERS", "CALLS", "ROUNDS", "STATE", "WHY")
    for each in found:
        members = "; ".join(f"{role} {', '.join(models)}" for role, models in each.members.items())
        table.add_row(
            each.name, each.ensemble.approach, each.tier, members, *_cost(each.cost), each.state,
            each.why,
        )  # fmt: skip
    return table


def page(one: Listed) -> Iterator[RenderableType]:
    """One ensemble in full."""
    from rich.table import Table
    from rich.text import Text

    ensemble = one.ensemble
    yield Text(one.name, style="bold").append(f": {ensemble.purpose}", style="not bold")
    yield ""
    facts = Table.grid(padding=(0, 3))
    facts.add_column(style="dim", no_wrap=True)
    calls, rounds = _cost(one.cost)
    proposers = len(ensemble.team.members_for("proposer"))
    facts.add_row("approach", ensemble.approach)
    facts.add_row("tier", one.tier)
    facts.add_row("calls", calls)
    facts.add_row("rounds", rounds)
    facts.add_row("answers from", f"{ensemble.team.min_successful} of {proposers} proposers on")
    for name, value in one.budget.items():
        facts.add_row(name.replace("_", " "), f"{value:g}")
    for name, value in ensemble.params.items():
        facts.add_row(name, str(value))
    facts.add_row("state", f"{one.state}: {one.why}" if one.why else one.state)
    yield facts
    yield ""
    yield _stages(one.cost)
    if ensemble.notes:
        yield ""
        yield ensemble.notes


def _stages(cost: Cost | None) -> Table:
    table = _table("STAGE", "ROLE", "MODELS", "CALLS", "ROUNDS")
    for stage in cost.stages if cost is not None else ():
        told = (stage.slug, str(stage.calls), str(stage.rounds))
        for part in stage.parts:
            slug, calls, rounds = told
            table.add_row(slug, part.role, ", ".join(part.models), calls, rounds)
            told = ("", "", "")
        if not stage.parts:
            slug, calls, rounds = told
            table.add_row(slug, "", "", calls, rounds)
    return table


def _cost(cost: Cost | None) -> tuple[str, str]:
    return ("–", "–") if cost is None else (str(cost.calls), str(cost.rounds))


def _table(*columns: str) -> Table:
    # Imported here: `--json` and every other command's help draw no table.
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, no_wrap=name in ("NAME", "APPROACH", "STAGE", "ROLE"))
    return table
