"""``optictl trace``: what the service remembers of its last requests."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from optictl.console import data, emit_json, say
from optictl.errors import ProxyRefused, UsageError
from optictl.observing import KeyFile, ProxyUrl, observed
from optictl.options import AsJson, ConfigPath, Sets, UserScope
from optictl.result import Result
from optictl.retelling import decision, drawn, headline

if TYPE_CHECKING:
    from optictl.client import ProxyClient
    from optictl.retelling import Trace

#: Seconds between two looks at the service.
_EVERY = 0.5
#: Characters of a line: where it is not known how many there are, and at most.
_USUAL, _WIDEST = 100, 120


def trace(
    request_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Draw the calls of this request.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Stay, and show what ends; with ID wait for it."),
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="The last N.")] = 20,
    url: ProxyUrl = None,
    api_key_file: KeyFile = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """List the last requests, oldest first, or draw the calls of one of them.

    ID is what the proxy answered in the header x-request-id. The calls that
    the answer had to wait for, the critical path, are marked.

    \b
    Examples:
      optictl trace
      optictl trace --follow
      optictl trace req_4f2a
    """
    if follow and as_json:
        raise UsageError("--json answers once, and --follow does not end; leave one of them out")
    with observed(url, api_key_file, config, sets, user=user) as proxy:
        if request_id is None:
            found = _listed(proxy, limit)
            if as_json:
                emit_json(Result("trace", found))
                return
            for each in found:
                data(headline(each))
            if follow:
                _follow(proxy, found)
            elif not found:
                say("no request has ended yet")
            return
        told = _awaited(proxy, request_id) if follow else _one(proxy, request_id)
    if as_json:
        emit_json(Result("trace", told))
        return
    width = min(_WIDEST, shutil.get_terminal_size((_USUAL, 0)).columns)
    data("\n".join([*drawn(told, width=width), *map(decision, told["decisions"])]))


def _listed(proxy: ProxyClient, limit: int) -> list[Trace]:
    found: list[Trace] = proxy.get("/traces", limit=limit)["data"]
    return found[::-1]


def _one(proxy: ProxyClient, request_id: str) -> Trace:
    return proxy.get(f"/traces/{quote(request_id, safe='')}")


def _awaited(proxy: ProxyClient, request_id: str) -> Trace:
    while True:
        try:
            return _one(proxy, request_id)
        except ProxyRefused as refusal:
            if refusal.code != "trace_not_found":
                raise
        time.sleep(_EVERY)


def _follow(proxy: ProxyClient, shown: list[Trace]) -> None:
    """Until Ctrl-C. A service that has started again counts from 0."""
    last = shown[-1]["number"] if shown else -1
    while True:
        time.sleep(_EVERY)
        found = _listed(proxy, 1000)
        if found and found[-1]["number"] < last:
            last = -1
        for each in found:
            if each["number"] > last:
                data(headline(each))
                last = each["number"]
