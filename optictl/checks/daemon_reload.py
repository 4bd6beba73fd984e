"""Whether systemd has read the units that are on disk."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, ok, warn


@check(group="service", pace="fast")
def daemon_reload(box: Box) -> Finding:
    """systemd has read the units as they are on disk.

    Someone has changed a unit or a drop-in since: the next restart is by the old ones.
    """
    units = [box.service, box.socket]
    manager = box.manager
    outdated = [unit.name for unit in units if unit.need_daemon_reload]
    if not outdated:
        return ok("systemd knows the units as they are on disk")

    def read_again() -> str:
        manager.daemon_reload()
        return "had systemd read its units again"

    of = " --user" if manager.scope == "user" else ""
    said = f"changed on disk since systemd read it: {', '.join(outdated)}"
    return warn(said, f"systemctl{of} daemon-reload", read_again)
