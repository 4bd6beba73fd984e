"""``optictl env``: every path and value that optictl works with here."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from optictl import __version__
from optictl.console import emit_json, show, warn
from optictl.options import AsJson, ConfigPath, Sets, UserScope, config_path
from optictl.result import Result

_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


def env(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Print every path and value that optictl works with: for a question, or a bug report.

    Works without a site and without systemd, and says which of them is
    missing. Variables whose names look like secrets are named without values.

    \b
    Examples:
      optictl env
      optictl env --json | grep proxy_config
    """
    # Imported here: `optictl --help` needs none of it.
    from rich.table import Table

    values = {
        "optictl": __version__,
        "program": str(Path(sys.argv[0]).absolute()),
        "python": f"{sys.executable} ({sys.version.split()[0]})",
        "systemd": _systemd(),
        "home": str(Path.home()),
        "config": str(config_path(config, user=user)),
        "config from": _why(config, os.environ, user=user),
    }
    lacks, of_site = _site(config, sets, user=user)
    values |= of_site | dict(_variables(os.environ))
    if as_json:
        emit_json(Result("env", {**values, "site": lacks or "found"}))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        table.add_row(name, value)
    show(table)
    if lacks:
        warn(lacks)


def _why(config: Path | None, environ: Mapping[str, str], *, user: bool) -> str:
    if config is None:
        return "default, with --user" if user else "default"
    if environ.get("OPTICTL_CONFIG") == str(config):
        return "OPTICTL_CONFIG"
    return "--config"


def _systemd() -> str:
    from optictl.errors import SystemdFailed
    from optictl.systemd import version

    try:
        return str(version())
    except SystemdFailed as error:
        return f"none: {error}"


def _site(config: Path | None, sets: list[str] | None, *, user: bool) -> tuple[str, dict[str, str]]:
    """What keeps the site from being used, and what it comes to where nothing does."""
    from optictl.errors import OptictlError
    from optictl.options import open_machine
    from proxy.errors import ConfigError

    try:
        machine = open_machine(config, sets, user=user)
    except (OptictlError, ConfigError) as error:
        return str(error), {}
    places, service = machine.places, machine.site.service
    return "", {
        "service": machine.service,
        "socket": machine.socket,
        "scope": service.scope,
        "runs as": service.user if service.scope == "system" else "you",
        "units": str(places.units),
        "env file": str(places.env),
        "proxy_config": str(places.proxy_config),
        "warmup": str(places.warmup),
        "state": str(machine.records.folder),
        "lock": str(machine.records.lock),
    }


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in sorted(environ):
        if name.startswith("OPTICTL_") or name == "NO_COLOR":
            yield f"${name}", "(set, not shown)" if _SECRET.search(name) else environ[name]
