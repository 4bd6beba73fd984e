"""Reads ``proxy_config.yaml`` (docs/proxy-config.md)."""

from __future__ import annotations

import logging
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from proxy.errors import ConfigError
from proxy.located import Document, Where, parse
from proxy.settings import Secret
from proxy.strict import Interpolated, Problem, did_you_mean, problems, report
from proxy.upstream.azure import API_VERSION, check_installed
from proxy.upstream.config import HealthCheck, Kind, PoolConfig, ProviderConfig, QueueConfig
from proxy.upstream.config_schema import SECTIONS, File, Provider
from proxy.upstream.interpolation import InterpolationError, interpolate

_log = logging.getLogger("optillm.config")

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def load(path: Path, environ: Mapping[str, str], strategies: Collection[str]) -> PoolConfig:
    """The pool that the file at ``path`` describes.

    Raises `ConfigError` with all that is wrong in the file, one ``FILE:LINE:COL: …`` a line, in the
    order of the file. Warns where everybody can read a key in it.
    """
    text, mode = _read(path)
    pool, holds_key = loads(text, path, environ, strategies)
    if mode & stat.S_IROTH and holds_key:
        _log.warning(
            "%s holds a key and everybody can read it (mode %04o); run: chmod 600 %s",
            path,
            stat.S_IMODE(mode),
            path,
        )
    return pool


def loads(
    text: str, path: Path, environ: Mapping[str, str], strategies: Collection[str]
) -> tuple[PoolConfig, bool]:
    """The same from a text that need not be at ``path`` yet; and whether it holds a key."""
    document = parse(text, path)
    unresolved: list[Problem] = []
    tree = _resolved(document.value, (), environ, unresolved)
    file, found = _validated(tree, strategies)
    found += _across(document, tree)
    # What is said about a value that could not be made is said about its text instead.
    places = {problem.where for problem in unresolved}
    found = unresolved + [problem for problem in found if problem.where not in places]
    if file is None or found:
        raise ConfigError(report(path, document, found))
    return _pool(file, path, environ), _holds_key(document, file)


def _read(path: Path) -> tuple[str, int]:
    """The text of a file, and its mode."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path} is not a regular file")
        if not mode & 0o444:
            # Root could read it all the same, but someone has taken it out of use.
            raise ConfigError(
                f"{path}: nobody may read it (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    try:
        return content.decode(), mode
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError(f"{path}:{line}:{column}: not UTF-8; save the file as UTF-8") from None


def _resolved(
    value: Any, where: Where, environ: Mapping[str, str], unresolved: list[Problem]
) -> Any:
    """``value`` with its references replaced; what cannot be is left and noted."""
    if isinstance(value, dict):
        return {k: _resolved(v, (*where, k), environ, unresolved) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, (*where, i), environ, unresolved) for i, v in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return Interpolated(interpolate(value, environ))
    except InterpolationError as error:
        unresolved.append(Problem(where, str(error)))
        return value


def _validated(tree: object, strategies: Collection[str]) -> tuple[File | None, list[Problem]]:
    try:
        return File.model_validate(tree, context=strategies), []
    except ValidationError as error:
        return None, list(problems(error, SECTIONS))


def _across(document: Document, tree: Mapping[str, Any]) -> Iterator[Problem]:
    """What no value shows by itself. Values of a wrong type are no concern here."""
    names: dict[str, Where] = {}
    hosts: set[str] = set()
    listed = tree.get("providers")
    for i, provider in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(provider, dict):
            continue
        where: Where = ("providers", i)
        name = provider.get("name")
        if isinstance(name, str) and name in names:
            line = document.place(names[name]).line
            yield Problem(
                (*where, "name"), f"the provider in line {line} has this name too; rename one"
            )
        elif isinstance(name, str):
            names[name] = (*where, "name")
        yield from _patterns(where, provider)
        if provider.get("api_key") == "" and not _meant(document.value["providers"][i]["api_key"]):
            yield Problem(
                (*where, "api_key"), 'api_key is empty; set its variable, or write "" to send none'
            )
        host = provider.get("host")
        served = host.values() if isinstance(host, dict) else [host]
        hosts |= {name for name in served if isinstance(name, str)}
    limits = tree.get("hosts")
    for host in limits if isinstance(limits, dict) else {}:
        if host not in hosts:
            yield Problem(
                ("hosts", host),
                f"no provider has 'host: {host}'{did_you_mean(host, hosts) or '; remove it'}",
                key=True,
            )


def _patterns(where: Where, provider: Mapping[str, Any]) -> Iterator[Problem]:
    for key in ("model_map", "host"):
        mapping = provider.get(key)
        for pattern, target in mapping.items() if isinstance(mapping, dict) else ():
            place = (*where, key, pattern)
            if pattern.count("*") > 1:
                yield Problem(place, f"pattern '{pattern}' holds more than one '*'", key=True)
            if key == "host" or not isinstance(target, str):
                continue
            if target.count("*") > 1:
                yield Problem(place, "a model's name may hold only one '*'")
            elif "*" in target and "*" not in pattern:
                yield Problem(place, f"'*' stands for nothing: there is none in '{pattern}'")


def _meant(written: str) -> bool:
    """Whether the key is empty because that is what was written: ``""`` or ``${KEY:-}``."""
    return not written or written.rstrip("}").endswith(":-")


def _holds_key(document: Document, file: File) -> bool:
    """Whether a key is written out in the file, if only as a default."""
    return any(
        provider.api_key and provider.api_key in document.value["providers"][i]["api_key"]
        for i, provider in enumerate(file.providers)
    )


def _pool(file: File, path: Path, environ: Mapping[str, str]) -> PoolConfig:
    if any(provider.auth == "entra" for provider in file.providers):
        check_installed()
    check, queue = file.routing.health_check, file.queue
    level = file.monitoring.log_level
    return PoolConfig(
        providers=tuple(
            _provider(provider, f"providers[{i}].api_key in {path}", environ)
            for i, provider in enumerate(file.providers)
        ),
        strategy=file.routing.strategy,
        health_check=HealthCheck(check.enabled, check.interval, check.timeout),
        request_timeout=file.timeouts.request,
        connect_timeout=file.timeouts.connect,
        queue=QueueConfig(
            max_concurrent=queue.max_concurrent,
            timeout=queue.timeout,
            size=10 * queue.max_concurrent if queue.size is None else queue.size,
        ),
        hosts=_limits(file),
        log_level=None if level is None else level.lower(),
        track_latency=file.monitoring.track_latency,
        track_errors=file.monitoring.track_errors,
    )


def _provider(provider: Provider, source: str, environ: Mapping[str, str]) -> ProviderConfig:
    kind = provider.kind or _kind(provider.base_url)
    version = provider.api_version
    if kind == "azure":
        version = version or environ.get("AZURE_API_VERSION") or API_VERSION
    return ProviderConfig(
        name=provider.name,
        base_url=provider.base_url,
        api_key=None if provider.api_key is None else Secret(provider.api_key),
        weight=provider.weight,
        fallback_only=provider.fallback_only,
        model_map=provider.model_map,
        max_concurrent=provider.max_concurrent,
        hosts=provider.host,
        kind=kind,
        auth=provider.auth,
        api_version=version,
        n=provider.n,
        cancel=provider.cancel,
        key_source=source,
    )


def _kind(base_url: str) -> Kind:
    url = urlsplit(base_url)
    deployments = "/openai/v1" not in url.path
    return "azure" if deployments and (url.hostname or "").endswith(_AZURE) else "openai"


def _limits(file: File) -> dict[str, int]:
    """Calls at once for every host: its own limit, else the least of the providers that name it."""
    limits = {}
    for host in {host for provider in file.providers for host in provider.host.values()}:
        named = [p.max_concurrent for p in file.providers if host in p.host.values()]
        own = file.hosts.get(host)
        limits[host] = own.max_concurrent if own else min(filter(None, named), default=1)
    return limits
