"""``optictl approaches``: what can stand in front of a model's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from optictl import completions
from optictl.console import emit_json, show
from optictl.result import Result

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from optictl.approaches import ApproachRow

_TREATS = {"tools": "tools", "parts": "images and files", "formats": "response formats"}


def approaches(
    slug: Annotated[
        str | None,
        typer.Argument(
            metavar="SLUG", help="One of them, in full.", autocompletion=completions.approaches
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """List the approaches, or describe one: cost, options, when to use it.

    \b
    Examples:
      optictl approaches
      optictl approaches moa
      optictl approaches --json | jq -r '.data.approaches[].slug'
    """
    from optictl.approaches import approach_row, approach_rows
    from proxy.registry import discover

    registry = discover()
    if slug is not None:
        row = approach_row(registry, slug)
        if as_json:
            emit_json(Result("approaches", row.as_json()))
        else:
            show(*_page(row))
        return
    rows = approach_rows(registry)
    if as_json:
        listing = [row.as_json() for row in rows]
        data = {"approaches": listing, "reserved": sorted(registry.reserved)}
        emit_json(Result("approaches", data))
    else:
        show(_listing(rows))


def _listing(rows: Iterable[ApproachRow]) -> Table:
    table = _table("SLUG", "KIND", "PAPER", "CALLS", "ROUNDS", "SUMMARY")
    for row in rows:
        slug, paper = _bold(row.slug), _linked(row.paper)
        table.add_row(slug, row.kind, paper, str(row.calls), str(row.rounds), row.summary)
    return table


def _page(row: ApproachRow) -> Iterator[RenderableType]:
    yield _bold(row.slug).append(f": {row.summary}", style="not bold")
    yield ""
    yield _facts(row)
    yield ""
    if not row.options:
        yield "No options."
        return
    options = _table("OPTION", "ACCEPTS", "DEFAULT", "WHAT IT IS")
    for option in row.options:
        default = str(option.default)
        if option.type == "bool":
            default = default.lower()
        options.add_row(_bold(option.name), option.accepts, default, option.help)
    yield options


def _facts(row: ApproachRow) -> Table:
    from rich.table import Table

    facts = Table.grid(padding=(0, 3))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_row("kind", row.kind)
    facts.add_row("paper", _linked(row.paper))
    facts.add_row("calls", str(row.calls))
    facts.add_row("rounds", str(row.rounds))
    facts.add_row("use it for", row.use)
    treated = ["text", *(_TREATS[feature] for feature in row.handles)]
    facts.add_row("treats", ", ".join(treated))
    others = [name for feature, name in _TREATS.items() if feature not in row.handles]
    if others:
        facts.add_row("left out of", f"requests with {' or '.join(others)}")
    for theirs, ours in row.aliases.items():
        facts.add_row("OptiLLM's", f"{theirs} is {ours} here")
    return facts


def _table(*columns: str) -> Table:
    # Imported here: `--json` and every other command's help draw no table.
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, no_wrap=name in ("SLUG", "KIND", "PAPER", "OPTION"))
    return table


def _bold(text: str) -> Text:
    from rich.text import Text

    return Text(text, style="bold")


def _linked(paper: str | None) -> Text:
    from rich.text import Text

    shown = paper or "–"
    kind, _, number = shown.partition(":")
    return Text(shown, style=f"link https://arxiv.org/abs/{number}" if kind == "arXiv" else "")
