"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: Where ``optictl init`` writes the site, and everybody looks for it.
DEFAULT_CONFIG = Path("/etc/optillm-proxy/optictl.yaml")

ConfigPath = Annotated[
    Path,
    typer.Option("--config", envvar="OPTICTL_CONFIG", help="The site: what the operator declares."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value than the site's. Repeatable."),
]
SystemdVersion = Annotated[
    int | None,
    typer.Option("--systemd", metavar="VERSION", help="Render for this systemd; else this one's."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
