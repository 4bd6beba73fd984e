"""``optictl reload``: make the service read its settings again."""

from __future__ import annotations

from optictl.console import emit_json, say
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result


def reload(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Make the service read its keys and providers again.

    They are validated first: where they cannot be used, it says why, and the
    old ones serve on.

    \b
    Examples:
      sudo optictl reload
      optictl reload --user
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import lifecycle

    done = lifecycle.reload(open_machine(config, sets, user=user))
    if as_json:
        emit_json(Result("reload", done.as_json()))
    else:
        say(done.line)
