"""``optictl init``: a first optictl.yaml, from what is on the machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json, say, warn
from optictl.options import (
    DEFAULT_CONFIG,
    USER_CONFIG,
    AsJson,
    ConfigPath,
    Force,
    Root,
    Sets,
    UserScope,
)
from optictl.result import Result


def init(
    base_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model of requests that name none.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="FILE", help="LiteLLM's configuration; else looked for.")
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    root: Root = Path("/"),
    sets: Sets = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented optictl.yaml, filled in with what is on this machine.

    Looks at a hand-written service, LiteLLM's configuration and OptiLLM's
    proxy_config.yaml. Keys are not copied into it: those that stand on a
    command line, or in a file that will be replaced, move to files of their
    own (0600). An optictl.yaml that is there stays, unless --force.

    \b
    Examples:
      sudo optictl init
      sudo optictl init --base-model qwen3 --router /etc/litellm/config.yaml
      optictl init --user --set service.name=opti
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.site_file import look, write_site
    from optictl.system import RealSystem

    at = root.absolute()
    system = RealSystem(at)
    asked = base_model
    found, places = look(system, user=user, sets=sets or (), base_model=asked, router=router)
    if "proxy.base_model" not in found.settings and sys.stdin.isatty() and not as_json:
        asked = typer.prompt("The model that LiteLLM knows and requests get by default", err=True)
        found, places = look(system, user=user, sets=sets or (), base_model=asked, router=router)
    path = site_path(config, user=user, root=at)
    moved = write_site(system, path, found, places, force=force)
    if as_json:
        settings = [
            {"name": each.name, "value": each.value, "origin": each.origin}
            for each in found.settings.values()
        ]
        answer = {"path": str(path), "settings": settings, "unknown": found.unknown}
        emit_json(
            Result("init", {**answer, "notes": found.notes, "keys": [str(file) for file in moved]})
        )
        return
    for note in found.notes:
        warn(note)
    for setting in found.settings.values():
        say(f"{setting.name}: from {setting.origin}")
    for file in moved:
        say(f"a key now lives in {file}")
    data(f"wrote {path}")
    say(f"next: {'optictl adopt' if found.unit is not None else 'optictl plan'}")


def site_path(config: Path | None, *, user: bool, root: Path) -> Path:
    """Where the site is: in the staging tree, unless it is named."""
    if config is not None:
        return config
    path = Path.home() / USER_CONFIG if user else DEFAULT_CONFIG
    return root / path.relative_to("/")
