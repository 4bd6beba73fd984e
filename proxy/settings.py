"""Everything this process was started with, validated once, then immutable.

The master builds one ``Settings`` and the workers inherit it by fork: a worker reads no file and
no environment variable.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.ensembles import Ensemble
    from proxy.router.config import RouterSettings
    from proxy.upstream.config import PoolConfig

#: Default port of the service, and the address of the operator's own machine.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4020


_Number = TypeVar("_Number", int, float)


class Secret:
    """A string that does not print itself."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def matches(self, candidate: bytes) -> bool:
        """Compare in constant time; any bytes are a legal candidate."""
        return hmac.compare_digest(self._value.encode(), candidate)

    def redact(self, text: str) -> str:
        """``text`` without this secret, for words that came from elsewhere."""
        return text.replace(self._value, "***") if self._value else text

    def __repr__(self) -> str:
        return "Secret('***')"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may spend. ``None`` is no limit."""

    max_calls: int | None = None
    max_total_tokens: int | None = None
    max_seconds: float | None = None

    def within(self, cap: Limits) -> Limits:
        """The stricter of both, limit by limit."""
        return Limits(
            max_calls=_least(self.max_calls, cap.max_calls),
            max_total_tokens=_least(self.max_total_tokens, cap.max_total_tokens),
            max_seconds=_least(self.max_seconds, cap.max_seconds),
        )


def _least(a: _Number | None, b: _Number | None) -> _Number | None:
    given = [value for value in (a, b) if value is not None]
    return min(given) if given else None


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the calls of a worker do together, or twice; nothing of it unless it is asked for."""

    #: Calls that go out together at most; None: each goes by itself.
    batch_size: int | None = None
    #: Seconds that one waits for the others.
    batch_wait: float = 0.05
    #: Equal calls at temperature 0 that are under way together are one.
    single_flight: bool = False
    #: Seconds that their answers are kept for; None: not at all. Implies single flight.
    cache_ttl: float | None = None
    cache_bytes: int = 64 * 1024 * 1024
    #: A call that takes unusually long is tried a second time.
    hedge: bool = False


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where requests are told of, besides the last thousand at ``/traces``."""

    #: Traces, one a line: a file, or with ``daily`` a folder with a file for each day.
    log: Path | None = None
    daily: bool = False
    #: Keep what was asked and answered too.
    text: bool = False
    #: What was used, by day and handle.
    usage: Path | None = None
    #: The URL of an OpenTelemetry collector, for OTLP over HTTP.
    otel: str | None = None


@dataclass(frozen=True, slots=True)
class ConversationLog:
    """Where every request is kept with its calls and its answer, for how long, and how much."""

    folder: Path
    days: int = 30
    #: Bytes of all its files.
    size: int = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """One immutable snapshot. Seconds and bytes unless a name says otherwise."""

    base_url: str
    upstream_key: Secret | None = None
    proxy_key: Secret | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    approach: str = "auto"
    model: str = "gpt-4o-mini"
    choices: int = 1
    workers: int = 1
    threads: int = 512
    request_timeout: float = 600.0
    graceful_timeout: float | None = None
    upstream_timeout: float = 300.0
    connect_timeout: float = 5.0
    upstream_n: Literal["single", "native"] = "single"
    upstream_cancel: Literal["close", "stream"] = "close"
    upstream_kind: Literal["openai", "azure"] = "openai"
    upstream_auth: Literal["key", "entra"] = "key"
    upstream_api_version: str | None = None
    #: Where the operator has put the key: for a message about its refusal.
    upstream_key_source: str = "OPENAI_API_KEY or --upstream-api-key-file"
    #: The providers of proxy_config.yaml, for requests that name ``proxy``; None without that file.
    pool: PoolConfig | None = None
    ssl_verify: bool = True
    #: Certificates in PEM that an upstream's may be signed by; None for the system's.
    ssl_ca: str | None = None
    max_body: int = 32 * 1024 * 1024
    #: The bodies of all requests that a worker has admitted; never less than one may have.
    max_pending_body: int = 512 * 1024 * 1024
    max_choices: int = 8
    #: Calls of one request that may be under way at once.
    max_fanout: int = 16
    #: How long samples are waited for once two thirds are there, in times what these took; None:
    #: all are.
    patience: float | None = None
    limits: Limits = field(default_factory=Limits)
    sharing: Sharing = Sharing()
    tracing: Tracing = Tracing()
    options: Mapping[str, Any] = field(default_factory=dict)
    allow_prompt_tags: bool = False
    #: Besides Open WebUI's own: what marks a request as an auxiliary task.
    task_patterns: tuple[re.Pattern[str], ...] = ()
    #: Names that are answered by several models.
    ensembles: Mapping[str, Ensemble] = field(default_factory=dict)
    #: What a handle's name stands for, by its `proxy.ensembles.handle_key`.
    aliases: Mapping[str, str] = field(default_factory=dict)
    #: The classifier of the approach ``router``; None for a service without one.
    router: RouterSettings | None = None
    #: Answer every request by ``none``.
    degraded: bool = False
    #: Names that a gateway keeps for its own routing: those in front of a model's are not listed.
    internal_prefix: str = "router-"
    #: Tell about early stages as ``reasoning_content`` unless a request says otherwise.
    progress: bool = False
    log_level: str = "info"
    log_format: Literal["logfmt", "json"] = "logfmt"
    #: None: conversations are nobody's business.
    conversations: ConversationLog | None = None
    socket_timeout: float = 30.0
    loop_stuck_after: float = 20.0
    #: Tells this service from others on a request's way (`proxy.hops`).
    instance: str = "optillm"
    #: Told at ``/health/ready``.
    version: str = ""

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """All keys there are, so that no text shows one."""
        providers = () if self.pool is None else self.pool.providers
        keys = (self.proxy_key, self.upstream_key, *(each.api_key for each in providers))
        return tuple(key for key in keys if key is not None)

    @property
    def texts_kept(self) -> bool:
        """Whether what is asked and answered is kept somewhere."""
        return self.conversations is not None or self.tracing.text

    @property
    def drain(self) -> float:
        """How long a stopping worker may take: longer than any request, unless told otherwise."""
        if self.graceful_timeout is not None:
            return self.graceful_timeout
        return self.request_timeout + 5.0

    @property
    def beat_every(self) -> float:
        """How often a worker's loop shows that it turns."""
        return min(1.0, self.loop_stuck_after / 4)

    @property
    def admitted(self) -> int:
        """How many chats a worker takes on at once; the rest of its threads answer /health."""
        return max(1, self.threads - min(16, max(1, self.threads // 4)))


def read_key_file(path: str, flag: str) -> Secret:
    """Read a key from a file that only its owner can read.

    One trailing newline is not part of the key. Raises `ConfigError` naming ``flag``.
    """
    file = Path(path).expanduser()
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{flag}: {file} is not a regular file")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{flag}: {file} does not exist") from None
    except UnicodeDecodeError:
        # Its own words quote the byte, which is part of a key.
        raise ConfigError(f"{flag}: {file} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {file}: {error}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(
            f"{flag}: {file} can be read by everybody (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod 600 {file}"
        )
    return key_from_flag(text.removesuffix("\n"), f"{flag}: {file}")


def key_from_flag(key: str, source: str) -> Secret:
    """A key as a `Secret`; raises `ConfigError` for one that no header can carry."""
    if not key.strip():
        raise ConfigError(f"{source}: the key is empty")
    if not key.isprintable() or " " in key:
        raise ConfigError(f"{source}: the key holds white space or control characters")
    return Secret(key)


def read_ca_bundle(path: str, flag: str) -> str:
    """The certificates of a PEM file; raises `ConfigError` naming ``flag``."""
    file = Path(path).expanduser()
    try:
        # What is not ASCII stands in comments.
        text = file.read_text(encoding="ascii", errors="ignore")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{flag}: {file}: {said}") from None
    return text


def is_loopback(host: str) -> bool:
    """Whether every address of ``host`` stays on this machine; raises `ConfigError`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from None
    return all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)
