"""The control plane's client of a running proxy.

A streamed request is told as events: calls as they begin and end (the proxy's SSE comments), notes,
text, and in the end what it all cost. Leaving the iteration early closes the connection, on which
the proxy gives the request up.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from optictl.errors import ProxyRefused, ProxyUnreachable, UsageError
from optictl.waterfall import Call
from proxy.settings import Secret

#: The proxy writes something every 15 s while it works (`proxy.run.stream`).
_SILENCE = 60.0
_CONNECT = 3.0

#: What to do about an error of the proxy, by its code.
_FIXES: Mapping[str, str] = {
    "invalid_api_key": "give the key that the proxy was started with: --api-key-file FILE",
    "unknown_approach": "see them all: optictl approaches",
    "unknown_option": "see what there is: optictl approaches SLUG",
    "upstream_unreachable": "start the upstream, or point the proxy elsewhere: optictl serve "
    "--base-url URL",
    "upstream_auth": "give the proxy the upstream's key: OPENAI_API_KEY, or optictl serve "
    "--upstream-api-key-file FILE",
    "deadline_exceeded": "give it more time: --max-seconds",
    "trace_not_found": "see those that are kept: optictl trace",
    "overloaded": "try again, or let the proxy take on more: optictl serve --threads",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Called:
    """A call has begun, or ended."""

    call: Call


@dataclass(frozen=True, slots=True)
class Noted:
    """A word on progress."""

    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer of one choice."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete: usage over all calls, and the ``optillm`` object."""

    usage: Mapping[str, Any]
    optillm: Mapping[str, Any]


Event = Called | Noted | Said | Ended


class ProxyClient:
    """A proxy at ``url``, with or without a trailing ``/v1``.

    Every method raises `ProxyUnreachable` and `ProxyRefused`; `UsageError` comes from a URL that is
    none.
    """

    def __init__(self, url: str, key: Secret | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: must begin with http:// or https://")
        # As bytes: a key need not be ASCII.
        authorization = (
            [] if key is None else [(b"Authorization", b"Bearer " + key.reveal().encode())]
        )
        try:
            self._http = httpx.Client(
                base_url=f"{self.url}/v1",
                headers=authorization,
                timeout=httpx.Timeout(_SILENCE, connect=_CONNECT),
                # The proxy is on this machine: HTTP_PROXY is for other hosts.
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise UsageError(f"--url {url}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion; with ``optillm_trace`` its calls are in ``optillm.trace``."""
        with self._post(body) as response:
            answer = _json(response.read())
        if not isinstance(answer.get("choices"), list):
            raise self._foreign("its answer is no chat completion")
        return answer

    def stream(self, body: Mapping[str, Any]) -> Generator[Event, None, None]:
        """A streamed chat completion, traced. Close the generator to leave early."""
        options = {**body.get("stream_options", {}), "include_usage": True}
        told = {**body, "stream": True, "stream_options": options, "optillm_trace": True}
        usage: Mapping[str, Any] = {}
        complete = False
        with self._post(told) as response:
            for line in _lines(response.iter_bytes()):
                if line.startswith(b": call "):
                    yield Called(Call.of(_json(line.removeprefix(b": call "))))
                elif line.startswith(b": ") and line != b": keep-alive":
                    yield Noted(line[2:].decode(errors="replace"))
                elif line == b"data: [DONE]":
                    if not complete:
                        raise self._foreign("its answer does not say what it cost")
                    return
                elif line.startswith(b"data: "):
                    chunk = _json(line.removeprefix(b"data: "))
                    if isinstance(chunk.get("error"), dict):
                        raise _refusal(chunk, f"{self.url} ended its answer with an error")
                    usage = chunk.get("usage") or usage
                    yield from _said(chunk)
                    if "optillm" in chunk:
                        complete = True
                        yield Ended(usage, chunk["optillm"])
        raise ProxyUnreachable(
            f"{self.url} cut its answer short; the proxy's log says more", code="proxy_broke_off"
        )

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        """What there is at ``path``, below ``/v1``: a JSON object."""
        with self._reaching():
            response = self._http.get(path, params=params)
        if response.status_code != 200:
            raise self._refused(response)
        found = _json(response.content)
        if not found:
            raise self._foreign("it answers in another way")
        return found

    @contextmanager
    def _post(self, body: Mapping[str, Any]) -> Iterator[httpx.Response]:
        with (
            self._reaching(),
            self._http.stream("POST", "/chat/completions", json=body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise self._refused(response)
            wanted = "text/event-stream" if body.get("stream") else "application/json"
            if not response.headers.get("content-type", "").startswith(wanted):
                raise self._foreign("it answers in another way")
            yield response

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """What keeps the proxy from being reached, as `ProxyUnreachable`."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ProxyUnreachable(
                f"no proxy answers at {self.url} ({error}); start one: "
                "optictl serve --base-url http://127.0.0.1:4000/v1"
            ) from error
        except httpx.TimeoutException as error:
            raise ProxyUnreachable(
                f"{self.url} said nothing for {_SILENCE:.0f} s; is it the proxy? see its log"
            ) from error
        except httpx.TransportError as error:
            raise ProxyUnreachable(
                f"the connection to {self.url} broke ({error}); the proxy's log says more",
                code="proxy_broke_off",
            ) from error

    def _refused(self, response: httpx.Response) -> ProxyRefused | ProxyUnreachable:
        said = _json(response.content)
        if not isinstance(said.get("error"), dict):
            return self._foreign(f"it answers with HTTP {response.status_code}")
        return _refusal(said, f"HTTP {response.status_code}")

    def _foreign(self, why: str) -> ProxyUnreachable:
        return ProxyUnreachable(
            f"what answers at {self.url} is no optillm-proxy: {why}; give its address: --url",
            code="not_the_proxy",
        )


def _refusal(said: Mapping[str, Any], otherwise: str) -> ProxyRefused:
    """The proxy's error object as one line, with what to do."""
    error = said["error"]
    code = str(error.get("code") or "proxy_refused")
    message = str(error.get("message") or otherwise).rstrip(" .")
    fix = _FIXES.get(code)
    return ProxyRefused(f"{message} ({code}){f'; {fix}' if fix else ''}", code=code)


def _said(chunk: Mapping[str, Any]) -> Iterator[Said]:
    for choice in chunk.get("choices") or ():
        text = (choice.get("delta") or {}).get("content")
        if text:
            yield Said(text, choice.get("index", 0))


def _lines(received: Iterable[bytes]) -> Iterator[bytes]:
    """Split at newlines only: ``str.splitlines`` would also cut at U+2028 inside an answer."""
    rest = b""
    for piece in received:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)


def _json(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for anything else, which no caller takes for an answer."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
