"""``optictl ensemble``: one of the ensembles as a handle of LiteLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optictl import completions
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

if TYPE_CHECKING:
    from optictl.install import Proposal


def ensemble(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="One of: optictl ensembles.",
            autocompletion=completions.ensembles,
        ),
    ],
    off: Annotated[bool, typer.Option("--off", help="Take the handle out of LiteLLM.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show who plays what and what it costs; do nothing.")
    ] = False,
    no_warm: Annotated[
        bool, typer.Option("--no-warm", help="Do not load the members, nor ask each once.")
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
    registry of handles, restarts both services where that is needed, runs
    gateway.warm_command, asks every member once, and then the handle. What
    would make a loop is not written; if LiteLLM does not come back, all
    files are as they were.

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
    from optictl.console import emit_json, say
    from optictl.ensemble_listing import listed
    from optictl.ensembling import prove, switched
    from optictl.lifecycle import require_root
    from optictl.result import Result
    from optictl.tried import forget
    from optictl.vetting import vet

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
            return {"tried": prove(box, wanted, tell, warm=not no_warm).as_json()}

        def forgotten() -> Mapping[str, Any]:
            forget(machine.system, machine.records, name)
            return {}

        def agree(proposal: Proposal) -> None:
            # What is taken out of LiteLLM makes nothing worse, whatever else is wrong there.
            if not off:
                vet(changed, proposal, name, lambda said: say(f"warn: {said}"))

        after = forgotten if off else tried
        installing.run(
            "ensemble",
            changed,
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
            agree=agree,
            then=None if machine.manager is None else after,
        )
