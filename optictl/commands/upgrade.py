"""``optictl upgrade``: a newer optictl, or this one still."""

from __future__ import annotations

from typing import Annotated

import typer

from optictl.console import emit_json, say
from optictl.options import AsJson, ConfigPath, UserScope, Yes, open_machine
from optictl.result import Result


def upgrade(
    requirement: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REQUIREMENT]…", help="As pip takes it: optictl==1.2, a wheel, a folder."
        ),
    ] = None,
    yes: Yes = False,
    again: Annotated[
        bool, typer.Option("--again", help="Even if it is the version that runs already.")
    ] = False,
    config: ConfigPath = None,
    user: UserScope = False,
    as_json: AsJson = False,
) -> None:
    """Install a newer optictl beside this one, and have the service run with it.

    The new version gets an environment of its own, loads your settings,
    and is switched to by one rename. If the service does not come up with
    it, or a check fails, the old version serves again.

    \b
    Examples:
      sudo optictl upgrade
      sudo optictl upgrade 'optictl[router]==1.2'
      sudo optictl upgrade ./optictl-1.2-py3-none-any.whl --yes
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.installing import confirm, telling
    from optictl.lifecycle import require_root
    from optictl.upgrade import Upgrade

    machine = open_machine(config, user=user)
    require_root(machine)
    wanted = requirement or ["optictl"]
    confirm(f"Upgrade with {' '.join(wanted)}?", yes=yes, as_json=as_json)
    done = Upgrade(machine, telling()).run(["--upgrade", *wanted], force=again)
    if as_json:
        found = {
            "already": done.already,
            "old": done.old,
            "new": done.new,
            "environment": str(done.environment),
        }
        emit_json(Result("upgrade", found))
    elif done.already:
        say(f"optictl {done.new} is the newest there is; nothing was changed")
    else:
        say(f"upgraded: optictl {done.old} → {done.new}, in {done.environment}")
