"""``optictl run``: the site's service in the foreground."""

from __future__ import annotations

import os

from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine


def run(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Run the service of optictl.yaml in the foreground, without systemd.

    It is what the unit would start: the same flags, keys and providers, as
    the user who calls this. Ctrl-C stops it once its requests have ended.

    \b
    Examples:
      optictl run
      optictl run --set proxy.port=4021 --set proxy.workers=2
    """
    # Imported here: `optictl --help` needs no pydantic, and this is imported by it.
    from typer.main import get_command

    from optictl.cli import build
    from optictl.foreground import foreground

    machine = open_machine(config, sets, user=user)
    with foreground(machine) as service:
        os.environ.update(service.variables)
        words = [*service.words, *(["--json"] if as_json else [])]
        # Ends the process, with the status of `serve`.
        get_command(build())(words, prog_name="optictl")
