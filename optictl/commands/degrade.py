"""``optictl degrade``: the switch by which every request is answered in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from optictl.console import data, emit_json, say
from optictl.errors import HandEdited
from optictl.options import (
    AsJson,
    ConfigPath,
    DryRun,
    Root,
    Sets,
    SystemdVersion,
    UserScope,
    Yes,
    open_machine,
)
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.machine import Machine

app = typer.Typer(help="Answer every request by none, in one call.", no_args_is_help=True)

_MEANING = {
    True: "on: every request is answered by none, in one call; to end it: optictl degrade off",
    False: "off: requests are answered by the approaches that they name",
}


@app.command()
def on(
    dry_run: DryRun = False,
    yes: Yes = False,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Answer every request by none, in one call, until: optictl degrade off.

    For hours at which the models have too much to do. Names and handles stay
    as they are; an ensemble is answered by its aggregator. The service is
    reloaded, and requests under way end as they began.

    \b
    Examples:
      sudo optictl degrade on
      optictl degrade on --dry-run
    """
    machine = open_machine(config, sets, user=user, root=root, systemd=systemd)
    _switch(machine, True, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def off(
    dry_run: DryRun = False,
    yes: Yes = False,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Answer requests by the approaches that they name again.

    \b
    Examples:
      sudo optictl degrade off
      sudo optictl degrade off --yes --json
    """
    machine = open_machine(config, sets, user=user, root=root, systemd=systemd)
    _switch(machine, False, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def status(
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    as_json: AsJson = False,
) -> None:
    """Say whether it is on.

    \b
    Examples:
      optictl degrade status
      optictl degrade status --json | jq .data.degraded
    """
    degraded = open_machine(config, user=user, root=root).degraded
    if as_json:
        emit_json(Result("degrade status", {"degraded": degraded}))
    else:
        data(_MEANING[degraded])


def _switch(machine: Machine, degraded: bool, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import installing
    from optictl.lifecycle import require_root

    if not dry_run:
        require_root(machine)
    if not degraded:
        _refuse_foreign(machine)

    def told() -> Mapping[str, Any]:
        say(_MEANING[degraded])
        return {"degraded": degraded}

    installing.run(
        f"degrade {'on' if degraded else 'off'}",
        machine.degraded_as(degraded),
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        then=told,
    )


def _refuse_foreign(machine: Machine) -> None:
    """Raise `HandEdited` for a switch that is on and that no plan would remove."""
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.state import State

    path = machine.places.degraded
    written = State.load(machine.system, machine.records).files.get(path)
    if machine.degraded and (written is None or written.adopted):
        raise HandEdited(f"not written by optictl: {path}; remove it, then run: optictl reload")
