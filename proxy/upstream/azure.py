"""Azure OpenAI's addresses and credentials; what goes over the wire is OpenAI's own.

Source: https://learn.microsoft.com/azure/ai-services/openai/reference (REST API reference):
``{endpoint}/openai/deployments/{deployment}/chat/completions?api-version={version}`` with the
header ``api-key``, or a token of Microsoft Entra ID as ``Authorization: Bearer``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, urlsplit

from proxy.errors import ConfigError, UpstreamAuth
from proxy.settings import Secret

#: The latest that is not a preview.
API_VERSION = "2024-10-21"
SCOPE = "https://cognitiveservices.azure.com/.default"
#: Seconds before its end at which a token is replaced.
_MARGIN = 300.0
_SHOWN = 500
#: Where the credentials that the library reads have their secrets.
_SECRETS = (
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "MSI_SECRET",
)
#: A JSON Web Token, which every token of Entra's is.
_TOKEN = re.compile(r"eyJ[\w-]{8,}(?:\.[\w-]*)*")


def chat_url(base_url: str, deployment: str, api_version: str) -> str:
    """Where ``deployment`` is asked for a chat completion.

    ``base_url`` is the resource's endpoint, with or without ``/openai``. One that names a
    deployment already is kept, whatever the deployment that is asked for.
    """
    base, path = _split(base_url)
    if path.startswith("/deployments/"):
        path = path.removesuffix("/chat/completions")
    else:
        path = f"/deployments/{quote(deployment, safe='')}"
    return f"{base}/openai{path}/chat/completions?{_query(api_version)}"


def models_url(base_url: str, api_version: str) -> str:
    """Where the resource lists its models."""
    base, _ = _split(base_url)
    return f"{base}/openai/models?{_query(api_version)}"


def headers(key: Secret) -> dict[str, str]:
    """What a key is sent as."""
    return {"api-key": key.reveal()}


def _split(base_url: str) -> tuple[str, str]:
    """The endpoint in front of ``/openai``, and the path behind it."""
    parts = urlsplit(base_url)
    found = re.match(r"(?P<before>.*?)/openai(?P<behind>/.*)?$", parts.path.rstrip("/"))
    before, behind = (parts.path.rstrip("/"), "") if found is None else found.groups("")
    return f"{parts.scheme}://{parts.netloc}{before}", behind


def _query(api_version: str) -> str:
    return f"api-version={quote(api_version, safe='')}"


def check_installed() -> None:
    """Raise `ConfigError` where tokens of Entra ID are configured and cannot be had."""
    if importlib.util.find_spec("azure") is None or not importlib.util.find_spec("azure.identity"):
        raise ConfigError(
            "A token of Microsoft Entra ID needs a package more: pip install 'optictl[azure]'."
        )


class AccessToken(Protocol):
    """`azure.core.credentials.AccessToken`."""

    @property
    def token(self) -> str: ...

    @property
    def expires_on(self) -> int:
        """Seconds since the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class _Held:
    header: str
    until: float


class EntraToken:
    """A token of Microsoft Entra ID, fetched when it is needed and kept until near its end.

    ``fetch`` gets one; by default from `azure.identity.aio.DefaultAzureCredential`, which asks
    the environment, a workload or managed identity, and the command lines of Azure.
    """

    def __init__(self, fetch: Callable[[], Awaitable[AccessToken]] | None = None) -> None:
        self._fetch = _default_token if fetch is None else fetch
        self._held: _Held | None = None
        self._fetching: asyncio.Task[_Held] | None = None

    async def header(self) -> str:
        """The value of ``Authorization``.

        Who comes while a token is being fetched waits for that one. Raises `UpstreamAuth` with
        the library's words.
        """
        if self._held is not None and time.time() < self._held.until:
            return self._held.header
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._refresh())
        # A request that is cancelled meanwhile takes only itself away.
        return (await asyncio.shield(self._fetching)).header

    async def _refresh(self) -> _Held:
        try:
            token = await self._fetch()
            self._held = _Held(f"Bearer {token.token}", token.expires_on - _MARGIN)
            return self._held
        finally:
            self._fetching = None


async def _default_token() -> AccessToken:
    from azure.core.exceptions import AzureError
    from azure.identity.aio import DefaultAzureCredential

    try:
        async with DefaultAzureCredential() as credential:
            return await credential.get_token(SCOPE)
    except (AzureError, ValueError, OSError) as error:
        raise UpstreamAuth(f"No token from Microsoft Entra ID: {_quoted(error)}") from None


def _quoted(error: Exception) -> str:
    """What the library said, without what it may have been told in confidence."""
    said = " ".join(str(error).split())
    for name in _SECRETS:
        said = Secret(os.environ.get(name, "")).redact(said)
    return _TOKEN.sub("***", said)[:_SHOWN]
