"""From a plan to a service that runs with it, or back to how all was.

The files come first (`optictl.apply`), then systemd is told (`optictl.bring_up`). Everything here
holds the lock of the records from the first look to the last step.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from optictl.apply import Applied, apply, recover, rollback, uninstall
from optictl.bring_up import Standing, Tell, bring_up, forget, make_user, run_with, take_down
from optictl.dry_run import DryRunSystem, Step
from optictl.errors import GatewayFailed, OptictlError, RolledBack, SystemdFailed
from optictl.machine import Machine
from optictl.plan import Effects, Plan
from optictl.settled import Settled, is_settled, owes_gateway, unsettle
from optictl.state import State
from optictl.system import System
from optictl.systemd import Manager

#: What systemd is owed where nobody knows what it has been told.
_ALL = Effects(daemon_reload=True, rebind=True, restart=True)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is about to be done, for whoever has to agree."""

    plan: Plan
    effects: Effects
    #: The user whom the service runs as and who does not exist yet.
    new_user: str | None = None

    @property
    def summary(self) -> str:
        also = f"; make the system user {self.new_user}" if self.new_user else ""
        return self.plan.summary() + also


@dataclass(frozen=True, slots=True)
class Done:
    """What was done. ``already``: nothing, since all was as it shall be."""

    applied: Applied
    already: bool = False
    #: Left where they are, since they are not ours or not empty.
    left: tuple[Path, ...] = ()


def install_site(
    machine: Machine,
    *,
    agree: Callable[[Proposal], None],
    tell: Tell,
    force: bool = False,
    note: str = "install",
) -> Done:
    """Make the machine as the site declares it.

    ``agree`` raises where that shall not be. Raises `HandEdited`, `Locked`, `UnitFailed` and
    `GatewayFailed` where nothing on disk was at fault, and `RolledBack` where the new files were:
    they are the old ones again then, and so is the service.
    """
    system, records = machine.system, machine.records
    with system.lock(records.lock):
        for line in recover(system, records):
            tell(line)
        plan = machine.plan(force=force)
        plan.refuse_hand_edits()
        if machine.manager is None:
            return _install_files(machine, plan, agree, note)
        return _Installation(machine, machine.manager, plan, tell).run(agree, note)


def roll_back(machine: Machine, n: int, *, force: bool = False, tell: Tell) -> Done:
    """Take back the last ``n`` runs, and have the service run with what is there then.

    Raises `NothingToRollBack`, `HandEdited`, and `UnitFailed` where the old files do not work
    either.
    """
    system, records, manager = machine.system, machine.records, machine.manager

    def take_back(on: System) -> Applied:
        return rollback(on, records, n, force=force)

    with system.lock(records.lock):
        for line in recover(system, records):
            tell(line)
        if manager is None:
            return Done(take_back(system))
        before = Standing.of(manager, machine.service, machine.socket)
        applied = _take_back(machine, manager, before, take_back, tell)
        if applied.effects.gateway:
            _restart_gateway(machine, tell)
        if before.service.running and _has(system, machine.places.service):
            now = Standing.of(manager, machine.service, machine.socket)
            run_with(
                manager, applied.effects, now, tell, socket=_has(system, machine.places.socket)
            )
            Settled.of(State.load(system, records)).save(system, records)
        return Done(applied)


def remove(machine: Machine, *, purge: bool, force: bool = False, tell: Tell) -> Done:
    """Stop the service and remove what we have written; with ``purge`` all that is its own."""
    system, records, manager = machine.system, machine.records, machine.manager
    with system.lock(records.lock):
        for line in recover(system, records):
            tell(line)
        plan = machine.removal(force=force)
        plan.refuse_hand_edits()
        written = plan.state.files.get(machine.places.service)
        # A service that someone else has written goes on, with their unit.
        ours = written is not None and not written.adopted
        before = None
        if manager is not None and ours:
            before = Standing.of(manager, machine.service, machine.socket)
            take_down(manager, before, tell)
        owed = plan.effects.gateway or owes_gateway(system, records)
        gateway = manager is not None and owed
        # Its mark goes with the files: what comes next tells systemd everything.
        unsettle(system, records, gateway=gateway)
        applied = uninstall(
            system,
            records,
            service=machine.service,
            socket=machine.socket,
            purge=purge,
            force=force,
        )
        if manager is not None and before is not None:
            forget(manager, before, tell)
        if gateway:
            _restart_gateway(machine, tell)
    left = _purge(machine) if purge else ()
    return Done(applied, already=not (applied.changed or ours or gateway), left=left)


class _Installation:
    """One installation under a systemd."""

    def __init__(self, machine: Machine, manager: Manager, plan: Plan, tell: Tell) -> None:
        self._machine = machine
        self._manager = manager
        self._plan = plan
        self._tell = tell
        self._before = Standing.of(manager, machine.service, machine.socket)
        self._settled = is_settled(plan.state, machine.system, machine.records)
        gateway = plan.effects.gateway or owes_gateway(machine.system, machine.records)
        self._effects = plan.effects if self._settled else replace(_ALL, gateway=gateway)

    def run(self, agree: Callable[[Proposal], None], note: str) -> Done:
        machine, system, records = self._machine, self._machine.system, self._machine.records
        settled = self._before.up and not self._before.stale and self._effects == Effects()
        if settled and not self._plan.pending:
            return Done(apply(self._plan, system, records, note), already=True)
        new_user = _missing_user(machine)
        agree(Proposal(self._plan, self._effects, new_user))
        if new_user is not None:
            make_user(self._manager, new_user, machine.home, self._tell)
        unsettle(system, records, gateway=self._effects.gateway)
        try:
            applied = apply(self._plan, system, records, note)
        except OptictlError:
            # Every file is as it was, and so what runs with them.
            if self._settled:
                Settled.of(self._plan.state).save(system, records)
            raise
        untouched = True
        try:
            # LiteLLM first: the service's warmup goes through it.
            if self._effects.gateway:
                self._machine.restart_gateway(self._tell)
            untouched = False
            bring_up(self._manager, self._effects, self._before, self._tell)
        except (SystemdFailed, GatewayFailed, KeyboardInterrupt) as error:
            if applied.checkpoint is None:
                raise
            self._undo(error, untouched=untouched)
            raise
        Settled.of(State(self._plan.files)).save(system, records)
        return Done(applied)

    def _undo(self, error: BaseException, *, untouched: bool) -> None:
        """Everything as it was; raises `RolledBack` instead of ``error``, unless it is no error.

        ``untouched``: the service still runs with the old files.
        """
        self._tell("it did not work: put everything back as it was")
        machine, manager, before = self._machine, self._manager, self._before
        system, records = machine.system, machine.records
        now = Standing.of(manager, machine.service, machine.socket)
        if not untouched:
            self._quiet(now)
        taken = _take_back(machine, manager, now, lambda on: rollback(on, records), self._tell)
        outcome = "all files are as they were"
        settled = before.service.running and (self._settled or not untouched)
        if taken.effects.gateway:
            try:
                _restart_gateway(machine, self._tell)
            except GatewayFailed as worse:
                settled = False
                outcome += f", but LiteLLM does not come back either: {worse}"
        if before.service.running:
            again = Standing.of(manager, machine.service, machine.socket)
            try:
                run_with(manager, Effects(), again, self._tell, socket=before.socket.running)
            except SystemdFailed as worse:
                settled = False
                outcome += f", but the old service does not come up either: {worse}"
            else:
                outcome += ", and the old service serves"
        if settled:
            Settled.of(State.load(system, records)).save(system, records)
        if isinstance(error, SystemdFailed | GatewayFailed):
            raise RolledBack(f"{error}\nrolled back: {outcome}") from error

    def _quiet(self, now: Standing) -> None:
        """Stop what does not work, and what was not running or enabled before."""
        manager, before = self._manager, self._before
        manager.stop(now.service.name)
        manager.stop(now.socket.name)
        for was, unit in ((before.service, now.service), (before.socket, now.socket)):
            if unit.enabled and was.known and not was.enabled:
                manager.disable(unit.name)


def _install_files(
    machine: Machine, plan: Plan, agree: Callable[[Proposal], None], note: str
) -> Done:
    if plan.pending:
        agree(Proposal(plan, Effects()))
    applied = apply(plan, machine.system, machine.records, note)
    return Done(applied, already=not plan.pending)


def _take_back(
    machine: Machine,
    manager: Manager,
    before: Standing,
    take_back: Callable[[System], Applied],
    tell: Tell,
) -> Applied:
    """Roll files back; units whose files vanish by that are stopped and disabled first.

    Returns what was done, and whether LiteLLM is to be restarted, for this or from before.
    """
    system, places = machine.system, machine.places
    foreseen = DryRunSystem(system)
    effects = take_back(foreseen).effects
    gateway = effects.gateway or owes_gateway(system, machine.records)
    if Step("remove", places.service) in foreseen.steps:
        take_down(manager, before, tell)
    elif Step("remove", places.socket) in foreseen.steps:
        _drop_socket(manager, before, tell)
    unsettle(system, machine.records, gateway=gateway)
    applied = take_back(system)
    forget(manager, before, tell)
    return replace(applied, effects=replace(applied.effects, gateway=gateway))


def _restart_gateway(machine: Machine, tell: Tell) -> None:
    machine.restart_gateway(tell)
    unsettle(machine.system, machine.records, gateway=False)


def _drop_socket(manager: Manager, before: Standing, tell: Tell) -> None:
    tell(f"stop {before.service.name} and {before.socket.name}")
    manager.stop(before.service.name)
    manager.stop(before.socket.name)
    if before.socket.enabled:
        manager.disable(before.socket.name)


def _purge(machine: Machine) -> tuple[Path, ...]:
    """Remove the site, and what the service has kept. Returns what is left of its folders."""
    system, places = machine.system, machine.places
    if machine.loaded.path == places.site:
        system.remove(places.site)
    for folder in (places.service_state, places.service_cache):
        _remove_tree(system, folder)
    if not system.is_folder(places.config):
        return ()
    left = tuple(places.config / name for name in system.listing(places.config))
    if not left:
        system.remove_folder(places.config)
    return left


def _remove_tree(system: System, folder: Path) -> None:
    if not system.is_folder(folder):
        return
    for name in system.listing(folder):
        inner = folder / name
        if system.is_folder(inner):
            _remove_tree(system, inner)
        else:
            system.remove(inner)
    system.remove_folder(folder)


def _has(system: System, path: Path) -> bool:
    return system.read(path) is not None


def _missing_user(machine: Machine) -> str | None:
    if machine.site.service.scope == "user":
        return None
    try:
        pwd.getpwnam(machine.site.service.user)
    except KeyError:
        return machine.site.service.user
    return None
