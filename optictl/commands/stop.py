"""``optictl stop``: stop the service and its socket."""

from __future__ import annotations

from optictl.console import emit_json, say
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result


def stop(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Stop the service, after the requests that are under way, and its socket.

    The socket too, because it would start the service at the next request.

    \b
    Examples:
      sudo optictl stop
      optictl stop --user
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import lifecycle

    done = lifecycle.stop(open_machine(config, sets, user=user))
    if as_json:
        emit_json(Result("stop", done.as_json()))
    else:
        say(done.line)
