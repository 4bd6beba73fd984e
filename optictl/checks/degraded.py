"""Whether approaches run at all."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, ok, warn


@check(group="proxy", pace="fast")
def degraded(box: Box) -> Finding:
    """Requests are answered by the approach that they name, and not all by none.

    `optictl degrade on` has the service answer every request in one call, which is a help while
    the models have too much to do; it stays so, whatever is installed, until `optictl degrade off`.
    """
    if box.machine.degraded:
        return warn("every request is answered by none", box.optictl("degrade off"))
    return ok("approaches run")
