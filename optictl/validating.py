"""Everything that a start of the service would load, loaded without starting it."""

from __future__ import annotations

import pwd
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optictl import systemd
from optictl.artifact import Artifact
from optictl.errors import OptictlError
from optictl.key_places import read_key
from optictl.machine import Machine
from optictl.peer_flags import refuse_leftovers
from optictl.site import KeyPlace, Site
from proxy.ensembles_file import load as load_ensembles
from proxy.errors import BadRequest, ConfigError
from proxy.registry import discover
from proxy.selector import select
from proxy.settings import read_key_file
from proxy.upstream.config_file import load
from proxy.upstream.routing import strategies

#: Finds what is wrong with unit files, a line each.
Verify = Callable[[Sequence[Path], systemd.Scope], list[str]]

_TARGETS: Mapping[systemd.Scope, tuple[str, ...]] = {
    "system": ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"),
    "user": (
        *("~/.config/systemd/user", "/etc/systemd/user"),
        *("/run/systemd/user", "/usr/lib/systemd/user"),
    ),
}


@dataclass(frozen=True, slots=True)
class Valid:
    """What was found to be sound, in a few words each."""

    of: tuple[str, ...]

    def line(self) -> str:
        return f"valid: {'; '.join(self.of)}"


def validate_files(
    proxy_config: Path | None,
    key_file: str | None,
    environ: Mapping[str, str],
    *,
    ensembles: Path | None = None,
    single: bool = False,
) -> Valid:
    """The files that the unit names, with the variables that it has.

    Raises `ConfigError` with every mistake, a line each.
    """
    mistakes: list[str] = []
    sound: list[str] = []
    if proxy_config is not None:
        with _noting(mistakes):
            count = len(load(proxy_config, environ, strategies()).providers)
            sound.append(f"{proxy_config} ({_counted(count, 'provider')})")
    if key_file is not None:
        with _noting(mistakes):
            read_key_file(key_file, "--optillm-api-key-file")
            sound.append(key_file)
    if ensembles is not None:
        with _noting(mistakes):
            count = len(load_ensembles(ensembles, single=single))
            sound.append(f"{ensembles} ({_counted(count, 'ensemble')})")
    _refuse(mistakes)
    return Valid(tuple(sound))


def validate_site(machine: Machine, verify: Verify = systemd.verify) -> Valid:
    """The site, the files rendered from it, and what they name on this machine.

    Raises `ConfigError` with every mistake, a line each, and `OptictlError` where nothing can be
    rendered for this machine at all.
    """
    site = machine.site
    mistakes: list[str] = []
    for name, place in _keys(site):
        with _noting(mistakes, name):
            read_key(place)
    with _noting(mistakes, "proxy.approach"):
        _check_approach(site.proxy.approach)
    with _noting(mistakes, "proxy.flags"):
        _check_flags(site.proxy.flags)
    # Without its keys nothing can be rendered.
    _refuse(mistakes)
    with tempfile.TemporaryDirectory(prefix="optictl-") as folder:
        mistakes += _in_rendered(machine, Path(folder), verify)
    _refuse(mistakes)
    units = _counted(sum(each.unit for each in machine.artifacts), "unit")
    files = _counted(len(machine.artifacts), "file")
    return Valid((str(machine.loaded.path), f"{files} rendered, {units} among them"))


@contextmanager
def _noting(mistakes: list[str], where: str = "") -> Iterator[None]:
    """What keeps the block from its end is noted, and others are looked at all the same."""
    try:
        yield
    except (OptictlError, ConfigError) as error:
        mistakes += [f"{where}: {line}" if where else line for line in str(error).splitlines()]


def _refuse(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _keys(site: Site) -> Iterator[tuple[str, KeyPlace]]:
    gateway = site.gateway
    named = {
        "upstream.key": site.upstream.key,
        "proxy.key": site.proxy.key,
        "gateway.master_key": gateway.master_key if gateway else None,
    }
    return ((name, place) for name, place in named.items() if place is not None)


def _check_approach(approach: str) -> None:
    try:
        select("-", discover(), (), default_base="-", default_approach=approach)
    except BadRequest as error:
        raise ConfigError(error.message) from None


def _check_flags(flags: Sequence[str]) -> None:
    """As ``optictl serve`` would take them."""
    # Imported here: it imports the commands, and a command imports this.
    from typer.exceptions import TyperException
    from typer.main import get_command

    from optictl.cli import build

    serve = get_command(build()).commands["serve"]  # type: ignore[attr-defined]
    try:
        context = serve.make_context("serve", list(flags))
    except TyperException as error:
        raise ConfigError(error.format_message()) from None
    refuse_leftovers(context.args)


def _in_rendered(machine: Machine, folder: Path, verify: Verify) -> list[str]:
    """What is wrong with the rendered files, said of where they are to be."""
    places = machine.places
    by_path = {artifact.path: artifact for artifact in machine.artifacts}
    units = [_written(folder, each) for each in machine.artifacts if each.unit]
    config = _written(folder, by_path[places.on_disk(places.proxy_config)])
    mistakes: list[str] = []
    with _noting(mistakes):
        load(config, _variables(machine.site), strategies())
    mistakes += verify(units, machine.site.service.scope)
    there = [
        line.replace(f"{folder}/{config.name}", str(places.proxy_config)).replace(
            str(folder), str(places.units)
        )
        for line in mistakes
    ]
    for unit in units:
        there += _not_seen_by_systemd(unit, machine)
    return there


def _written(folder: Path, artifact: Artifact) -> Path:
    path = folder / artifact.path.name
    path.touch(mode=0o600)
    path.write_bytes(artifact.content)
    return path


def _variables(site: Site) -> dict[str, str]:
    """Those of the rendered env file."""
    key = site.upstream.key
    upstream = {} if key is None else {"OPENAI_API_KEY": read_key(key).reveal()}
    return {**site.service.environment, **upstream}


def _not_seen_by_systemd(unit: Path, machine: Machine) -> Iterator[str]:
    """The four mistakes that ``systemd-analyze verify`` lets pass (measured on 252)."""
    folder = machine.places.units
    drop_ins = sorted((folder / f"{unit.name}.d").glob("*.conf"))
    to_come = {each.path for each in machine.artifacts}
    for file in (unit, *drop_ins):
        where = folder / unit.name if file is unit else file
        for number, key, value in _settings(file):
            said = _mistake(key, value, machine.site, to_come)
            if said:
                yield f"{where}:{number}: {said}"


def _settings(file: Path) -> Iterator[tuple[int, str, str]]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        key, equals, value = line.partition("=")
        if equals and value.strip() and not line.startswith(("#", ";")):
            yield number, key.strip(), value.strip()


def _mistake(key: str, value: str, site: Site, to_come: set[Path]) -> str:
    """What is wrong with a unit's setting; empty where nothing is."""
    match key:
        case "EnvironmentFile":
            path = Path(value)
            optional = value.startswith("-") or "%" in value or "*" in value
            if not optional and path not in to_come and not path.exists():
                return f"{path} does not exist; write it, or put - before it"
        case "User":
            if value != site.service.user and not _is_user(value):
                return f"there is no user {value}; make it: useradd --system {value}"
        case "WantedBy":
            for target in value.split():
                if not _is_target(target, site.service.scope):
                    return f"there is no {target}; see: systemctl list-unit-files '*.target'"
        case "ExecStart" | "ExecStartPost" | "ExecReload":
            program = value.lstrip("@-:+!").lstrip("\"'")
            if not program.startswith("/"):
                return f"{key}= begins with no absolute path: {shlex.quote(program.split()[0])}"
    return ""


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return name.isdecimal() or "%" in name
    return True


def _is_target(name: str, scope: systemd.Scope) -> bool:
    return any((Path(folder).expanduser() / name).exists() for folder in _TARGETS[scope])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
