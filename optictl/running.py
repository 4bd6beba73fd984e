"""What a unit on disk runs: its command line and variables, as systemd would make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from optictl.errors import CannotRead
from optictl.system import System
from optictl.takeover import Variable, program
from optictl.unit_file import (
    UnitFile,
    commands,
    environment_file,
    expanded,
    parse_unit,
    specified,
    words,
)


@dataclass(frozen=True, slots=True)
class Running:
    """One service as its unit, drop-ins and files of variables say."""

    path: Path
    unit: UnitFile
    #: The arguments of each command of ExecStart=, with the place where that stands.
    started: tuple[tuple[list[str], str], ...]
    variables: Mapping[str, Variable]
    environment_files: tuple[Path, ...]
    drop_ins: tuple[Path, ...]
    specifiers: Mapping[str, str]
    system: bool

    def program(
        self, names: Sequence[tuple[str, ...]]
    ) -> tuple[list[str], dict[str, str], str] | None:
        """The flags of the command that runs one of ``names``, its own variables, its place."""
        for arguments, origin in self.started:
            found = program(arguments, names)
            if found is not None:
                return (*found, origin)
        return None

    def credential(self, text: str) -> Path | None:
        """The file that a path on the command line stands for; LoadCredential= hands some over."""
        handed = Path(f"/run/credentials/{self.path.name}")
        path = Path(text)
        if not path.is_relative_to(handed):
            return path if path.is_absolute() else None
        for each in self.unit.all("LoadCredential"):
            name, _, source = specified(each.value, self.specifiers).partition(":")
            if name == path.name and source.startswith("/"):
                return Path(source)
        return None


def read(system: System, path: Path, notes: list[str]) -> bytes | None:
    """A file of someone else's; None, with a note, where it cannot be read."""
    if not path.is_absolute():
        return None
    try:
        found = system.read(path)
    except CannotRead as error:
        notes.append(f"{error}; not looked at")
        return None
    return None if found is None else found.content


def names_in(system: System, folder: Path) -> list[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        return system.listing(folder)
    except CannotRead:
        return []


def read_service(system: System, path: Path, home: Path, notes: list[str]) -> Running | None:
    """The service at ``path``; None where there is none. ``home`` is whose systemd runs it.

    A system unit has ``%h`` from root, whatever its User=.
    """
    content = read(system, path, notes)
    if content is None:
        return None
    folder = path.with_name(f"{path.name}.d")
    drop_ins = tuple(folder / name for name in names_in(system, folder) if name.endswith(".conf"))
    assignments = list(parse_unit(content, path).assignments)
    for drop_in in drop_ins:
        assignments += parse_unit(read(system, drop_in, notes) or b"", drop_in).assignments
    unit = UnitFile(tuple(assignments))
    in_system = not path.is_relative_to(home / ".config")
    specifiers = _specifiers(path, in_system, home)
    files = _environment_files(system, unit, specifiers)
    variables = _variables(system, unit, specifiers, files, notes)
    values = {name: variable.value for name, variable in variables.items()}
    started = []
    for each in unit.all("ExecStart"):
        for command in commands(specified(each.value, specifiers)):
            started.append((expanded(command, values), each.origin))
    return Running(
        path,
        unit,
        tuple(started),
        variables,
        files,
        drop_ins,
        specifiers,
        in_system,
    )


def _specifiers(path: Path, system: bool, home: Path) -> Mapping[str, str]:
    whole = {"n": path.name, "N": path.stem, "p": path.stem, "i": "", "I": ""}
    whole["d"] = f"/run/credentials/{path.name}"
    if system:
        roots = {"h": "/root", "u": "root", "U": "0", "E": "/etc", "S": "/var/lib"}
        return {**whole, **roots, "C": "/var/cache", "L": "/var/log", "t": "/run"}
    return {**whole, "h": str(home), "E": f"{home}/.config", "C": f"{home}/.cache"}


def _environment_files(
    system: System, unit: UnitFile, specifiers: Mapping[str, str]
) -> tuple[Path, ...]:
    found: list[Path] = []
    for each in unit.all("EnvironmentFile"):
        path = Path(specified(each.value, specifiers).removeprefix("-"))
        if "*" in path.name or "?" in path.name:
            names = [name for name in names_in(system, path.parent) if fnmatch(name, path.name)]
            found += [path.parent / name for name in names]
        else:
            found.append(path)
    return tuple(found)


def _variables(
    system: System,
    unit: UnitFile,
    specifiers: Mapping[str, str],
    files: Sequence[Path],
    notes: list[str],
) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    for each in unit.all("Environment"):
        for word in words(specified(each.value, specifiers)):
            name, equals, value = word.partition("=")
            if equals:
                found[name] = Variable(value, each.origin)
    # These come before Environment=, wherever they stand.
    for file in files:
        for name, value in environment_file(read(system, file, notes) or b"").items():
            found[name] = Variable(value, str(file), file)
    return found
