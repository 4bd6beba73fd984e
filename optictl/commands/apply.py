"""``optictl apply``: a saved plan, carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optictl.options import AsJson, DryRun, open_machine


def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="What `plan --out` has saved.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Carry out a saved plan, without asking again.

    It is refused, with exit status 2, if the site or the machine has changed
    since the plan was made.

    \b
    Examples:
      optictl plan --out next.plan
      sudo optictl apply next.plan
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl import installing
    from optictl.lifecycle import require_root
    from optictl.saved_plan import SavedPlan

    saved = SavedPlan.read(plan)
    machine = open_machine(saved.config, saved.sets, root=saved.root, systemd=saved.systemd)
    if not dry_run:
        require_root(machine)
    # Before anything is locked or recovered, and once more under the lock.
    machine.plan(force=saved.force).require(saved.fingerprint)
    installing.run(
        "apply",
        machine,
        yes=True,
        force=saved.force,
        dry_run=dry_run,
        as_json=as_json,
        agree=lambda proposal: proposal.plan.require(saved.fingerprint),
    )
