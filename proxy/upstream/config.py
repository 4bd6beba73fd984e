"""Which providers there are, and how calls are shared out among them: plain values.

Where they come from: `proxy.upstream.config_file` reads the operator's file, `alone` makes a pool
of one from the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from proxy.settings import Secret, Settings

#: How a provider is addressed: OpenAI's paths, or Azure's deployments.
Kind = Literal["openai", "azure"]
#: ``key``: the key as it is. ``entra``: a token of Microsoft Entra ID, fetched when it is needed.
Auth = Literal["key", "entra"]


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One provider."""

    name: str
    #: Without a slash at its end.
    base_url: str
    api_key: Secret | None = None
    weight: float = 1.0
    #: Called only when all others have failed.
    fallback_only: bool = False
    #: The model's name here, by its name or by a pattern with one ``*``.
    model_map: Mapping[str, str] = field(default_factory=dict)
    max_concurrent: int | None = None
    #: The machine that serves a model, by pattern; what shares one is limited together.
    hosts: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "openai"
    auth: Auth = "key"
    #: Azure's ``api-version``.
    api_version: str | None = None
    #: ``native``: k samples are one call with ``n: k``.
    n: Literal["single", "native"] = "single"
    #: ``stream``: every call is streamed, for a server that notices a hang-up only then.
    cancel: Literal["close", "stream"] = "close"
    #: Where the operator has put the key: for a message about its refusal.
    key_source: str = "api_key in the provider's configuration"

    def model(self, name: str) -> str:
        """What this provider calls ``name``: exact names first, then the longest pattern.

        The ``*`` of a target is what the ``*`` of its pattern stood for.
        """
        if name in self.model_map:
            return self.model_map[name]
        pattern = _best(self.model_map, name)
        return name if pattern is None else _filled(pattern, self.model_map[pattern], name)

    def host(self, name: str) -> str | None:
        """The machine that serves model ``name``, where the operator named it."""
        if name in self.hosts:
            return self.hosts[name]
        pattern = _best(self.hosts, name)
        return None if pattern is None else self.hosts[pattern]

    def names_of(self, listed: str) -> list[str]:
        """What clients may call the model that this provider lists as ``listed``.

        A name that is the target of a mapping is internal, and its public name stands for it.
        """
        public = [name for name, target in self.model_map.items() if target == listed]
        if not public:
            targets = {t: p for p, t in self.model_map.items() if "*" in p and "*" in t}
            target = _best(targets, listed)
            public = [] if target is None else [_filled(target, targets[target], listed)]
        return [name for name in public if "*" not in name] or [listed]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """``GET /models`` of each provider; seconds."""

    enabled: bool = True
    interval: float = 30.0
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """How many calls may be under way, and who may wait for how long. None is no limit."""

    max_concurrent: int | None = 100
    timeout: float = 60.0
    #: Calls that may wait; beyond it first calls of a request are refused at once.
    size: int = 1000


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A pool of providers. Seconds unless a name says otherwise."""

    providers: tuple[ProviderConfig, ...]
    strategy: str = "round_robin"
    health_check: HealthCheck = HealthCheck()
    #: Silence on one call.
    request_timeout: float = 30.0
    connect_timeout: float = 5.0
    queue: QueueConfig = QueueConfig()
    #: Calls at once, by host.
    hosts: Mapping[str, int] = field(default_factory=dict)
    log_level: str | None = None
    track_latency: bool = False
    track_errors: bool = True
    #: Whether a provider that fails is left out for a while.
    breaker: bool = True


def alone(settings: Settings) -> PoolConfig:
    """The pool of one provider that the command line names: nothing queues, nothing is left out."""
    provider = ProviderConfig(
        name="upstream",
        base_url=settings.base_url.rstrip("/"),
        api_key=settings.upstream_key,
        kind=settings.upstream_kind,
        auth=settings.upstream_auth,
        api_version=settings.upstream_api_version,
        n=settings.upstream_n,
        cancel=settings.upstream_cancel,
        key_source=settings.upstream_key_source,
    )
    return PoolConfig(
        providers=(provider,),
        strategy="failover",
        request_timeout=settings.upstream_timeout,
        connect_timeout=settings.connect_timeout,
        queue=QueueConfig(max_concurrent=None),
        breaker=False,
    )


def _best(patterns: Mapping[str, str], name: str) -> str | None:
    """The pattern with the most characters of its own that fits ``name``."""
    fitting = [p for p in patterns if "*" in p and fnmatchcase(name, _literal(p))]
    return max(fitting, key=len, default=None)


def _literal(pattern: str) -> str:
    """A pattern in which only ``*`` means something."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def _filled(pattern: str, target: str, name: str) -> str:
    before, _, after = pattern.partition("*")
    return target.replace("*", name[len(before) : len(name) - len(after)], 1)
