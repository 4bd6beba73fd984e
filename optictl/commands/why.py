"""``optictl why``: how an answer was chosen."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from optictl.console import data, emit_json, show
from optictl.observing import KeyFile, ProxyUrl, observed
from optictl.options import AsJson, ConfigPath, Sets, UserScope
from optictl.result import Result
from optictl.retelling import candidates, decision, reasons


def why(
    request_id: Annotated[
        str, typer.Argument(metavar="ID", help="The request, by its header x-request-id.")
    ],
    url: ProxyUrl = None,
    api_key_file: KeyFile = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Say how the answer to one of the last requests was chosen.

    First what was run, what was skipped, cancelled or failed; then each
    decision with its candidates. What they said is shown where the service
    keeps it: optictl serve --trace-text.

    \b
    Examples:
      optictl why req_4f2a
      optictl why req_4f2a --json
    """
    with observed(url, api_key_file, config, sets, user=user) as proxy:
        told = proxy.get(f"/traces/{quote(request_id, safe='')}")
    if as_json:
        members = ("id", "handle", "approach", "model", "status", "code")
        found = {name: told[name] for name in members}
        found |= {"reasons": reasons(told), "decisions": told["decisions"]}
        emit_json(Result("why", found))
        return
    data("\n".join(reasons(told)))
    for each in told["decisions"]:
        data(f"\n{decision(each)}")
        show(candidates(each))
