"""What the operator declares in ``optictl.yaml``: one frozen `Site` that all else is rendered from.

It is read by `optictl.site_loading`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from proxy.settings import DEFAULT_HOST, DEFAULT_PORT
from proxy.strict import (
    Flag,
    Number,
    Section,
    Sections,
    Text,
    Whole,
    Word,
)


def _absolute(value: str) -> str:
    if not PurePosixPath(value).is_absolute():
        raise ValueError("must be an absolute path; begin it with /")
    return value


def _http(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


AbsolutePath = Annotated[
    Word, AfterValidator(_absolute), WithJsonSchema({"type": "string", "format": "path"})
]
Url = Annotated[Word, AfterValidator(_http), WithJsonSchema({"type": "string", "format": "uri"})]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Count = Annotated[Whole, Field(ge=1)]
#: A unit's name without its ending, which is also that of its folders.
UnitName = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
VariableName = Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HostName = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
UserName = Annotated[Text, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]


#: Words in the name of a variable that holds a secret.
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
#: Flags of ``optictl serve`` that stand in the file under names of their own, or may not at all.
FLAGS: Mapping[str, str] = {
    "--host": "proxy.host",
    "--port": "proxy.port",
    "--allow-external": "proxy.allow_external",
    "--base-url": "upstream.base_url",
    "--approach": "proxy.approach",
    "--model": "proxy.base_model",
    "--workers": "proxy.workers",
    "--threads": "proxy.threads",
    "--request-timeout": "proxy.request_timeout",
    "--optillm-api-key": "proxy.key",
    "--optillm-api-key-file": "proxy.key",
    "--upstream-api-key-file": "upstream.key",
    "--proxy-config": "upstream",
    "--ensembles": "ensembles",
    "--single-model-ensembles": "policy.single_model_handles",
}
#: Flags that are no setting: ``optictl degrade`` is.
SWITCHED = frozenset({"--degraded", "--degraded-file"})


def _no_secrets(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if SECRET_NAME.search(name):
            raise ValueError(
                f"{name} looks like a secret: say where it lives, as upstream.key does"
            )
    return variables


def _sizes(models: dict[str, str]) -> dict[str, str]:
    for name in models:
        if re.fullmatch(r"[a-z][a-z0-9-]*", name) is None:
            raise ValueError(
                f"must not name '{name}': write a-z, 0-9 and dashes, without the @ of the registry"
            )
    return models


def _on_or_off(value: object) -> object:
    # YAML's on and off are truth values.
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _dashed(prefix: str) -> str:
    if len(prefix) < 2 or not prefix.endswith("-"):
        raise ValueError("must be an approach or a pipeline and a dash; write it as in router-")
    return prefix


def _one_host_each(hosts: dict[str, Host]) -> dict[str, Host]:
    found: dict[str, str] = {}
    for name, host in hosts.items():
        for model in host.models:
            if found.setdefault(model, name) != name:
                raise ValueError(f"must not have {model} on {found[model]} and on {name}; keep one")
    return hosts


def _one_star_each(models: tuple[str, ...]) -> tuple[str, ...]:
    for model in models:
        if model.count("*") > 1:
            raise ValueError(f"must not hold '{model}': a pattern has one *")
    return models


def _no_settings(flags: tuple[str, ...]) -> tuple[str, ...]:
    for flag in flags:
        given = flag.partition("=")[0]
        name = given.replace("_", "-")
        if name in FLAGS:
            raise ValueError(f"{given} is {FLAGS[name]} in this file")
        if name in SWITCHED:
            raise ValueError(f"{given} is no setting: use optictl degrade")
    return flags


class _Declared(Section):
    """The text below a member is its description: in the JSON schema, and in docs/settings.md."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class KeyPlace(_Declared):
    """Where a secret lives: a file of its own, or a variable in a file of variables."""

    file: AbsolutePath | None = None
    """A file with nothing but the secret."""
    env_file: AbsolutePath | None = None
    """A file of variables, as systemd reads it."""
    name: Word | None = None
    """The variable in `env_file`."""

    @model_validator(mode="after")
    def _one_place(self) -> KeyPlace:
        alone = self.file is not None and self.env_file is None and self.name is None
        in_env = self.file is None and self.env_file is not None and self.name is not None
        if not alone and not in_env:
            raise ValueError("must be either 'file', or 'env_file' with the variable's 'name'")
        return self


class Service(_Declared):
    """The unit and whom it runs as."""

    name: UnitName = "optillm-proxy"
    """The unit's name without its ending; also that of its folder in /etc."""
    user: UserName = "optillm"
    """Whom it runs as, in system scope; made where there is none."""
    scope: Literal["system", "user"] = "system"
    """Whose systemd runs it: the machine's, or your own."""
    profile: Literal["strict", "torch"] = "strict"
    """The hardening. `torch` leaves out what breaks or slows inference in the same process."""
    environment: Annotated[dict[VariableName, Text], AfterValidator(_no_secrets)] = Field(
        default_factory=dict
    )
    """More variables for the service; none of them a secret."""


class Proxy(_Declared):
    """What `optictl serve` is started with."""

    host: Word = DEFAULT_HOST
    """The address to listen on."""
    port: Port = DEFAULT_PORT
    """The TCP port to listen on."""
    allow_external: Flag = False
    """Permit an address that is not loopback."""
    approach: Word = "proxy"
    """The approach or pipeline of requests that name none; `proxy` lets requests choose."""
    base_model: Word
    """The model of requests that name none; the warmup asks it."""
    workers: Annotated[Count, Field(le=64)] = 1
    """Worker processes."""
    threads: Annotated[Whole, Field(ge=2, le=8192)] = 512
    """Requests that a worker can hold at once."""
    request_timeout: Number = 600.0
    """Seconds that a request may take; a stop waits as long for those in flight."""
    warmup_timeout: Number = 60.0
    """Seconds that a start may take to its first answer."""
    key: KeyPlace | None = None
    """The key that clients must send."""
    flags: Annotated[tuple[Word, ...], AfterValidator(_no_settings)] = ()
    """More of the flags of `optictl serve`, a word each."""


class Upstream(_Declared):
    """The LiteLLM that base names are sent to."""

    base_url: Url = "http://127.0.0.1:4000/v1"
    """Its /v1 URL."""
    key: KeyPlace | None = None
    """The key that it asks for."""


class Gateway(_Declared):
    """The LiteLLM in front of us: its files, and how it is restarted."""

    router: AbsolutePath | None = None
    """Its `router.yaml`."""
    env_file: AbsolutePath | None = None
    """The file of variables that it is started with."""
    handles: AbsolutePath | None = None
    """The registry of handles, `handles.jsonl`."""
    base_url: Url = "http://127.0.0.1:4000/v1"
    """Its /v1 URL."""
    master_key: KeyPlace | None = None
    """Its master key."""
    restart: tuple[Word, ...] = ("systemctl", "restart", "litellm.service")
    """The command that restarts it, a word each."""
    mode: Literal["block", "include"] = "block"
    """Our models as a marked block in `router`, or as a file that it includes."""
    warm_command: tuple[Word, ...] = ()
    """Run before an ensemble's members are warmed: `{ensemble}`, `{models}`; a word each."""


class Policy(_Declared):
    """What is permitted."""

    single_model_handles: Literal["refuse", "allow"] = "refuse"
    """Ensembles of one model, and handles that stand for one: `moa-<base>`."""

    @property
    def single(self) -> bool:
        """Whether one model is enough."""
        return self.single_model_handles == "allow"


class Routing(_Declared):
    """Whether base handles go through us, and how we then call what is behind them."""

    mode: Annotated[Literal["off", "on"] | None, BeforeValidator(_on_or_off)] = None
    """Whether they do; without it, as `optictl route` has left it."""
    prefix: Annotated[Word, AfterValidator(_dashed)] = "router-"
    """What LiteLLM puts before a base handle's name when it asks us: an approach and a dash."""
    handles: tuple[Word, ...] = ()
    """The base handles; without it every chat model of LiteLLM's that is not ours."""


class Neighbour(_Declared):
    """A service on the same way: asked whether it answers."""

    name: Word
    """What it is called in messages."""
    url: Url | None = None
    """Where it answers; or `port`."""
    port: Annotated[Text, Field(pattern=r"^([^\s:/]+:|\[[0-9a-fA-F:]+\]:)?\d{1,5}$")] | None = None
    """`PORT` on this machine, or `HOST:PORT`: that something listens there is enough."""
    expect: Annotated[Whole, Field(ge=100, le=599)] = 200
    """The HTTP status with which `url` answers."""
    unit: Word | None = None
    """Its unit, where it is one of `restart_order`: after a restart its answer is waited for."""

    @model_validator(mode="after")
    def _one_address(self) -> Neighbour:
        if (self.url is None) == (self.port is None):
            raise ValueError("must have either 'url' or 'port'")
        return self


class Host(_Declared):
    """A machine that cannot serve all of its models at once."""

    models: Annotated[tuple[Word, ...], Field(min_length=1), AfterValidator(_one_star_each)]
    """Those that it serves: base names, or patterns with one `*`."""
    max_concurrent: Count = 1
    """Calls that it answers at once, of all of its models together."""


class Site(_Declared):
    """The whole file."""

    version: Literal[1] = 1
    """The form of the file."""
    service: Service = Service()
    proxy: Proxy
    upstream: Upstream = Upstream()
    gateway: Gateway | None = None
    ensembles: AbsolutePath | None = None
    """The registry of ensembles; without it those that come with optictl (ENSEMBLES.md)."""
    models: Annotated[dict[Text, Word], AfterValidator(_sizes)] = Field(default_factory=dict)
    """Base models for the registry's `@large`, `@large-2`, `@medium`, `@small`, without the @."""
    hosts: Annotated[dict[HostName, Host], AfterValidator(_one_host_each)] = Field(
        default_factory=dict
    )
    """Machines by name, for calls that go through the pool: `proxy.approach: proxy`."""
    policy: Policy = Policy()
    routing: Routing = Routing()
    neighbours: tuple[Neighbour, ...] = ()
    """Services on the same way, asked by `optictl check`."""
    restart_order: tuple[Word, ...] = ()
    """Units in the order in which `optictl restart --all` restarts them."""


SECTIONS: Sections = {
    (): Site,
    ("service",): Service,
    ("proxy",): Proxy,
    ("proxy", "key"): KeyPlace,
    ("upstream",): Upstream,
    ("upstream", "key"): KeyPlace,
    ("gateway",): Gateway,
    ("gateway", "master_key"): KeyPlace,
    ("hosts", "*"): Host,
    ("policy",): Policy,
    ("routing",): Routing,
    ("neighbours", "*"): Neighbour,
}


#: What pydantic calls a limit that stands behind a validator, and what JSON Schema does.
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}


def json_schema(model: type[Section] = Site) -> dict[str, Any]:
    """The JSON schema of the file, or of one of its sections."""
    found: dict[str, Any] = _renamed(model.model_json_schema())
    return found


def settings_of(site: Site) -> Iterator[tuple[str, Any]]:
    """Every value of a site by its dotted name, in JSON types. None of them is a secret."""
    yield from _flat(site.model_dump(mode="json"), ())


def _renamed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_renamed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {_LIMITS.get(key, key): _renamed(value) for key, value in schema.items()}


def _flat(value: Any, where: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, (*where, key))
    else:
        yield ".".join(where), value
