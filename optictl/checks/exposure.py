"""What an intruder could reach from inside the service."""

from __future__ import annotations

from optictl.box import Box, CannotTell
from optictl.checking import Finding, check, ok, warn

#: systemd's own measure, from 0 (nothing) to 10 (all), of the unit of each profile.
_MOST = {"strict": 1.2, "torch": 1.4}


@check(group="service")
def exposure(box: Box) -> Finding:
    """The unit leaves open no more than its profile should (systemd-analyze security).

    `strict` fits a service that runs no model itself. Of `torch` PyTorch needs what it leaves out.
    """
    machine = box.machine
    if box.manager.scope == "user":
        raise CannotTell("a user's own systemd may not confine a service further")
    level = machine.exposure(box.run)
    profile = machine.site.service.profile
    if level > _MOST[profile]:
        said = f"{level} of 10, and the profile {profile} has at most {_MOST[profile]}"
        return warn(said, f"systemd-analyze security {machine.service}")
    return ok(f"{level} of 10 (profile {profile})")
