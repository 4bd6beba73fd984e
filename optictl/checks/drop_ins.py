"""What others have added to the units."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, ok


@check(group="service", pace="fast")
def drop_ins(box: Box) -> Finding:
    """Which drop-ins the units have.

    They are the operator's: optictl never changes one, and what stands in them wins over the unit.
    """
    found = [*box.service.drop_ins, *box.socket.drop_ins]
    return ok(", ".join(map(str, found)) or "none")
