"""``optictl render``: the files of the site, as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optictl.console import data, emit_json, say
from optictl.errors import UsageError
from optictl.options import AsJson, ConfigPath, Sets, SystemdVersion, UserScope, open_machine
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.artifact import Artifact


def render(
    name: Annotated[
        str, typer.Argument(help="One of the files, by its name; without it all are shown.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the files into this folder instead, as they would lie below /."),
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Show the files that the site asks for; nothing is installed.

    Secrets are not shown. With --output they are written, readable by their
    owner alone.

    \b
    Examples:
      optictl render optillm-proxy.service
      optictl render --output /tmp/staged
      optictl render --set service.profile=torch --json
    """
    # Imported here: `optictl --help` needs no templates.
    from optictl.system import RealSystem

    wanted = open_machine(config, sets, user=user, systemd=systemd).artifacts
    chosen = [each for each in wanted if name in ("", each.path.name)]
    if not chosen:
        known = ", ".join(each.path.name for each in wanted)
        raise UsageError(f"{name} is none of the site's files: {known}")
    if output is not None:
        _write(chosen, RealSystem(output.absolute()))
    if as_json:
        emit_json(Result("render", [_described(each) for each in chosen]))
    elif output is not None:
        for each in chosen:
            say(f"wrote {output}{each.path}")
    else:
        data("\n".join(_shown(each, alone=bool(name)) for each in chosen))


def _write(artifacts: list[Artifact], system: Any) -> None:
    for each in artifacts:
        for folder in reversed(each.path.parents[:-1]):
            system.make_folder(folder)
        system.write(each.path, each.content, each.mode)


def _text(artifact: Artifact) -> str:
    return "(sensitive)" if artifact.sensitive else artifact.content.decode().rstrip("\n")


def _shown(artifact: Artifact, *, alone: bool) -> str:
    return _text(artifact) if alone else f"=== {artifact.path}\n{_text(artifact)}\n"


def _described(artifact: Artifact) -> dict[str, Any]:
    return {
        "path": str(artifact.path),
        "mode": f"{artifact.mode:04o}",
        "owner": artifact.owner,
        "group": artifact.group,
        "sensitive": artifact.sensitive,
        "content": None if artifact.sensitive else artifact.content.decode(),
    }
