"""Whether it starts with the machine."""

from __future__ import annotations

import getpass

from optictl.box import Box
from optictl.checking import Finding, check, ok, skipped, warn
from optictl.systemd import lingers


@check(group="service", pace="fast")
def enabled(box: Box) -> Finding:
    """Both units start with the machine.

    A service of one user starts with that user's first login, unless `loginctl enable-linger` has
    been given for it.
    """
    units = [box.service, box.socket]
    manager = box.manager
    if not all(unit.known for unit in units):
        return skipped("not installed: see the check active")
    missing = [unit.name for unit in units if not unit.enabled]
    if not missing:
        return _without_login(box) or ok("the units start with the machine")

    def enable() -> str:
        manager.enable(*missing)
        return f"enabled {', '.join(missing)}"

    of = " --user" if manager.scope == "user" else ""
    said = f"not enabled: {', '.join(missing)}"
    return warn(said, f"systemctl{of} enable {' '.join(missing)}", enable)


def _without_login(box: Box) -> Finding | None:
    if box.manager.scope == "system" or lingers(user := getpass.getuser()):
        return None
    return warn("it stops when you log out", f"loginctl enable-linger {user}")
