"""``optictl rollback``: the files, and the service, as they were before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optictl.console import data, emit_json, say
from optictl.options import AsJson, ConfigPath, Force, Root, UserScope, Yes, open_machine
from optictl.result import Result


def rollback(
    n: Annotated[int, typer.Argument(min=1, metavar="[N]", help="How many runs to take back.")] = 1,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the runs that can be taken back, and stop.")
    ] = False,
    yes: Yes = False,
    force: Force = False,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    as_json: AsJson = False,
) -> None:
    """Take back the last run that changed files, or the last N.

    Every file is as it was before it, and the service runs with that.
    optictl.yaml is yours: change it too, or the next install does it again.

    \b
    Examples:
      optictl rollback --list
      sudo optictl rollback
      sudo optictl rollback 2 --yes
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.apply import history
    from optictl.install import roll_back
    from optictl.installing import confirm, telling
    from optictl.lifecycle import require_root

    machine = open_machine(config, user=user, root=root)
    past = history(machine.system, machine.records)
    if listing:
        runs: list[dict[str, Any]] = [
            {
                "n": index,
                "number": each.number,
                "note": each.note,
                "made_at": each.made_at,
                "changed": [str(path) for path in each.changed],
            }
            for index, each in enumerate(past, 1)
        ]
        if as_json:
            emit_json(Result("rollback", {"runs": runs}))
            return
        for run in runs:
            data(f"{run['n']}  {run['made_at']}  {run['note']}: {', '.join(run['changed'])}")
        if not runs:
            say("no run can be taken back")
        return
    require_root(machine)
    if not as_json:
        for each in past[:n]:
            say(f"{each.note} of {each.made_at}: {', '.join(map(str, each.changed))}")
    confirm(f"Take back {n} run{'s' if n > 1 else ''}?", yes=yes, as_json=as_json)
    done = roll_back(machine, n, force=force, tell=telling())
    changed = [str(path) for path in done.applied.changed]
    if as_json:
        emit_json(Result("rollback", {"changed": changed}))
    else:
        say(f"rolled back: {', '.join(changed) or 'nothing was to be changed'}")
