"""The first answer of a service that has just started: asked for until it comes, or cannot."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import orjson

from optictl.errors import CannotRead, UsageError, WarmupFailed
from optictl.router_words import parted, routes
from proxy.settings import Secret

#: Hears what is waited for, a line at a time.
Tell = Callable[[str], None]

#: Seconds between two tries: at first, at most, and what the one is multiplied with.
_PAUSE, _LONGEST_PAUSE, _SLOWER = 0.2, 2.0, 1.5
#: Seconds between two lines.
_SPACING = 3.0
#: Seconds between two looks at the router's classifier while that is loaded.
_LOOK = 0.5
_LOOK_LIMIT = 15.0
#: The service's word where it was told to load none, which nothing has to mend.
_UNWANTED = "no classifier is set up"
#: What grows while the same is waited for.
_FIGURES = re.compile(r"\d+")
#: Seconds to connect, and after which an answer that has not come is spoken of.
_CONNECT = 5.0
_PATIENCE = 3.0
_LONGEST = 300

#: How the pool words it that its only provider is unhealthy because it refuses our key; of several
#: providers, with a semicolon between them, another may come back.
_KEY_REFUSED = re.compile(r"[^;]*refused the proxy's own key[^;]*")
#: What to do about an answer that waiting does not change, by the proxy's code.
_FIXES: Mapping[str, str] = {
    "invalid_api_key": "it is not the key that the service was started with: see proxy.key in "
    "optictl.yaml, then: optictl install",
    "upstream_auth": "see upstream.key in optictl.yaml, then: optictl install",
    "no_healthy_providers": "how each of them is: optictl status",
    "model_not_found": "see proxy.base_model in optictl.yaml, then: optictl install",
}


@dataclass(frozen=True, slots=True)
class Warmed:
    """The model that answered, seconds until then, and how often it was asked.

    ``router`` is how the router's classifier was found in the end: ready, loading, absent, or
    unused where another approach has answered; ``why`` is the service's word on that, of one that
    is loading the last one.
    """

    model: str
    seconds: float
    tries: int
    router: str = "unused"
    why: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "seconds": round(self.seconds, 3),
            "tries": self.tries,
            "router": self.router,
            "router_why": self.why,
        }


def process_id(text: str) -> int:
    """What ``--pid`` was given. Raises `UsageError` for what systemd would not have put there."""
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 2**31:
        raise UsageError(
            f"--pid {text}: no process has that number; in a unit write: --pid $MAINPID"
        )
    return int(text)


def read_body(path: Path) -> bytes:
    """The request to send. Raises `CannotRead`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CannotRead(
            f"cannot read {path}: {error.strerror}; optictl install writes it anew"
        ) from None


def warm(
    url: str, body: bytes, key: Secret | None, *, timeout: float, pid: int | None, tell: Tell
) -> Warmed:
    """Send ``body`` to the proxy at ``url`` until it answers; ``timeout`` is in seconds.

    Where the answer was the router's to choose, its classifier is waited for too, if it is being
    loaded; but to serve without it is no failure, also at the timeout.

    Raises `WarmupFailed` at the timeout, within a moment of the end of the process ``pid``, and at
    once where the answer is one that waiting does not change. ``tell`` hears each change of what is
    waited for, but no more than a line every few seconds.
    """
    url = url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: must begin with http:// or https://")
    return asyncio.run(_watched(_Visit(url, body, key, tell), timeout, pid))


async def _watched(visit: _Visit, seconds: float, pid: int | None) -> Warmed:
    with _end_of(pid) as ended:
        warming = asyncio.ensure_future(visit.until_answered())
        either: set[asyncio.Future[Any]] = {warming, ended}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise WarmupFailed(f"the service (process {pid}) has ended; its log says why")
            if warming.done():
                return warming.result()
            if visit.warmed is not None:
                visit.tell_of(visit.warmed)
                return visit.warmed
            raise WarmupFailed(
                f"no answer within {seconds:g} s; it last waited for {visit.waits_for}"
            )
        finally:
            warming.cancel()
            await asyncio.wait({warming})


@contextmanager
def _end_of(pid: int | None) -> Iterator[asyncio.Future[None]]:
    """Done when the process has ended, even where nobody has reaped it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    if pid is None:
        yield ended
        return
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        ended.set_result(None)
        yield ended
        return
    except OSError as error:
        raise UsageError(f"--pid {pid}: cannot watch it: {error.strerror}") from None

    def end() -> None:
        loop.remove_reader(process)
        ended.set_result(None)

    loop.add_reader(process, end)
    try:
        yield ended
    finally:
        loop.remove_reader(process)
        os.close(process)


class _Visit:
    """One request, sent again as long as that may help."""

    def __init__(self, url: str, body: bytes, key: Secret | None, tell: Tell) -> None:
        self.waits_for = "the connection"
        #: Once the model has answered, while the classifier is waited for.
        self.warmed: Warmed | None = None
        self._url = url
        self._body = body
        self._key = key
        self._tell = tell
        self._told = ""
        self._told_at = -_SPACING

    async def until_answered(self) -> Warmed:
        began, pause, tries = time.monotonic(), _PAUSE, 0
        headers = [(b"Content-Type", b"application/json")]
        if self._key is not None:
            # As bytes: a key need not be ASCII.
            headers.append((b"Authorization", b"Bearer " + self._key.reveal().encode()))
        client = httpx.AsyncClient(
            headers=headers,
            # How long an answer may take is the caller's to say.
            timeout=httpx.Timeout(None, connect=_CONNECT),
            # The proxy is on this machine: HTTP_PROXY is for other hosts.
            trust_env=False,
        )
        async with client as http:
            while True:
                tries += 1
                said = await self._ask(http)
                if said is not None:
                    warmed = Warmed(str(said.get("model")), time.monotonic() - began, tries)
                    return await self._until_routed(http, warmed) if _routed(said) else warmed
                await asyncio.sleep(pause)
                pause = min(pause * _SLOWER, _LONGEST_PAUSE)

    async def _until_routed(self, http: httpx.AsyncClient, warmed: Warmed) -> Warmed:
        """``warmed`` once the classifier is ready, or is known to be absent."""
        known = None
        while True:
            found = await self._classifier(http, warmed)
            if found.router != "loading":
                self.tell_of(found)
                return found
            # One that crashes says nothing of that once it is loaded again, until the next time.
            known = found.why or known
            self.warmed = replace(found, why=known)
            if known is None:
                self._wait_for("the router's classifier, which is being loaded")
            else:
                self._wait_for(f"the router's classifier ({known}); see: optictl logs")
            await asyncio.sleep(_LOOK)

    def tell_of(self, found: Warmed) -> None:
        """How the classifier is in the end, and what to do where it cannot be used."""
        why = "" if found.why is None else f" ({found.why})"
        self._tell(f"router: {found.router}{why}{_mend(found)}")

    async def _classifier(self, http: httpx.AsyncClient, warmed: Warmed) -> Warmed:
        try:
            response = await http.get(f"{self._url}/health/ready", timeout=_LOOK_LIMIT)
        except httpx.RequestError as error:
            return replace(warmed, router="absent", why=f"/health/ready does not answer: {error}")
        said = _object(response.content)
        router, why = said.get("router"), said.get("router_why")
        if router not in ("ready", "loading", "absent"):
            return replace(warmed, router="absent", why="the service does not say how it is")
        # What torch complains of has many lines.
        line = " ".join(why.split()) if isinstance(why, str) else ""
        return replace(warmed, router=str(router), why=line or None)

    async def _ask(self, http: httpx.AsyncClient) -> dict[str, Any] | None:
        """What was answered; None where it may be later. Raises `WarmupFailed`."""
        slow = asyncio.get_running_loop().call_later(
            _PATIENCE, self._wait_for, "the base model's first answer"
        )
        try:
            response = await http.post(f"{self._url}/v1/chat/completions", content=self._body)
        except httpx.InvalidURL as error:
            raise UsageError(f"--url {self._url}: {error}") from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._wait_for(f"the service: nothing listens at {self._url} yet")
            return None
        except httpx.RequestError as error:
            self._wait_for(f"the service: the connection to {self._url} broke ({error})")
            return None
        finally:
            slow.cancel()
        said = _object(response.content)
        if response.status_code == 200 and isinstance(said.get("choices"), list):
            return said
        code, message = response.headers.get("x-optillm-error"), _message(said)
        if code == "no_healthy_providers" and _KEY_REFUSED.fullmatch(message):
            code = "upstream_auth"
        refusal = self._refusal(response.status_code, code, message)
        if _lasts(response.status_code, code):
            raise WarmupFailed(refusal)
        self._wait_for(f"another answer than {refusal}")
        return None

    def _refusal(self, status: int, code: str | None, message: str) -> str:
        """What was answered, and what to do, in one line."""
        if code is None:
            return (
                f"what answers at {self._url} is no optillm-proxy (HTTP {status}, without a code "
                "of its own); see proxy.host and proxy.port in optictl.yaml"
            )
        if self._key is not None:
            message = self._key.redact(message)
        message = message[:_LONGEST].rstrip(" .") or "no word on it"
        fix = _FIXES.get(code, f"see: optictl explain {code}")
        return f"HTTP {status} {code}: {message}; {fix}"

    def _wait_for(self, what: str) -> None:
        self.waits_for = what
        now, alike = time.monotonic(), _FIGURES.sub("", what)
        if alike != self._told and now - self._told_at >= _SPACING:
            self._told, self._told_at = alike, now
            self._tell(f"waiting for {what}")


def _routed(said: Mapping[str, Any]) -> bool:
    """Whether the router has chosen, or would have where ``auto`` asks for it once it is ready."""
    told = said.get("optillm")
    approach = told.get("approach") if isinstance(told, dict) else None
    # Without an approach of its own a base model is answered by `none` until the router is ready.
    return isinstance(approach, str) and (approach == "none" or routes(approach))


def _mend(found: Warmed) -> str:
    """What to do, behind the service's word; empty where there is nothing, or that says it."""
    if found.router == "loading":
        return "; wait, or see: optictl logs" if found.why is None else "; see: optictl logs"
    if found.router == "absent" and found.why != _UNWANTED and not parted(found.why or "")[1]:
        # That looks at the files too, and names the one thing.
        return "; what mends it: optictl check router"
    return ""


def _lasts(status: int, code: str | None) -> bool:
    """Whether asking again would be answered the same."""
    # 502 or 503, but about the key, which the service has read at its start.
    return code == "upstream_auth" or not (status in (408, 425, 429) or status >= 500)


def _message(said: Mapping[str, Any]) -> str:
    error = said.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return " ".join(message.split()) if isinstance(message, str) else ""


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
