"""``optictl plan``: what installing the site would change here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json, say
from optictl.exit_status import Exit
from optictl.options import (
    AsJson,
    ConfigPath,
    Force,
    Root,
    Sets,
    SystemdVersion,
    UserScope,
    open_machine,
)
from optictl.result import Result


def plan(
    detailed_exitcode: Annotated[
        bool,
        typer.Option("--detailed-exitcode", help="Exit with 2 where there is something to do."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save it for: optictl apply FILE")
    ] = None,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show what is on disk against what the site asks for; nothing is changed.

    A unified diff for each file, and a line that sums up. Secrets are not
    shown. Files that others have written are named: installing refuses them.

    \b
    Examples:
      optictl plan
      optictl plan --set proxy.workers=2 --detailed-exitcode
      optictl plan --out next.plan && optictl apply next.plan
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.saved_plan import SavedPlan

    machine = open_machine(config, sets, user=user, root=root, systemd=systemd)
    found = machine.plan(force=force)
    if out is not None:
        SavedPlan(
            config=machine.loaded.path,
            sets=(*(["service.scope=user"] if user else []), *(sets or ())),
            systemd=systemd,
            root=root.absolute(),
            force=force,
            fingerprint=found.fingerprint,
            summary=found.summary(),
        ).write(out)
    exposed = machine.exposure_after(found)
    differs = detailed_exitcode and found.pending
    exit_code = Exit.USAGE if differs else Exit.OK
    if as_json:
        emit_json(Result("plan", {**found.as_json(), "exposure": exposed}, exit_code))
    else:
        for change in found.pending:
            data(change.diff())
        for path in found.of_others:
            say(f"written by someone else: {path}")
        data(found.summary())
        if exposed is not None:
            say(f"exposure of {machine.service}: {exposed} of 10 (systemd-analyze security)")
        if out is not None:
            say(f"saved; carry it out with: optictl apply {out}")
    raise typer.Exit(exit_code)
