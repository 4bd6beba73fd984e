"""How often it had to be started again."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped, warn


@check(group="service", pace="fast")
def restarts(box: Box) -> Finding:
    """systemd has not had to start the service again.

    It starts it again a second after it has died, and gives up after five times in a minute. The
    log says what each one died of; a restart by hand sets the count to nought.
    """
    unit = box.service
    if not unit.known:
        return skipped("not installed: see the check active")
    of = " --user" if box.machine.site.service.scope == "user" else ""
    log = f"journalctl{of} -u {unit.name} -n 50"
    if unit.result == "start-limit-hit":
        said = f"died {unit.restarts} times in a row; systemd has given up (start-limit-hit)"
        return fail(said, f"{log}; then {box.optictl('restart')}")
    if unit.sub == "auto-restart":
        return fail(
            f"died ({unit.result}), and is being started for the "
            f"{_ordinal(unit.restarts + 1)} time",
            log,
        )
    if unit.restarts:
        times = "once" if unit.restarts == 1 else f"{unit.restarts} times"
        return warn(f"died and was started again {times}", log)
    return ok("never since it was started")


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"
