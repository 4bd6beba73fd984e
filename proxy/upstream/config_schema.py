"""What may stand in ``proxy_config.yaml``, and what is said where something else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
)

from proxy.errors import ConfigError
from proxy.settings import key_from_flag
from proxy.strict import (
    Count,
    Flag,
    Number,
    Section,
    Sections,
    Text,
    Whole,
    Word,
    choices,
)
from proxy.upstream.config import Auth, Kind

#: Stands for a key that nobody wrote.
_ABSENT: Any = object()


def _base_url(value: str) -> str:
    """Without the slash at its end. It may hold a password, so messages do not show it."""
    if not value.isprintable() or " " in value:
        raise ValueError("must not hold white space or control characters; remove them")
    try:
        url = urlsplit(value)
        sound = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must be a URL such as https://api.openai.com/v1")
    if "@" in url.netloc:
        raise ValueError("must not hold a user or a password; put the key into api_key")
    if "?" in value or "#" in value:
        raise ValueError("must end with the path; remove what begins with '?' or '#'")
    return value.rstrip("/")


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _for_all_models(value: object) -> object:
    return {"*": value} if isinstance(value, str) else value


def _as_limit(value: object) -> object:
    """``gpu: 2`` for ``gpu: {max_concurrent: 2}``."""
    return value if isinstance(value, dict) else {"max_concurrent": value}


Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class Provider(Section):
    # No key is a choice of its own.
    nullable = frozenset({"api_key"})

    name: Word
    base_url: Annotated[Text, AfterValidator(_base_url)]
    auth: Auth = "key"
    api_key: Annotated[str | None, Field(validate_default=True, repr=False)] = _ABSENT
    weight: Number = 1.0
    fallback_only: Flag = False
    model_map: Mapping[str, Word] = Field(default_factory=dict)
    max_concurrent: Count | None = None
    host: Annotated[Mapping[str, Word], BeforeValidator(_for_all_models)] = Field(
        default_factory=dict
    )
    kind: Kind | None = None
    api_version: Word | None = None
    n: Literal["single", "native"] = "single"
    cancel: Literal["close", "stream"] = "close"

    @field_validator("api_key", mode="plain")
    @classmethod
    def _key(cls, value: object, info: ValidationInfo) -> str | None:
        if value is _ABSENT:
            if info.data.get("auth") == "key":
                raise ValueError('is missing; write api_key: "" if the provider wants none')
            return None
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise ValueError("must be text; put it in quotes")
        try:
            return key_from_flag(str(value), "cannot be used").reveal()
        except ConfigError as error:
            raise ValueError(str(error)) from None


class HealthCheck(Section):
    enabled: Flag = True
    interval: Number = 30.0
    timeout: Number = 5.0


class Routing(Section):
    strategy: Text = "round_robin"
    health_check: HealthCheck = HealthCheck()

    @field_validator("strategy", mode="before")
    @classmethod
    def _known(cls, value: object, info: ValidationInfo) -> object:
        strategies = sorted(info.context or ())
        if isinstance(value, str) and value not in strategies:
            raise ValueError(choices(value, strategies))
        return value


class Timeouts(Section):
    request: Number = 30.0
    connect: Number = 5.0


class Queue(Section):
    max_concurrent: Count = 100
    timeout: Number = 60.0
    size: Annotated[Whole, Field(ge=0)] | None = None


class Monitoring(Section):
    log_level: Level | None = None
    track_latency: Flag = False
    track_errors: Flag = True


class Host(Section):
    max_concurrent: Count


class File(Section):
    """The whole file."""

    providers: Annotated[list[Provider], Field(min_length=1)]
    routing: Routing = Routing()
    timeouts: Timeouts = Timeouts()
    queue: Queue = Queue()
    monitoring: Monitoring = Monitoring()
    hosts: Mapping[str, Annotated[Host, BeforeValidator(_as_limit)]] = Field(default_factory=dict)


#: All of them by the keys that lead there.
SECTIONS: Sections = {
    (): File,
    ("providers", "*"): Provider,
    ("routing",): Routing,
    ("routing", "health_check"): HealthCheck,
    ("timeouts",): Timeouts,
    ("queue",): Queue,
    ("monitoring",): Monitoring,
    ("hosts", "*"): Host,
}
