"""``optictl check``: is all as it should be, and if not, what mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optictl import completions
from optictl.console import emit_json, say, show
from optictl.errors import UsageError
from optictl.exit_status import Exit
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from optictl.checking import Checked

#: A symbol for a terminal, a word for a pipe, a colour.
_MARKS = {
    "ok": ("✓", "ok", "green"),
    "warn": ("!", "warn", "yellow"),
    "fail": ("✗", "FAIL", "red"),
    "skipped": ("-", "skip", "dim"),
}
#: What --quiet leaves.
_LOUD = ("warn", "fail")
#: Seconds that a service may take to answer.
_FAST, _PATIENT = 1.0, 10.0


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="These only.", autocompletion=completions.checks),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="What is seen in two seconds; no model is called.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also what calls models: a question all the way.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired.")] = False,
    no_network: Annotated[
        bool, typer.Option("--no-network", help="Only what opens no connection.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 for warnings.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only warnings and failures.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="To be shown to others: no secrets, hosts, users.")
    ] = False,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything that has to be right, and say what mends what is not.

    The exit status is 1 where something failed. What only root can see is
    skipped for others, and says so. Nothing is changed without --fix.

    \b
    Examples:
      optictl check
      optictl check auth port --json
      optictl check --fast --quiet || optictl logs
      optictl check --deep --report
    """
    # Imported here: `optictl --help` needs no HTTP client.
    from optictl.anonymous import anonymous
    from optictl.box import Box
    from optictl.checking import chosen, discover, exit_status, look, without_site
    from proxy.errors import ConfigError

    if fast and deep:
        raise UsageError("--fast leaves out what --deep asks for; give one of them")
    wanted = chosen(discover(), names or [], fast=fast, deep=deep)
    try:
        machine = open_machine(config, sets, user=user)
    except ConfigError as error:
        found, box = without_site(wanted, error), None
    else:
        with Box(machine, timeout=_FAST if fast else _PATIENT) as box:
            found = look(wanted, box, network=not no_network, fix=fix, tell=say)
    if report:
        word = anonymous(box)
        found = [each.reworded(word) for each in found]
    status = exit_status(found, strict=strict)
    if as_json:
        emit_json(_result(found, status))
    elif shown := list(_shown(found, quiet=quiet)):
        show(*shown)
    raise typer.Exit(status)


def _result(found: Sequence[Checked], status: Exit) -> Result[dict[str, Any]]:
    from optictl.checking import verdict

    told = {"verdict": verdict(found), "checks": [each.as_json() for each in found]}
    errors = [
        {"code": "check_failed", "message": f"{each.check.name}: {each.finding.saw}"}
        for each in found
        if each.finding.status == "fail"
    ]
    return Result("check", told, status, errors)


def _shown(found: Sequence[Checked], *, quiet: bool) -> Iterator[Table | Text]:
    """By group, with the verdict at the end; ``quiet``: only what is not well."""
    from rich.table import Table
    from rich.text import Text

    from optictl.checking import verdict

    symbols = sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower()
    arrow = "→ " if symbols else "fix: "
    shown = [each for each in found if not quiet or each.finding.status in _LOUD]
    widest = max((len(each.check.name) for each in shown), default=0)
    for group, checks in groupby(shown, key=lambda each: each.check.group):
        if not quiet:
            yield Text(group, style="bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=3 if symbols else 6)
        table.add_column(width=widest)
        table.add_column()
        for each in checks:
            symbol, word, colour = _MARKS[each.finding.status]
            mark = Text(f"  {symbol if symbols else word}", style=colour)
            table.add_row(mark, each.check.name, Text(each.finding.saw))
            if each.finding.fix:
                table.add_row("", "", Text(f"{arrow}{each.finding.fix}", style="cyan"))
        yield table
    if not quiet:
        yield Text(verdict(found), style="bold")
