"""Starting, stopping, restarting, reloading the service, and reading its log."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from optictl.errors import NeedsRoot, NotRunning, OptictlError, UnknownUnit
from optictl.machine import Machine
from optictl.systemd import Manager, Unit

Outcome = Literal[
    "started", "already_running", "stopped", "already_stopped", "restarted", "reloaded"
]

_SETTLED = ("inactive", "failed")


@dataclass(frozen=True, slots=True)
class Turned:
    """What became of a unit, and the line that says so."""

    unit: str
    outcome: Outcome
    line: str

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "outcome": self.outcome}


def require_root(machine: Machine) -> None:
    """Raises `NeedsRoot`, with the line to type, where a service of the system is not ours."""
    if machine.manager is None or machine.site.service.scope == "user" or os.geteuid() == 0:
        return
    raise NeedsRoot(
        f"only root may do that to {machine.service}; run: {shlex.join(['sudo', *sys.argv])}"
    )


def manager_of(machine: Machine) -> Manager:
    if machine.manager is None:
        raise OptictlError("a staging tree has no systemd", code="staging")
    return machine.manager


def installed(machine: Machine) -> Unit:
    """The service. Raises `UnknownUnit` where systemd does not know it."""
    unit = manager_of(machine).show(machine.service)
    if not unit.known:
        raise UnknownUnit(f"systemd has no {machine.service}; install it: optictl install")
    return unit


def start(machine: Machine) -> Turned:
    """The socket, then the service, which is there once it has answered its warmup."""
    require_root(machine)
    unit, manager = installed(machine), manager_of(machine)
    if unit.running:
        return Turned(unit.name, "already_running", f"{unit.name} is running already")
    manager.reset_failed(machine.socket, machine.service)
    manager.start(machine.socket, machine.service)
    return Turned(unit.name, "started", f"{unit.name} is started")


def stop(machine: Machine) -> Turned:
    """The service and its socket, which would start it again at the next request."""
    require_root(machine)
    unit, manager = installed(machine), manager_of(machine)
    if unit.active in _SETTLED and manager.show(machine.socket).active in _SETTLED:
        return Turned(unit.name, "already_stopped", f"{unit.name} is stopped already")
    manager.stop(machine.service, machine.socket)
    return Turned(
        unit.name,
        "stopped",
        f"{unit.name} is stopped, and with it {machine.socket}, which would start it again at the "
        "next request; start both: optictl start",
    )


def restart(machine: Machine) -> Turned:
    """The service alone: its socket keeps the port, so that nobody is refused."""
    require_root(machine)
    unit, manager = installed(machine), manager_of(machine)
    manager.reset_failed(machine.service)
    manager.restart(machine.service)
    return Turned(unit.name, "restarted", f"{unit.name} is restarted")


def reload(machine: Machine) -> Turned:
    """Keys and providers are read again; settings that cannot be used are refused before that."""
    require_root(machine)
    unit = installed(machine)
    if not unit.running:
        raise NotRunning(f"{unit.name} is not running ({unit.active}); start it: optictl start")
    manager_of(machine).reload(machine.service)
    return Turned(unit.name, "reloaded", f"{unit.name} has been told to read its settings again")


def log_entries(lines: str) -> Iterator[dict[str, Any]]:
    """What ``journalctl --output json`` says: time (ISO 8601, UTC), unit, priority, message."""
    for line in lines.splitlines():
        entry = orjson.loads(line)
        seconds = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
        message = entry.get("MESSAGE")
        # Bytes that are no text come as numbers, and what is too long as null.
        text = bytes(message).decode(errors="replace") if isinstance(message, list) else message
        # systemd speaks of a unit as UNIT, and the unit itself as _SYSTEMD_UNIT.
        names = ("UNIT", "USER_UNIT", "_SYSTEMD_USER_UNIT", "_SYSTEMD_UNIT")
        yield {
            "time": datetime.fromtimestamp(seconds, UTC).isoformat(),
            "unit": next((entry[name] for name in names if name in entry), ""),
            "priority": int(entry.get("PRIORITY", 6)),
            "message": text or "",
        }
