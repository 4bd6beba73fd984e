"""Whether it starts with the machine."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, ok, skipped, warn


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
        return ok("the units start with the machine")

    def enable() -> str:
        manager.enable(*missing)
        return f"enabled {', '.join(missing)}"

    of = " --user" if manager.scope == "user" else ""
    said = f"not enabled: {', '.join(missing)}"
    return warn(said, f"systemctl{of} enable {' '.join(missing)}", enable)
