"""``optictl start``: start the service."""

from __future__ import annotations

from optictl.console import emit_json, say
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result


def start(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Start the service and its socket, and wait until it answers.

    Earlier failures are forgotten first, and with them the start limit. Where
    it does not come up, the last lines of its log are shown.

    \b
    Examples:
      sudo optictl start
      optictl start --user
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import lifecycle

    done = lifecycle.start(open_machine(config, sets, user=user))
    if as_json:
        emit_json(Result("start", done.as_json()))
    else:
        say(done.line)
