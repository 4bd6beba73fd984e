"""Options that many commands share, and the site that they speak of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from optictl.machine import Machine

#: Where ``optictl init`` writes the site, and everybody looks for it.
DEFAULT_CONFIG = Path("/etc/optillm-proxy/optictl.yaml")
#: The same for a service of one user.
USER_CONFIG = Path(".config/optillm-proxy/optictl.yaml")

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="OPTICTL_CONFIG",
        help=f"The site: what the operator declares.  [default: {DEFAULT_CONFIG}]",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value than the site's. Repeatable."),
]
UserScope = Annotated[
    bool,
    typer.Option(
        "--user", help=f"A service of your own, under your systemd; its site is ~/{USER_CONFIG}."
    ),
]
Root = Annotated[
    Path, typer.Option(help="A staging tree instead of the machine: files only, no systemd.")
]
SystemdVersion = Annotated[
    int | None,
    typer.Option("--systemd", metavar="VERSION", help="Render for this systemd; else this one's."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done; do nothing of it.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite what others have written; rollback restores it.")
]


def config_path(config: Path | None, *, user: bool) -> Path:
    """The site's file."""
    if config is not None:
        return config
    return Path.home() / USER_CONFIG if user else DEFAULT_CONFIG


def open_machine(
    config: Path | None,
    sets: Sequence[str] | None = None,
    *,
    user: bool = False,
    root: Path = Path("/"),
    systemd: int | None = None,
) -> Machine:
    """The site, on the machine or staging tree that the options name.

    Raises `NotInitialised` and `ConfigError`.
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.machine import Machine
    from optictl.site_loading import load
    from optictl.system import RealSystem
    from optictl.systemd import Systemd

    given = [*(["service.scope=user"] if user else []), *(sets or ())]
    loaded = load(config_path(config, user=user), os.environ, given)
    staging = root != Path("/")
    manager = None if staging else Systemd(loaded.site.service.scope)
    at = root.absolute()
    return Machine(loaded, RealSystem(at), manager, systemd=systemd, root=at)
