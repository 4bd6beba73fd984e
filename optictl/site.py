"""What the operator declares in ``optictl.yaml``: one frozen `Site` that all else is rendered from.

A value comes from a flag (``--set proxy.port=4021``), else from the environment
(``OPTICTL_PROXY_PORT``), else from the file, else it has its default; `Loaded.origins` says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from proxy.errors import ConfigError
from proxy.located import Document, parse
from proxy.settings import DEFAULT_HOST, DEFAULT_PORT
from proxy.strict import (
    Flag,
    Interpolated,
    Number,
    Problem,
    Section,
    Sections,
    Text,
    Whole,
    Word,
    problems,
    report,
)

#: The newest form of the file that this version reads.
VERSION = 1
ENV_PREFIX = "OPTICTL_"


def _absolute(value: str) -> str:
    if not PurePosixPath(value).is_absolute():
        raise ValueError("must be an absolute path; begin it with /")
    return value


def _http(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


AbsolutePath = Annotated[Word, AfterValidator(_absolute)]
Url = Annotated[Word, AfterValidator(_http)]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Count = Annotated[Whole, Field(ge=1)]
#: A unit's name without its ending, which is also that of its folders.
UnitName = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
UserName = Annotated[Text, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]


class KeyPlace(Section):
    """Where a secret lives: a file of its own, or a variable in a file of variables."""

    file: AbsolutePath | None = None
    env_file: AbsolutePath | None = None
    name: Word | None = None

    @model_validator(mode="after")
    def _one_place(self) -> KeyPlace:
        alone = self.file is not None and self.env_file is None and self.name is None
        in_env = self.file is None and self.env_file is not None and self.name is not None
        if not alone and not in_env:
            raise ValueError("must be either 'file', or 'env_file' with the variable's 'name'")
        return self


class Service(Section):
    """The unit and whom it runs as."""

    name: UnitName = "optillm-proxy"
    user: UserName = "optillm"
    scope: Literal["system", "user"] = "system"
    #: ``torch`` leaves out what breaks or slows inference in the service's own process.
    profile: Literal["strict", "torch"] = "strict"


class Proxy(Section):
    """What ``optictl serve`` is started with."""

    host: Word = DEFAULT_HOST
    port: Port = DEFAULT_PORT
    allow_external: Flag = False
    approach: Word = "proxy"
    base_model: Word
    workers: Annotated[Count, Field(le=64)] = 1
    threads: Annotated[Whole, Field(ge=2, le=8192)] = 512
    request_timeout: Number = 600.0
    warmup_timeout: Number = 60.0
    #: The key that clients must send.
    key: KeyPlace | None = None


class Upstream(Section):
    """The LiteLLM that base names are sent to."""

    base_url: Url = "http://127.0.0.1:4000/v1"
    key: KeyPlace | None = None


class Gateway(Section):
    """The LiteLLM in front of us: its files, and how it is restarted."""

    router: AbsolutePath | None = None
    env_file: AbsolutePath | None = None
    handles: AbsolutePath | None = None
    base_url: Url = "http://127.0.0.1:4000/v1"
    master_key: KeyPlace | None = None
    restart: tuple[Word, ...] = ("systemctl", "restart", "litellm.service")
    mode: Literal["block", "include"] = "block"


class Routing(Section):
    """Whether every base handle goes through us, and how we then call what is behind it."""

    mode: Literal["off", "on"] = "off"
    prefix: Word = "router-"


class Neighbour(Section):
    """A service on the same way: asked whether it answers."""

    name: Word
    url: Url | None = None
    #: ``PORT`` on this machine, or ``HOST:PORT``.
    port: Annotated[Text, Field(pattern=r"^([^\s:/]+:|\[[0-9a-fA-F:]+\]:)?\d{1,5}$")] | None = None
    expect: Annotated[Whole, Field(ge=100, le=599)] = 200

    @model_validator(mode="after")
    def _one_address(self) -> Neighbour:
        if (self.url is None) == (self.port is None):
            raise ValueError("must have either 'url' or 'port'")
        return self


class Site(Section):
    """The whole file."""

    version: Literal[1] = 1
    service: Service = Service()
    proxy: Proxy
    upstream: Upstream = Upstream()
    gateway: Gateway | None = None
    #: The registry of ensembles.
    ensembles: AbsolutePath | None = None
    routing: Routing = Routing()
    neighbours: tuple[Neighbour, ...] = ()
    #: Units in the order in which ``restart-all.sh`` restarts them.
    restart_order: tuple[Word, ...] = ()


SECTIONS: Sections = {
    (): Site,
    ("service",): Service,
    ("proxy",): Proxy,
    ("proxy", "key"): KeyPlace,
    ("upstream",): Upstream,
    ("upstream", "key"): KeyPlace,
    ("gateway",): Gateway,
    ("gateway", "master_key"): KeyPlace,
    ("routing",): Routing,
    ("neighbours", "*"): Neighbour,
}


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


def settings_of(site: Site) -> Iterator[tuple[str, Any]]:
    """Every value of a site by its dotted name, in JSON types. None of them is a secret."""
    yield from _flat(site.model_dump(mode="json"), ())


def _flat(value: Any, where: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, (*where, key))
    else:
        yield ".".join(where), value


def _read(path: Path) -> str:
    if not path.is_absolute():
        raise ConfigError(f"{path}: give an absolute path, so that it means the same everywhere")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; write it with: optictl init") from None
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
) | {"neighbours", "restart_order", "gateway.restart"}


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
