"""``optictl handles``: the registry of handles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json
from optictl.errors import CannotRead, OptictlError, UsageError
from optictl.exit_status import Exit
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result

app = typer.Typer(help="The registry of handles, handles.jsonl.", no_args_is_help=True)


@app.command()
def validate(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Another one than the site's.", show_default="gateway.handles"
        ),
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Say all that is wrong in a registry of handles, or that it is well.

    The exit status is 1 where something is wrong, 2 where there is no such
    file. What is wrong is a line each: its line, its field, and why.

    \b
    Examples:
      optictl handles validate
      optictl handles validate registry/handles.jsonl --json
    """
    from optictl.handles import count, validate

    path = file if file is not None else _declared(config, sets, user=user)
    content = _read(path)
    problems = validate(content)
    status = Exit.FAILED if problems else Exit.OK
    if as_json:
        told = {"path": str(path), "handles": count(content), "problems": problems}
        errors = [{"code": OptictlError.code, "message": each} for each in problems]
        emit_json(Result("handles validate", told, status, errors))
    else:
        data("\n".join(problems) or f"ok: {path} ({count(content)} handles)")
    raise typer.Exit(status)


def _declared(config: Path | None, sets: list[str] | None, *, user: bool) -> Path:
    machine = open_machine(config, sets, user=user)
    gateway = machine.site.gateway
    if gateway is None or gateway.handles is None:
        said = f"{machine.loaded.path} names no gateway.handles; add it, or give a FILE"
        raise UsageError(said)
    return Path(gateway.handles)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except OSError as error:
        raise CannotRead(f"cannot read {path}: {error.strerror}") from None
