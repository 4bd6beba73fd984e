"""Reads ``optictl.yaml``, and what stands above it.

A value comes from a flag (``--set proxy.port=4021``), else from the environment
(``OPTICTL_PROXY_PORT``), else from the file, else it has its default; `Loaded.origins` says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optictl.errors import NotInitialised
from optictl.site import SECTIONS, Site
from proxy.errors import ConfigError
from proxy.located import Document, parse
from proxy.strict import Interpolated, Problem, problems, report

#: The newest form of the file that this version reads.
VERSION = 1
ENV_PREFIX = "OPTICTL_"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A site, and where each of its values came from, by dotted name."""

    site: Site
    path: Path
    origins: Mapping[str, str] = field(default_factory=dict)


def load(path: Path, environ: Mapping[str, str], sets: Sequence[str] = ()) -> Loaded:
    """Read the file at ``path``; ``sets`` are ``KEY=VALUE`` of the command line.

    Raises `ConfigError` with ``FILE:LINE:COL`` for what stands in the file, and with the flag or
    the variable for what does not.
    """
    document = parse(_read(path), path)
    _check_version(document, path)
    tree = dict(document.value)
    origins = {name: f"{path}:{line}" for name, line in _lines(document, tree, ())}
    for name, text, origin in _overrides(environ, sets):
        _put(tree, name, text, origin)
        origins[name] = origin
    try:
        site = Site.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_refusal(error, document, path, origins)) from None
    return Loaded(site, path, origins)


def _read(path: Path) -> str:
    if not path.is_absolute():
        raise ConfigError(f"{path}: give an absolute path, so that it means the same everywhere")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotInitialised(f"{path} does not exist; write it with: optictl init") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _check_version(document: Document, path: Path) -> None:
    version = document.value.get("version", VERSION)
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        place = document.place(("version",))
        raise ConfigError(
            f"{path}:{place.line}:{place.column}: version {version} is newer than this optictl "
            f"knows ({VERSION}); upgrade optictl"
        )


def _lines(document: Document, value: Any, where: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """The dotted name of every value in the file, and its line."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(document, inner, (*where, key))
    elif where:
        yield ".".join(where), document.place(where).line


def _overrides(environ: Mapping[str, str], sets: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """What the environment and then the flags say: name, text, origin."""
    for section, model in SECTIONS.items():
        if "*" in section:
            continue
        for key in model.model_fields:
            name = ".".join((*section, key))
            variable = ENV_PREFIX + name.replace(".", "_").upper()
            if variable in environ and name not in _CONTAINERS:
                yield name, environ[variable], variable
    for given in sets:
        name, equals, text = given.partition("=")
        if not equals:
            raise ConfigError(f"--set {given}: write it as KEY=VALUE, such as proxy.port=4021")
        yield name.strip(), text, f"--set {name.strip()}"


#: Members that hold others, and so cannot be given as one text.
_CONTAINERS = frozenset(
    ".".join(section) for section in SECTIONS if section and "*" not in section
) | {
    "neighbours",
    "restart_order",
    "gateway.restart",
    "gateway.warm_command",
    "hosts",
    "models",
    "proxy.flags",
    "routing.handles",
    "service.environment",
}


def _put(tree: dict[str, Any], name: str, text: str, origin: str) -> None:
    *path, last = name.split(".")
    for step in path:
        inner = tree.get(step)
        tree[step] = inner = dict(inner) if isinstance(inner, dict) else {}
        tree = inner
    if name in _CONTAINERS:
        raise ConfigError(f"{origin}: {name} holds several values; set it in the file")
    tree[last] = Interpolated(text)


def _refusal(
    error: ValidationError, document: Document, path: Path, origins: Mapping[str, str]
) -> str:
    """What pydantic refuses, at its place: in the file, or on the command line."""
    in_file: list[Problem] = []
    elsewhere = []
    for problem in problems(error, SECTIONS):
        origin = origins.get(".".join(map(str, problem.where)), "")
        if origin.startswith((ENV_PREFIX, "--set")):
            elsewhere.append(f"{origin}: {problem.said}")
        else:
            in_file.append(problem)
    return "\n".join([*filter(None, [report(path, document, in_file)]), *elsewhere])
