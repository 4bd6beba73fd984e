"""``optictl ensemble``: one of the ensembles as a handle of LiteLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from optictl.console import show
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


def ensemble(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of: optictl ensembles.")],
    off: Annotated[bool, typer.Option("--off", help="Take the handle out of LiteLLM.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show who plays what and what it costs; do nothing.")
    ] = False,
    no_warm: Annotated[
        bool, typer.Option("--no-warm", help="Do not ask each member once beforehand.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Give LiteLLM a handle that several models answer together.

    Writes our part of LiteLLM's router.yaml, of its variables and of the
    registry of handles, restarts both services where that is needed, asks
    every member once, and then the handle. What would make a loop is not
    written; if LiteLLM does not come back, all files are as they were.

    \b
    Examples:
      optictl ensemble opt-code-balanced-l --explain
      sudo optictl ensemble opt-code-balanced-l
      sudo optictl ensemble opt-code-balanced-l --off
    """
    # Imported here: `optictl --help` needs no pydantic and no HTTP client.
    from optictl import installing
    from optictl.box import Box
    from optictl.commands.ensembles import page
    from optictl.console import emit_json
    from optictl.ensemble_listing import listed
    from optictl.ensembling import refuse_loops, switched, try_out
    from optictl.lifecycle import require_root
    from optictl.result import Result

    machine = open_machine(config, sets, user=user, root=root, systemd=systemd)
    if explain:
        [found] = listed(machine, name)
        if as_json:
            emit_json(Result("ensemble", found.as_json()))
        else:
            show(*page(found))
        return
    if not dry_run:
        require_root(machine)
    with Box(machine) as box:
        changed = switched(machine, name, off=off, litellm=box.told_version)

        def tried() -> Mapping[str, Any]:
            [wanted] = [each for each in changed.ensembles if each.name == name]
            tell = installing.telling()
            return {"tried": try_out(box, wanted, tell, warm=not no_warm).as_json()}

        installing.run(
            "ensemble",
            changed,
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
            agree=lambda proposal: refuse_loops(changed, proposal),
            then=None if off or machine.manager is None else tried,
        )
