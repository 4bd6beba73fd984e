"""``optictl logs``: what the service and its socket have said."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from optictl.console import data, emit_json, warn
from optictl.errors import UsageError
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result


def logs(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and show what comes.")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=1, help="The last N; 50 without --since.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As journalctl takes it: -10min, today, 12:30."),
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Show the log of the service and its socket, oldest lines first.

    \b
    Examples:
      optictl logs -n 100
      optictl logs --follow
      optictl logs --since -10min --json
    """
    if follow and as_json:
        raise UsageError("--json answers once, and --follow does not end; leave one of them out")
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import systemd
    from optictl.lifecycle import installed, log_entries, manager_of

    machine = open_machine(config, sets, user=user)
    installed(machine)
    command = manager_of(machine).journal_command(machine.service, machine.socket)
    if since is not None:
        command += ["--since", since]
    if lines is not None or since is None:
        command += ["--lines", str(lines or 50)]
    if follow:
        systemd.become([*command, "--follow"])
    if as_json:
        said = systemd.run([*command, "--output", "json"])
        emit_json(Result("logs", list(log_entries(said))))
        return
    said = systemd.run(command)
    if said:
        data(said.rstrip("\n"))
    elif machine.site.service.scope == "system" and os.geteuid() != 0:
        warn("no lines; root and the group systemd-journal see more: sudo optictl logs")
    else:
        warn("no lines")
