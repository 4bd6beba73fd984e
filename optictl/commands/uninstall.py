"""``optictl uninstall``: what we have installed, removed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json, say
from optictl.options import AsJson, ConfigPath, DryRun, Force, Root, UserScope, Yes, open_machine
from optictl.result import Result


def uninstall(
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Also optictl.yaml, the records, and what the service keeps."),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    force: Force = False,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    as_json: AsJson = False,
) -> None:
    """Stop the service and remove every file that optictl has written.

    The site and the records stay, so that install or rollback brings all of
    it back; --purge removes them too. Keys and drop-ins of yours stay in any
    case, and so does the user whom the service ran as.

    \b
    Examples:
      sudo optictl uninstall --dry-run
      sudo optictl uninstall --purge
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.install import remove
    from optictl.installing import confirm, telling, would
    from optictl.lifecycle import require_root

    machine = open_machine(config, user=user, root=root)
    going = [change.path for change in machine.removal().pending]
    if dry_run:
        machine = would(machine)
    else:
        require_root(machine)
        if going and not as_json:
            for path in going:
                data(f"remove {path}")
        what = f"Remove {machine.places.name}{' and all that it keeps' if purge else ''}?"
        confirm(what, yes=yes, as_json=as_json)
    done = remove(machine, purge=purge, force=force, tell=telling(dry_run=dry_run))
    changed, left = list(map(str, done.applied.changed)), list(map(str, done.left))
    if as_json:
        found = {"already": done.already, "dry_run": dry_run, "removed": changed, "left": left}
        emit_json(Result("uninstall", found))
        return
    if done.already:
        say(f"{machine.places.name} is not installed")
        return
    verb = "would remove" if dry_run else "removed"
    for each in changed:
        say(f"{verb} {each}")
    for each in left:
        say(f"left, it is yours: {each}")
