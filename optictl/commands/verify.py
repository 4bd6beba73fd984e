"""``optictl verify``: whether the machine is as declared, for a timer or a pipeline."""

from __future__ import annotations

from pathlib import Path

import typer

from optictl.console import data, emit_json, say
from optictl.errors import Drifted
from optictl.options import (
    AsJson,
    ConfigPath,
    Root,
    Sets,
    SystemdVersion,
    UserScope,
    open_machine,
)
from optictl.result import Result


def verify(
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Say whether every file is as the site declares it; exit with 1 where one is not.

    A line for each file that is not: first whether it changed since optictl
    wrote it, then what install would do to it (A add, M change, D remove).

    \b
    Examples:
      optictl verify
      optictl verify || systemd-cat -t optictl echo "drift on $(hostname)"
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.verifying import verified

    found = verified(open_machine(config, sets, user=user, root=root, systemd=systemd))
    message = f"{len(found)} not as declared; see: optictl plan"
    if as_json:
        errors = [{"code": Drifted.code, "message": message}] if found else []
        exit_code = Drifted.exit_code if found else 0
        emit_json(Result("verify", [each.as_json() for each in found], exit_code, errors))
    else:
        for each in found:
            data(f"{each.columns} {each.what}")
        say(message if found else "everything is as declared")
    raise typer.Exit(Drifted.exit_code if found else 0)
