"""``optictl plan``: what installing the site would change here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json, enveloped
from optictl.options import DEFAULT_CONFIG, AsJson, ConfigPath, Sets, SystemdVersion
from optictl.result import Result

#: The exit status of ``--detailed-exitcode`` where there is something to do.
_DIFFERS = 2


def plan(
    detailed_exitcode: Annotated[
        bool,
        typer.Option("--detailed-exitcode", help="Exit with 2 where there is something to do."),
    ] = False,
    root: Annotated[
        Path, typer.Option(help="The tree to compare with: a staged one, or the machine's.")
    ] = Path("/"),
    config: ConfigPath = DEFAULT_CONFIG,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Show what is on disk against what the site asks for; nothing is changed.

    A unified diff for each file, and a line that sums up. Secrets are not
    shown. Files that were edited since optictl wrote them are marked.

    \b
    Examples:
      optictl plan
      optictl plan --set proxy.workers=2 --detailed-exitcode
    """
    # Imported here: `optictl --help` needs no templates.
    from optictl.apply import observe
    from optictl.desired import desired
    from optictl.plan import plan as compare
    from optictl.site import load
    from optictl.state import State
    from optictl.system import RealSystem

    with enveloped("plan", as_json=as_json):
        site = load(config, os.environ, sets or ()).site
        wanted = desired(site, systemd=systemd)
        system = RealSystem(root)
        state = State.load(system, wanted.places.records)
        actual = observe(system, wanted.artifacts, state)
        found = compare(wanted.artifacts, actual, state, service=wanted.places.service.name)
    exit_code = _DIFFERS if detailed_exitcode and found.pending else 0
    if as_json:
        emit_json(Result("plan", found.as_json(), exit_code))
    else:
        for change in found.pending:
            data(change.diff())
        data(found.summary())
    raise typer.Exit(exit_code)
