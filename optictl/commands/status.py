"""``optictl status``: how the service stands, the verdict first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from optictl.console import data, emit_json, say, show
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.standing import Health


#: What a circuit breaker's state means to a reader.
_CIRCUITS = {"closed": "in use", "open": "left alone", "half-open": "tried again"}


def status(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Say in one line how the service is; then its health, and its units.

    Of a service that has failed, the last lines of its log. A service that
    does not run is not asked anything, since its socket would start it.

    Exits with 0 while it runs, ready or not (the verdict says which; for more
    use check), with 3 while it does not run, with 4 if it is not installed.

    \b
    Examples:
      optictl status
      optictl status --json | grep verdict
      optictl status > /dev/null || sudo optictl start
    """
    # Imported here: `optictl --help` needs no HTTP client.
    import httpx
    from rich.table import Table

    from optictl.standing import standing

    # trust_env: HTTP_PROXY is for hosts elsewhere.
    with httpx.Client(trust_env=False) as http:
        found = standing(open_machine(config, sets, user=user), http)
    if as_json:
        emit_json(Result("status", found.as_json(), found.exit_code))
        raise typer.Exit(found.exit_code)
    data(found.verdict)
    for line in _health(found.health):
        data(line)
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in found.table():
        table.add_row(*row)
    show(table)
    for line in found.log:
        data(f"  {line}")
    if found.more:
        say(f"more: {found.more}")
    raise typer.Exit(found.exit_code)


def _health(health: Health | None) -> list[str]:
    """What the verdict does not say."""
    if health is None:
        return []
    lines = [f"last reload: {health.reload}"] if health.reload else []
    if health.degraded:
        lines.append("every request is answered by none; to end it: optictl degrade off")
    for provider in health.providers:
        reason = f": {provider['reason']}" if provider.get("reason") else ""
        state = _CIRCUITS.get(str(provider.get("state")), "unknown")
        lines.append(f"provider {provider.get('name')}: {state}{reason}")
    return lines
