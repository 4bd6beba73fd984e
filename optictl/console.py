"""Where commands speak: data on stdout, talk on stderr."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import orjson

from optictl.result import Result

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Wide enough for any line: a pipe's reader wraps for itself, or does not.
_UNWRAPPED = 10_000


def say(text: str) -> None:
    """Talk: progress, hints, what was done."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    say(f"warning: {text}")


def data(text: str) -> None:
    """What a pipe wants."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write(text: str) -> None:
    """A piece of data, as it arrives."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show(*renderables: RenderableType) -> None:
    """Data for people: as Rich draws it on a terminal, plain unwrapped lines in a pipe.

    Colours obey NO_COLOR (no-color.org) and FORCE_COLOR (force-color.org).
    """
    # Imported here, as below: `optictl serve` and `--json` draw nothing.
    from rich.console import Console

    terminal = Console(highlight=False, markup=False)
    if terminal.is_terminal:
        terminal.print(*renderables, sep="\n")
        return
    page = io.StringIO()
    Console(file=page, width=_UNWRAPPED, color_system=None, highlight=False, markup=False).print(
        *renderables, sep="\n"
    )
    data("\n".join(line.rstrip() for line in page.getvalue().splitlines()))


def talk_terminal() -> Console | None:
    """The terminal behind stderr, for what moves; None where there is none."""
    from rich.console import Console

    return Console(stderr=True, highlight=False) if sys.stderr.isatty() else None


def emit_json(result: Result[Any]) -> None:
    """The envelope, indented: people read it too."""
    data(orjson.dumps(result.as_json(), option=orjson.OPT_INDENT_2).decode())
