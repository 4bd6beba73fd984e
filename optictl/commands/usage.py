"""``optictl usage``: tokens, model seconds and calls by handle and day."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from optictl.console import emit_json, say, show
from optictl.errors import UsageError
from optictl.observing import KeyFile, ProxyUrl, observed
from optictl.options import AsJson, ConfigPath, Sets, UserScope
from optictl.result import Result
from optictl.retelling import total, usage_table

_MOST_DAYS = 400


def usage(
    since: Annotated[
        str, typer.Option(metavar="DAYS", help="How far back: 7d, 4w; today (UTC) counts.")
    ] = "7d",
    url: ProxyUrl = None,
    api_key_file: KeyFile = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Sum up tokens, model seconds and calls, by handle and day.

    The service keeps that across restarts where it has a file for it, as a
    unit of optictl's has; otherwise the last thousand requests are summed up.

    \b
    Examples:
      optictl usage
      optictl usage --since 30d --json
    """
    days = _days(since)
    with observed(url, api_key_file, config, sets, user=user) as proxy:
        told = proxy.get("/usage", days=days)
    if as_json:
        found = {"since": told["since"], "kept": told["kept"]}
        emit_json(Result("usage", found | {"rows": told["data"], "total": total(told["data"])}))
        return
    show(usage_table(told["data"]))
    if told["kept"] == "traces":
        say("only the last thousand requests are known; keep more: optictl serve --usage-file FILE")


def _days(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,2})([dw])", text)
    days = 0 if found is None else int(found[1]) * (7 if found[2] == "w" else 1)
    if not 1 <= days <= _MOST_DAYS:
        raise UsageError(f"--since {text}: give days or weeks, as in 7d or 4w; 400d at most")
    return days
