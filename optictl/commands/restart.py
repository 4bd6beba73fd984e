"""``optictl restart``: restart the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from optictl.console import emit_json, say
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.machine import Machine


def restart(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every unit of the site's restart_order, each waited for."),
    ] = False,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Restart the service, and wait until it answers.

    Requests under way finish first; new ones wait at the socket, which stays.
    Earlier failures are forgotten, and with them the start limit.

    \b
    Examples:
      sudo optictl restart
      optictl restart --user
      sudo optictl restart --all
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import lifecycle

    machine = open_machine(config, sets, user=user)
    if everything:
        _restart_all(machine, as_json=as_json)
        return
    done = lifecycle.restart(machine)
    if as_json:
        emit_json(Result("restart", done.as_json()))
    else:
        say(done.line)


def _restart_all(machine: Machine, *, as_json: bool) -> None:
    # Imported here: only this needs an HTTP client.
    from optictl.box import Box
    from optictl.restart_all import restart_all

    with Box(machine) as box:
        done = restart_all(box, say)
    if as_json:
        emit_json(Result("restart", [each.as_json() for each in done]))
