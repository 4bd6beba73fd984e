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
    monitoring: Annotated[
        Path | None,
        typer.Option(
            help="Write into this folder what Prometheus and Grafana need: scrape.yml, rules.yml "
            "and dashboard.json."
        ),
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    systemd: SystemdVersion = None,
    as_json: AsJson = False,
) -> None:
    """Show the files that the site asks for; nothing is installed.

    Secrets are not shown. With --output they are written, readable by their
    owner alone. With --monitoring it is the scrape configuration, the alert
    rules and a dashboard that are written, and no others.

    \b
    Examples:
      optictl render optillm-proxy.service
      optictl render --output /tmp/staged
      optictl render --set service.profile=torch --json
      optictl render --monitoring /etc/prometheus/optillm
    """
    # Imported here: `optictl --help` needs no templates.
    from optictl.monitoring import monitoring as watching
    from optictl.system import RealSystem

    if monitoring is not None and output is not None:
        raise UsageError("--monitoring and --output each name a folder; give one of them")
    machine = open_machine(config, sets, user=user, systemd=systemd)
    if monitoring is None:
        wanted = machine.artifacts
    else:
        wanted = watching(machine.loaded.site, machine.places, monitoring.absolute())
    chosen = [each for each in wanted if name in ("", each.path.name)]
    if not chosen:
        known = ", ".join(each.path.name for each in wanted)
        raise UsageError(f"{name} is none of the site's files: {known}")
    written = output if monitoring is None else Path("/")
    if written is not None:
        _write(chosen, RealSystem(written.absolute()))
    if as_json:
        emit_json(Result("render", [_described(each) for each in chosen]))
    elif written is not None:
        for each in chosen:
            say(f"wrote {output or ''}{each.path}")
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
