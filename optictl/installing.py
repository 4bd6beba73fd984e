"""What ``optictl install`` and ``apply`` show, ask, tell and prove, around `optictl.install`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from optictl.console import data, emit_json, say
from optictl.dry_run import DryRunManager, DryRunSystem
from optictl.errors import Declined, NeedsYes
from optictl.exit_status import Exit
from optictl.install import Proposal, install_site
from optictl.machine import Machine
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.checking import Checked


#: What installing is about; how the gateway and the neighbours are is not its doing.
_PROVEN = ("settings", "service", "proxy", "upstream")


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Raises `Declined`, and `NeedsYes` where nobody is there to ask."""
    if yes:
        return
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NeedsYes(f"{question} Nobody is at a terminal to say so: give --yes")
    if not typer.confirm(question, err=True):
        raise Declined("nothing was done")


def run(
    command: str,
    machine: Machine,
    *,
    yes: bool = False,
    force: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
    agree: Callable[[Proposal], None] = lambda proposal: None,
    then: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Install, say what was done, and end the command.

    ``agree`` has a word before the operator does, and raises where it shall not be. ``then`` does
    what is to be done with a service that runs; what it finds is part of the answer.
    """
    proposals: list[Proposal] = []
    if dry_run:
        machine = would(machine)

    def asked(proposal: Proposal) -> None:
        proposals.append(proposal)
        agree(proposal)
        if not as_json:
            for change in proposal.plan.pending:
                data(change.diff())
            data(proposal.summary)
        confirm("Install this?", yes=yes or dry_run, as_json=as_json)

    tell = telling(dry_run=dry_run)
    done = install_site(machine, agree=asked, tell=tell, force=force, note=command)
    proof = [] if dry_run or machine.manager is None else _prove(machine)
    more = {} if dry_run or then is None else then()
    failed = [each.check.name for each in proof if each.finding.status == "fail"]
    exit_code = Exit.FAILED if failed else Exit.OK
    message = f"installed, and these checks fail: {', '.join(failed)}; see: optictl check"
    if as_json:
        found = {
            "already": done.already,
            "dry_run": dry_run,
            "changed": [str(path) for path in done.applied.changed],
            "checkpoint": None if dry_run else done.applied.checkpoint,
            "plan": proposals[0].plan.as_json() if proposals else None,
            "checks": [each.as_json() for each in proof],
            **more,
        }
        errors = [{"code": "check_failed", "message": message}] if failed else []
        emit_json(Result(command, found, exit_code, errors))
    else:
        for each in proof:
            if each.finding.status in ("warn", "fail"):
                say(f"{each.finding.status}: {each.check.name}: {each.finding.saw}")
                say(f"  fix: {each.finding.fix}")
        say(message if failed else _verdict(machine, already=done.already, dry_run=dry_run))
    raise typer.Exit(exit_code)


def would(machine: Machine) -> Machine:
    """The same machine, on which nothing is done."""
    manager = None if machine.manager is None else DryRunManager(machine.manager)
    gateway = machine.site.gateway
    command = "" if gateway is None else " ".join(gateway.restart)
    restart = f"restart the gateway: {command}"
    return machine.on(DryRunSystem(machine.system), manager, lambda tell: tell(restart))


def telling(*, dry_run: bool = False) -> Callable[[str], None]:
    """Says each step as it comes."""
    return lambda step: say(f"would {step}" if dry_run else f"… {step}")


def _prove(machine: Machine) -> list[Checked]:
    # Imported here: a dry run and a staging tree open no connections.
    from optictl.box import Box
    from optictl.checking import chosen, discover, run_checks

    wanted = [each for each in chosen(discover(), [], fast=True) if each.group in _PROVEN]
    with Box(machine.anew()) as box:
        return run_checks(wanted, box)


def _verdict(machine: Machine, *, already: bool, dry_run: bool) -> str:
    if dry_run:
        return "a dry run: nothing was done"
    if already:
        return f"{machine.places.name} is already installed as declared"
    where = "" if machine.manager else " into the staging tree"
    back = "" if machine.manager is None else "; take it back with: optictl rollback"
    return f"{machine.places.name} is installed{where}{back}"
