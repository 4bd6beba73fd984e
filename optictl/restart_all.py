"""``optictl restart --all``: the units of ``restart_order`` in turn, each waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from optictl.box import Box
from optictl.checks.neighbours import trouble
from optictl.errors import SystemdFailed, UnitFailed, UnknownUnit, UsageError
from optictl.lifecycle import Turned, manager_of, require_root

#: Seconds in which a unit's neighbours have to answer. A model may have to be loaded.
TIMEOUT = 120.0
_PAUSE = 0.25


def restart_all(
    box: Box,
    tell: Callable[[str], None],
    *,
    timeout: float = TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Turned]:
    """Restart every unit in order. ``tell`` hears how far it is, and what is waited for.

    A unit is there when systemd says so and each neighbour of the site with its name as ``unit``
    answers. Raises `UsageError` and `UnknownUnit` before anything is restarted, and `UnitFailed`
    for the first one that is not there in time, with those that were not restarted.
    """
    machine = box.machine
    order, path = machine.site.restart_order, machine.loaded.path
    if not order:
        raise UsageError(f"{path} names no unit in restart_order: there is nothing to restart")
    require_root(machine)
    manager = manager_of(machine)
    unknown = [unit for unit in order if not manager.show(unit).known]
    if unknown:
        raise UnknownUnit(
            f"systemd has no {', '.join(unknown)}; mend restart_order in {path}. "
            "Nothing was restarted"
        )
    done = []
    for position, unit in enumerate(order, start=1):
        tell(f"{unit}: restarting")
        try:
            manager.reset_failed(unit)
            manager.restart(unit)
            _wait(box, unit, tell, timeout, clock, sleep)
        except SystemdFailed as error:
            left = ", ".join(order[position:])
            raise UnitFailed(f"{error}\nnot restarted: {left}" if left else str(error)) from error
        tell(f"{unit}: ok")
        done.append(Turned(unit, "restarted", f"{unit} is restarted"))
    return done


def _wait(
    box: Box,
    unit: str,
    tell: Callable[[str], None],
    timeout: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    end, told = clock() + timeout, ""
    while waits_for := _missing(box, unit):
        if clock() >= end:
            raise UnitFailed(
                f"{unit} is restarted, and after {timeout:.0f} s still: {waits_for}; "
                f"its log: journalctl -u {unit}"
            )
        if waits_for != told:
            tell(f"{unit}: waiting: {waits_for}")
            told = waits_for
        sleep(_PAUSE)


def _missing(box: Box, unit: str) -> str:
    """What is not there yet; empty where all is."""
    now = manager_of(box.machine).show(unit)
    if now.active == "failed":
        raise UnitFailed(f"{unit} failed ({now.result}); its log: journalctl -u {unit}")
    if not now.running:
        return f"systemd says {now.active}"
    served = [each for each in box.machine.site.neighbours if each.unit == unit]
    said = [f"{each.name}: {wrong}" for each in served if (wrong := trouble(box, each))]
    return "; ".join(said)
