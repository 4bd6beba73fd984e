"""Drift: what differs from what we wrote, and from what is declared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optictl.apply import apply
from optictl.dry_run import ErrorOnWriteSystem
from optictl.machine import Machine
from optictl.plan import Change

_LETTERS = {"add": "A", "change": "M", "remove": "D", "same": " "}


@dataclass(frozen=True, slots=True)
class Drift:
    """One file, or unit, that is not as it shall be."""

    what: str
    #: Since optictl last wrote it: ``M`` changed, ``D`` gone, a space for neither.
    since_written: str
    #: What install would do.
    to_do: str

    @property
    def columns(self) -> str:
        return f"{self.since_written}{self.to_do}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def verified(machine: Machine) -> list[Drift]:
    """Everything that is not as declared; nothing is written."""
    plan = machine.plan(force=True)
    found = [_drift(change) for change in plan.pending]
    if not found:
        # The same code that would write finds nothing to write.
        apply(plan, ErrorOnWriteSystem(machine.system, machine.records.folder), machine.records, "")
    if machine.manager is not None:
        for name in (machine.service, machine.socket):
            if machine.manager.show(name).need_daemon_reload:
                found.append(Drift(f"{name}: systemd has not read it since it changed", " ", "R"))
    return found


def _drift(change: Change) -> Drift:
    since = " "
    if change.written is not None and change.before is None:
        since = "D"
    elif change.hand_edited:
        since = "M"
    return Drift(str(change.path), since, _LETTERS[change.kind])
