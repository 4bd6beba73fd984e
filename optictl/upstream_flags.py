"""The one upstream that flags or the environment name, in OptiLLM's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from proxy.errors import ConfigError
from proxy.settings import key_from_flag, read_key_file
from proxy.upstream.azure import check_installed

_OPENAI = "https://api.openai.com/v1"
_CEREBRAS = "https://api.cerebras.ai/v1"
_FLAG = "--upstream-api-key-file"
_OURS = ("CEREBRAS_API_KEY", "OPENAI_API_KEY", "AZURE_OPENAI_API_KEY")


def upstream(
    base_url: str, key_file: str | None, environ: Mapping[str, str], *, pooled: bool
) -> dict[str, Any]:
    """The fields of `proxy.settings.Settings` that name the upstream.

    A URL that is given comes first; then, without a pool of providers, what the keys in the
    environment say: Cerebras, OpenAI, Azure. Raises `ConfigError` where nothing names one.
    """
    if base_url:
        _check(base_url, "--base-url")
        key = environ.get("OPENAI_API_KEY") and "OPENAI_API_KEY"
        return _named(base_url, key or None, key_file, environ)
    if pooled:
        if key_file is not None:
            raise ConfigError(f"{_FLAG} needs --base-url: providers have their keys in their file")
        return {"base_url": ""}
    if environ.get("CEREBRAS_API_KEY"):
        return _named(_CEREBRAS, "CEREBRAS_API_KEY", key_file, environ)
    if environ.get("OPENAI_API_KEY"):
        return _named(_OPENAI, "OPENAI_API_KEY", key_file, environ)
    if environ.get("AZURE_OPENAI_API_KEY") or environ.get("AZURE_API_BASE"):
        return _azure(key_file, environ)
    raise ConfigError(
        "no upstream: give --base-url http://127.0.0.1:4000/v1 or --proxy-config FILE, or set one "
        f"of {', '.join(_OURS)}"
    )


def _named(
    url: str, variable: str | None, key_file: str | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    if key_file is not None:
        key = read_key_file(key_file, _FLAG)
        return {"base_url": url, "upstream_key": key, "upstream_key_source": key_file}
    if variable is None:
        return {"base_url": url}
    key = key_from_flag(environ[variable], variable)
    return {"base_url": url, "upstream_key": key, "upstream_key_source": variable}


def _azure(key_file: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    url = environ.get("AZURE_API_BASE", "")
    if not url:
        raise ConfigError(
            "AZURE_OPENAI_API_KEY is set and AZURE_API_BASE is not; it is the resource's address, "
            "https://NAME.openai.azure.com"
        )
    _check(url, "AZURE_API_BASE")
    variable = "AZURE_OPENAI_API_KEY" if environ.get("AZURE_OPENAI_API_KEY") else None
    found = _named(url, variable, key_file, environ)
    entra = "upstream_key" not in found
    if entra:
        check_installed()
    return {
        **found,
        "upstream_kind": "azure",
        "upstream_auth": "entra" if entra else "key",
        "upstream_api_version": environ.get("AZURE_API_VERSION") or None,
    }


def _check(url: str, source: str) -> None:
    try:
        sound = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError(f"{source} {url}: must begin with http:// or https:// and name a host")
