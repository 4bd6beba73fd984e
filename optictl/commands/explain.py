"""``optictl explain``: what an error code, a check or an exit status means."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from optictl import completions
from optictl.console import data, emit_json, show
from optictl.options import AsJson
from optictl.result import Result

_HEADINGS = {
    "error": "Errors of optictl",
    "proxy": "Errors of the proxy (x-optillm-error)",
    "check": "Checks",
    "exit": "Exit statuses",
}


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            help="An error code, a check, or an exit status.",
            autocompletion=completions.codes,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain an error code, a check or an exit status: the cause, and what to do.

    The proxy's own codes, in the header x-optillm-error, are known too.
    Without CODE, everything that can be explained, a line each.

    \b
    Examples:
      optictl explain warmup_failed
      optictl explain upstream_auth
      optictl explain 13
    """
    # Imported here: `optictl --help` needs none of it.
    from rich.markdown import Markdown
    from rich.table import Table

    from optictl import explaining

    if code is not None:
        found = explaining.explain(code)
        if as_json:
            emit_json(Result("explain", found.as_json()))
        elif sys.stdout.isatty():
            show(Markdown(found.text))
        else:
            data(found.text)
        return
    known = explaining.known()
    if as_json:
        emit_json(Result("explain", [each.as_json() for each in known]))
        return
    for kind, heading in _HEADINGS.items():
        table = Table(box=None, show_header=False, pad_edge=False)
        for each in known:
            if each.kind == kind:
                table.add_row(f"  {each.name}", each.meaning)
        show(heading, table)
