"""``optictl install``: the machine as the site declares it."""

from __future__ import annotations

from pathlib import Path

from optictl.options import (
    AsJson,
    ConfigPath,
    DryRun,
    Force,
    Root,
    Sets,
    SystemdVersion,
    UserScope,
    Yes,
    open_machine,
)


def install(
    yes: Yes = False,
    dry_run: DryRun = False,
    force: Force = False,
    root: Root = Path("/"),
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Write the site's files, and have the service run with them.

    Shows the plan and asks, unless --yes. Only what changed is restarted; a
    service that does not pass its warmup with the new files gets the old ones
    back, every one of them. Running it again changes nothing.

    \b
    Examples:
      sudo optictl install
      sudo optictl install --yes --set proxy.workers=2
      optictl install --user
      optictl install --root /tmp/staged --yes
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import installing
    from optictl.lifecycle import require_root

    machine = open_machine(config, sets, user=user, root=root, systemd=systemd)
    if not dry_run:
        require_root(machine)
    installing.run("install", machine, yes=yes, force=force, dry_run=dry_run, as_json=as_json)
