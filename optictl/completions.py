"""What the shell may complete. Each is asked for at a press of a key, and so imports little."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import typer

_PACKAGE = Path(__file__).parent


def approaches(incomplete: str) -> list[str]:
    # Imported here: it imports every approach.
    from proxy.registry import discover

    return [entry.slug for entry in discover() if entry.slug.startswith(incomplete)]


def ensembles(ctx: typer.Context, incomplete: str) -> list[str]:
    """By the registry of the site that the line names."""
    # Imported here: they take pydantic.
    from optictl.ensemble_registry import registry_of
    from optictl.errors import OptictlError
    from optictl.options import open_machine
    from proxy.errors import ConfigError

    given = ctx.params
    try:
        machine = open_machine(given.get("config"), user=bool(given.get("user")))
        rows = registry_of(machine.site, machine.places)
    except (OptictlError, ConfigError):
        return []
    names = (row.declared.name for row in rows)
    return [name for name in names if name.startswith(incomplete)]


def checks(incomplete: str) -> list[str]:
    """By their files: to import them takes an HTTP client."""
    found = pkgutil.iter_modules([str(_PACKAGE / "checks")])
    return [each.name for each in found if each.name.startswith(incomplete)]


def codes(incomplete: str) -> list[str]:
    """What ``optictl explain`` knows of, but for the numbers."""
    written = (each.stem for each in (_PACKAGE / "explanations").rglob("*.md"))
    return sorted(each for each in {*written, *checks("")} if each.startswith(incomplete))
