"""What checks look at: a machine, its units, the HTTP services on it. Asked once, shared by all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from optictl import systemd
from optictl.errors import OptictlError, SystemdFailed
from optictl.key_places import read_key
from optictl.machine import Machine
from optictl.options import config_path
from optictl.render import reached_at
from optictl.site import KeyPlace
from optictl.systemd import Manager, Run, Unit
from proxy.errors import ConfigError
from proxy.settings import Secret


class CannotTell(OptictlError):
    """What a check would look at cannot be seen from here. The check is skipped, and says this."""


class NoAnswer(CannotTell):
    """Nothing answers there. One check says so as its own finding; to the others it is this."""


class Box:
    """``timeout`` is in seconds, of each connection and each answer.

    Properties are read from several threads at once: to ask a thing twice does no harm.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        timeout: float = 10.0,
        environ: Mapping[str, str] = os.environ,
        http: httpx.Client | None = None,
        proc: Path = Path("/proc"),
        run: Run = systemd.run,
    ) -> None:
        self.machine = machine
        self.timeout = timeout
        self.environ = environ
        # trust_env: HTTP_PROXY is for hosts elsewhere.
        self.http = http or httpx.Client(timeout=timeout, trust_env=False)
        self.proc = proc
        #: Runs systemd-analyze.
        self.run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def anew(self) -> Box:
        """The same, with nothing remembered."""
        return Box(
            self.machine.anew(),
            timeout=self.timeout,
            environ=self.environ,
            http=self.http,
            proc=self.proc,
            run=self.run,
        )

    @property
    def url(self) -> str:
        """Where the proxy is: ``http://127.0.0.1:4020``."""
        return reached_at(self.machine.site.proxy)

    def optictl(self, words: str) -> str:
        """A command for this site, to be pasted: ``optictl start --user``."""
        user = self.machine.site.service.scope == "user"
        path = self.machine.loaded.path
        site = "" if path == config_path(None, user=user) else f" --config {path}"
        return f"optictl {words}{' --user' if user else ''}{site}"

    @property
    def manager(self) -> Manager:
        """Raises `CannotTell` in a staging tree, as `service` and `socket` do."""
        if self.machine.manager is None:
            raise CannotTell("a staging tree has no systemd")
        return self.machine.manager

    @cached_property
    def service(self) -> Unit:
        """The service as systemd sees it."""
        return self._unit(self.machine.service)

    @cached_property
    def socket(self) -> Unit:
        return self._unit(self.machine.socket)

    @cached_property
    def proxy_key(self) -> Secret | None:
        """The key that clients send. Raises `ConfigError` where it cannot be read."""
        return _key(self.machine.site.proxy.key)

    @cached_property
    def upstream_key(self) -> Secret | None:
        return _key(self.machine.site.upstream.key)

    @cached_property
    def master_key(self) -> Secret | None:
        """The gateway's."""
        gateway = self.machine.site.gateway
        return None if gateway is None else _key(gateway.master_key)

    @cached_property
    def upstream_models(self) -> httpx.Response:
        """What the upstream says when it is asked for its models."""
        return self.get(f"{self.machine.site.upstream.base_url}/models", self.upstream_key)

    @cached_property
    def gateway_readiness(self) -> httpx.Response:
        """What the gateway says of itself; it asks for no key there."""
        return self.get(self._readiness)

    @cached_property
    def litellm_version(self) -> str | None:
        """The gateway's version; None where it does not tell us.

        Up to 1.74 LiteLLM tells it to everybody, 1.106 to who has a key.
        """
        told = said_json(self.gateway_readiness).get("litellm_version")
        if told is None and self.master_key is not None:
            details = self.get(f"{self._readiness}/details", self.master_key)
            told = said_json(details).get("litellm_version")
        return None if told is None else str(told)

    @property
    def told_version(self) -> str | None:
        """The same; None also where the gateway is not to be asked."""
        try:
            return self.litellm_version
        except (CannotTell, ConfigError):
            return None

    @property
    def _readiness(self) -> str:
        gateway = self.machine.site.gateway
        if gateway is None:
            raise CannotTell("the site names no gateway")
        return f"{gateway.base_url.removesuffix('/v1')}/health/readiness"

    def get(self, url: str, key: Secret | None = None) -> httpx.Response:
        """Raises `NoAnswer`."""
        return self._asked("GET", url, key)

    def post(
        self,
        url: str,
        body: Mapping[str, Any],
        key: Secret | None = None,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        return self._asked("POST", url, key, headers, json=body, timeout=timeout)

    def _asked(
        self,
        method: str,
        url: str,
        key: Secret | None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> httpx.Response:
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        if key is not None:
            # As bytes: a key need not be ASCII.
            sent.append((b"Authorization", b"Bearer " + key.reveal().encode()))
        try:
            return self.http.request(method, url, headers=sent, **more)
        except httpx.ConnectError as error:
            why = re.sub(r"\[Errno -?\d+\] ", "", str(error))
            raise NoAnswer(f"nothing answers at {shown(url)} ({why})") from None
        except httpx.TimeoutException:
            seconds = more.get("timeout", self.timeout)
            raise NoAnswer(f"{shown(url)} has not answered within {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise NoAnswer(f"{shown(url)} does not speak HTTP ({error})") from None

    def _unit(self, name: str) -> Unit:
        try:
            return self.manager.show(name)
        except SystemdFailed as error:
            said = str(error).splitlines()[0].rpartition(f"{name}: ")[2]
            raise CannotTell(f"systemd does not answer: {said}") from None


def shown(url: str) -> str:
    """A URL without the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def said_json(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that was answered; an empty one for anything else."""
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def model_names(response: httpx.Response) -> list[str] | None:
    """The models of a listing; None where the answer is no listing."""
    listed = said_json(response).get("data")
    if not isinstance(listed, list):
        return None
    return [each["id"] for each in listed if isinstance(each, dict) and "id" in each]


def _key(place: KeyPlace | None) -> Secret | None:
    return None if place is None else read_key(place)
