"""What systemd is told after files have changed: the service comes up with them, or goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optictl.plan import Effects
from optictl.systemd import Manager, Unit

#: Hears each step before it is done, as a command: ``start optillm-proxy.service``.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the service and its socket stand."""

    service: Unit
    socket: Unit

    @classmethod
    def of(cls, manager: Manager, service: str, socket: str) -> Standing:
        return cls(manager.show(service), manager.show(socket))

    @property
    def up(self) -> bool:
        return all(unit.running and unit.enabled for unit in (self.service, self.socket))

    @property
    def stale(self) -> bool:
        """Whether systemd has not read its units since they changed."""
        return self.service.need_daemon_reload or self.socket.need_daemon_reload


def bring_up(manager: Manager, effects: Effects, before: Standing, tell: Tell) -> None:
    """Have the service run with what is on disk, now and after each boot.

    Raises `SystemdFailed`: its warmup is a part of its start.
    """
    if effects.daemon_reload or before.stale:
        tell("have systemd read its units again")
        manager.daemon_reload()
    missing = [unit.name for unit in (before.socket, before.service) if not unit.enabled]
    if missing:
        tell(f"enable {', '.join(missing)}")
        manager.enable(*missing)
    if before.service.active == "failed" or before.socket.active == "failed":
        manager.reset_failed(before.socket.name, before.service.name)
    run_with(manager, effects, before, tell)


def run_with(
    manager: Manager, effects: Effects, before: Standing, tell: Tell, *, socket: bool = True
) -> None:
    """Start, restart or reload what ``effects`` ask for. ``socket``: there is a unit of it."""
    service = before.service.name
    if socket and (effects.rebind or not before.socket.running):
        _rebind(manager, before, tell)
    elif not before.service.running:
        tell(f"start {service}, and wait for its warmup")
        manager.start(service)
    elif effects.restart:
        tell(f"restart {service}, once its requests have ended, and wait for its warmup")
        manager.restart(service)
    elif effects.reload:
        tell(f"reload {service}")
        manager.reload(service)


def take_down(manager: Manager, before: Standing, tell: Tell) -> None:
    """Stop the service and its socket, and start them no more at boot; before their files go."""
    # The service first: a request at the socket would start it again.
    for unit in (before.service, before.socket):
        if unit.known and unit.active != "inactive":
            tell(f"stop {unit.name}")
            manager.stop(unit.name)
    enabled = [unit.name for unit in (before.service, before.socket) if unit.enabled]
    if enabled:
        tell(f"disable {', '.join(enabled)}")
        manager.disable(*enabled)


def forget(manager: Manager, before: Standing, tell: Tell) -> None:
    """Have systemd notice that units are gone, and keep no failure of theirs."""
    tell("have systemd read its units again")
    manager.daemon_reload()
    manager.reset_failed(before.socket.name, before.service.name)


def make_user(manager: Manager, name: str, home: Path, tell: Tell) -> None:
    tell(f"make the system user {name}")
    manager.make_user(name, home)


def _rebind(manager: Manager, before: Standing, tell: Tell) -> None:
    if before.service.running:
        # systemd refuses to start the socket of a service that runs.
        tell(f"stop {before.service.name}, once its requests have ended")
        manager.stop(before.service.name)
    if before.socket.running:
        tell(f"restart {before.socket.name}")
        manager.restart(before.socket.name)
    else:
        tell(f"start {before.socket.name}")
        manager.start(before.socket.name)
    tell(f"start {before.service.name}, and wait for its warmup")
    manager.start(before.service.name)
