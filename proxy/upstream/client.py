"""One OpenAI-compatible provider over aiohttp: bodies out, answers in, failures typed.

aiohttp is used here and nowhere else. A cancelled call closes its connection, which is how a
server behind us learns to stop generating.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from proxy.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.hops import HEADER
from proxy.settings import Settings
from proxy.upstream import azure
from proxy.upstream.config import ProviderConfig
from proxy.upstream.port import Batches, Call, Json
from proxy.upstream.refusals import refusal
from proxy.wire.sse import Decoder

#: Shorter than the 5 s after which uvicorn (LiteLLM) drops an idle connection: a request is then
#: never written into one that the other side is just closing.
_KEEPALIVE = 4.0
_SHOWN = 500
#: No answer is longer, in bytes; one that is would only fill the memory.
_LARGEST = 64 * 2**20
#: What a LiteLLM without a database says to a request that brings no key, with status 500.
_WORDLESS = b"Internal Server Error"


@dataclass(frozen=True, slots=True)
class Network:
    """What all providers of a pool are reached by. Seconds; built on the loop that uses it."""

    connector: aiohttp.TCPConnector
    connect_timeout: float
    #: Silence on one call.
    silence: float
    #: Tells this service from others on a request's way (`proxy.hops`).
    instance: str

    @classmethod
    def of(cls, settings: Settings, connect_timeout: float, silence: float) -> Network:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_KEEPALIVE, ttl_dns_cache=30, ssl=_tls(settings)
        )
        return cls(connector, connect_timeout, silence, settings.instance)


class Client:
    """One provider as an `proxy.upstream.port.Upstream`: each call is sent once, as it is."""

    def __init__(self, provider: ProviderConfig, network: Network) -> None:
        self._provider = provider
        base = provider.base_url.rstrip("/")
        self._chat: URL | None = None
        if provider.kind == "azure":
            self._models = URL(azure.models_url(base, _version(provider)))
        else:
            self._chat = URL(f"{base}/chat/completions")
            self._models = URL(f"{base}/models")
        self._readiness = URL(f"{base.removesuffix('/v1')}/health/readiness")
        #: Whether LiteLLM is on the other side; None until it was asked.
        self._litellm: bool | None = False if provider.kind == "azure" else None
        self._key = provider.api_key
        self._token = azure.EntraToken() if provider.auth == "entra" else None
        self._silence = network.silence
        headers = {"Content-Type": "application/json", "User-Agent": "optillm-proxy"}
        if self._key is not None and self._token is None:
            headers |= (
                azure.headers(self._key)
                if provider.kind == "azure"
                else {"Authorization": f"Bearer {self._key.reveal()}"}
            )
        # The usual way here is straight from a client: merging headers costs each call its time.
        self._own = network.instance
        headers[HEADER] = self._own
        self._session = aiohttp.ClientSession(
            connector=network.connector,
            connector_owner=False,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=network.connect_timeout, sock_read=self._silence
            ),
        )

    async def complete(self, call: Call) -> Json:
        body = self._body(call)
        try:
            async with self._session.post(
                self._url(call.model),
                data=orjson.dumps(body),
                headers=await self._headers(call.hops, call.traceparent),
                allow_redirects=False,
            ) as response:
                received = await self._read(response)
                if response.status != 200:
                    raise self._refusal(response, received)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error) from error
        answer = self._parsed(received, response.content_type)
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise UpstreamInvalid("The upstream answered without a choice ('choices' is empty).")
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
                raise UpstreamInvalid("The upstream answered with a choice that has no message.")
        return answer

    def _url(self, model: str) -> URL:
        if self._chat is not None:
            return self._chat
        provider = self._provider
        return URL(azure.chat_url(provider.base_url, model, _version(provider)))

    def _body(self, call: Call) -> Json:
        """The members to send; behind a LiteLLM also the header that it would not pass on."""
        body = {**call.body, "model": call.model}
        if self._litellm and call.hops:
            given = body.get("headers")
            body["headers"] = {**(given if isinstance(given, dict) else {}), HEADER: call.hops}
        return body

    async def _headers(self, hops: str, traceparent: str = "") -> dict[str, str] | None:
        own = {HEADER: hops} if hops and hops != self._own else {}
        if traceparent:
            own["traceparent"] = traceparent
        if self._token is not None:
            own["Authorization"] = await self._token.header()
        return own or None

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Batches]:
        response = await self._open(call)
        try:
            yield self._chunks(response)
        finally:
            # A finished answer went back to the pool already; an unfinished one must not.
            response.close()

    async def _open(self, call: Call) -> aiohttp.ClientResponse:
        body = {**self._body(call), "stream": True}
        try:
            response = await self._session.post(
                self._url(call.model),
                data=orjson.dumps(body),
                headers=await self._headers(call.hops, call.traceparent),
                allow_redirects=False,
            )
            if response.status == 200 and response.content_type != "application/json":
                return response
            async with response:
                received = await self._read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error) from error
        if response.status != 200:
            raise self._refusal(response, received)
        self._parsed(received, response.content_type)
        raise UpstreamInvalid("The upstream answered a streamed call with a JSON body.")

    async def _chunks(self, response: aiohttp.ClientResponse) -> Batches:
        if response.content_type != "text/event-stream":
            raise UpstreamInvalid(
                f"The upstream answered a streamed call with {response.content_type}."
            )
        decoder = Decoder()
        heard = time.monotonic()
        try:
            async for received in response.content.iter_any():
                # A line is a sign of life, also one that only says to wait; a byte is not.
                if b"\n" in received:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self._silence:
                    raise TimeoutError
                chunks, done = self._events(decoder.feed(received))
                if decoder.pending > _LARGEST:
                    raise UpstreamInvalid("The upstream sent an event without an end.")
                if chunks:
                    yield chunks
                if done:
                    await _drained(response)
                    return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error) from error
        chunks, done = self._events(decoder.close())
        if chunks:
            yield chunks
        if not done:
            raise UpstreamInvalid("The upstream's stream ended before its [DONE].")

    def _events(self, payloads: list[bytes]) -> tuple[list[Json], bool]:
        chunks: list[Json] = []
        for payload in payloads:
            if payload == b"[DONE]":
                return chunks, True
            chunk = self._parsed(payload, "text/event-stream")
            error = chunk.get("error")
            if error:
                said = error.get("message") if isinstance(error, dict) else error
                raise UpstreamError(f"The upstream broke off its stream: {self._quoted(said)}")
            chunks.append(chunk)
        return chunks, False

    async def models(self) -> list[Json]:
        try:
            async with self._session.get(
                self._models,
                headers=await self._headers(""),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=min(5.0, self._silence)),
            ) as response:
                received = await self._read(response)
                if response.status != 200:
                    raise self._refusal(response, received)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error) from error
        entries = self._parsed(received, response.content_type).get("data")
        if not isinstance(entries, list):
            raise UpstreamInvalid("The upstream's model list has no 'data'.")
        if self._litellm is None:
            self._litellm = await self._is_litellm()
        return [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]

    async def _is_litellm(self) -> bool | None:
        """Whether LiteLLM is on the other side: its readiness tells of its database."""
        try:
            async with self._session.get(
                self._readiness, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=5.0)
            ) as response:
                answer = orjson.loads(await response.read()) if response.status == 200 else None
        except orjson.JSONDecodeError:
            return False
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return isinstance(answer, dict) and "db" in answer

    async def close(self) -> None:
        await self._session.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body: all of it is there within the time that silence may last, or never."""
        if response.content.is_eof():
            return await response.read()
        pieces, size = [], 0
        # A body that dribbles is never silent.
        async with asyncio.timeout(self._silence):
            async for piece in response.content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size > _LARGEST:
                    raise UpstreamInvalid(
                        f"The upstream's answer is larger than {_LARGEST // 2**20} MiB."
                    )
        return b"".join(pieces)

    def _parsed(self, received: bytes, content_type: str) -> Json:
        try:
            answer = orjson.loads(received)
        except orjson.JSONDecodeError as error:
            raise UpstreamInvalid(
                f"The upstream answered 200 with {content_type} that is no JSON ({error})."
            ) from None
        if not isinstance(answer, dict):
            raise UpstreamInvalid("The upstream answered with JSON that is not an object.")
        return answer

    def _quoted(self, said: Any) -> str:
        """The upstream's own words, short and without our key."""
        text = str(said)
        # Redacted first: a key that is cut in two would not be recognised.
        return (text if self._key is None else self._key.redact(text))[:_SHOWN]

    def _refusal(self, response: aiohttp.ClientResponse, received: bytes) -> UpstreamError:
        error = refusal(
            response.status,
            response.headers,
            received,
            self._quoted,
            key_source=self._provider.key_source,
        )
        if self._key is None and received == _WORDLESS:
            return UpstreamError(
                f"{error.message}. It was sent no key: check {self._provider.key_source}."
            )
        return error

    def _failure(self, error: Exception) -> UpstreamError:
        # Each also derives from ClientError or OSError: the order is from special to general.
        if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
            said = f"Cannot connect to the upstream: {self._quoted(error)}"
            return UpstreamUnreachable(said, refused=True)
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(f"The upstream was silent for {self._silence:g} s.")
        return UpstreamUnreachable(
            f"The upstream broke the connection: {self._quoted(error) or type(error).__name__}"
        )


async def _drained(response: aiohttp.ClientResponse) -> None:
    """Read past [DONE] to the end of the body, so that the connection can serve again."""
    try:
        async with asyncio.timeout(0.05):
            await response.content.read()
    except (TimeoutError, aiohttp.ClientError):
        response.close()


def _version(provider: ProviderConfig) -> str:
    return provider.api_version or azure.API_VERSION


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if not settings.ssl_verify:
        return False
    if settings.ssl_ca is None:
        return True
    return ssl.create_default_context(cadata=settings.ssl_ca)
