"""What is on disk against what is declared."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped
from optictl.errors import OptictlError
from optictl.install import install_site
from optictl.machine import Machine
from proxy.errors import ConfigError


@check(group="settings", pace="fast")
def drift(box: Box) -> Finding:
    """Every file on disk is as the site declares it.

    Something is to be installed, or someone else has written a file of ours since. `optictl plan`
    shows the differences; what was changed by hand goes into the site, or into a drop-in of the
    unit, and then `optictl install` writes the rest.
    """
    machine = box.machine
    try:
        count = len(machine.artifacts)
    except (OptictlError, ConfigError):
        return skipped("the files cannot be rendered: see the check settings")
    plan = machine.plan()
    if plan.of_others:
        named = ", ".join(map(str, plan.of_others))
        return fail(f"written by someone else: {named}", box.optictl("plan"))
    if all(change.kind == "add" for change in plan.changes):
        return fail(f"none of the site's {count} files is there", box.optictl("install"))
    if plan.pending:
        named = ", ".join(str(change.path) for change in plan.pending)
        return fail(f"not as declared: {named}", box.optictl("install"), lambda: _install(machine))
    return ok(f"{count} files are as declared")


def _install(machine: Machine) -> str:
    done = install_site(machine.anew(), agree=lambda _: None, tell=lambda _: None, note="check")
    return f"installed {', '.join(map(str, done.applied.changed))}"
