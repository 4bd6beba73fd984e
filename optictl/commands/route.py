"""``optictl route``: whether LiteLLM's base handles go through the proxy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from optictl.console import data, emit_json, say, warn
from optictl.errors import UsageError
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

app = typer.Typer(help="Send LiteLLM's base handles through the proxy.", no_args_is_help=True)


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
    """Send every base handle through the proxy, and the proxy past them.

    LiteLLM asks the proxy for router-<base>, and the proxy calls LiteLLM's
    internal entry router-<base>, which leads straight to the backend: one
    that is there is used, one that is missing is written. Nothing else of
    LiteLLM's is touched: the variables that a handle reads are assigned again
    at the end of its file of variables. A handle that reads none is refused,
    with the lines to change. What would make a loop is not written.

    \b
    Examples:
      optictl route on --dry-run
      sudo optictl route on
      sudo optictl route on --set routing.prefix=moa-
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
    """Lead every base handle straight to its backend again.

    \b
    Examples:
      sudo optictl route off
      sudo optictl route off --yes --json
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
    """Say which base handles there are, and which way they go.

    \b
    Examples:
      optictl route status
      optictl route status --json | jq -r '.data.handles[].handle'
    """
    # Imported here: `optictl --help` needs no YAML.
    from optictl.routing_site import standing

    found = standing(open_machine(config, user=user, root=root))
    if as_json:
        emit_json(Result("route status", found.as_json()))
        return
    way = "through the proxy" if found.on else "straight to their backends"
    data(f"{'on' if found.on else 'off'}: base handles go {way}")
    for row in found.as_json()["handles"]:
        data(f"  {row['handle']}  {row['internal']} ({row['internal_is']})")
    if found.disagrees:
        warn(found.disagrees)


def _switch(machine: Machine, routed: bool, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    # Imported here: `optictl --help` needs no pydantic and no YAML.
    from optictl import installing
    from optictl.ensembling import refuse_loops
    from optictl.lifecycle import require_root
    from optictl.routing_site import standing
    from optictl.wiring import with_files

    wanted = "on" if routed else "off"
    if machine.site.routing.mode not in (None, wanted):
        raise UsageError(
            f"the site says routing.mode: {machine.site.routing.mode}; "
            "change it there, or take it out and use this command"
        )
    with_files(machine.site)
    if not dry_run:
        require_root(machine)
    changed = machine.routed_as(routed)

    def told() -> Mapping[str, Any]:
        found = standing(machine.anew())
        if found.disagrees:
            say(found.disagrees)
        return {"route": found.as_json()}

    installing.run(
        f"route {wanted}",
        changed,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        agree=lambda proposal: refuse_loops(changed, proposal),
        then=told,
    )
