"""LiteLLM as a service of somebody else: started anew, and waited for."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

import httpx

from optictl.errors import GatewayFailed
from optictl.site import Gateway

#: Seconds that LiteLLM may take; with a large configuration it needs 7 to 12 of them.
TIMEOUT = 120.0
#: Seconds between two looks, and between two words on them.
_PAUSE, _SPACING = 0.5, 5.0
#: Seconds for one answer.
_ANSWER = 3.0

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def restart_gateway(
    gateway: Gateway,
    tell: Callable[[str], None],
    *,
    timeout: float = TIMEOUT,
    transport: httpx.BaseTransport | None = None,
    run: Run | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Restart LiteLLM by its own command, and wait until it lives. Returns the seconds it took.

    ``tell`` hears every few seconds what is waited for. Raises `GatewayFailed` where the command
    fails, and where nothing answers within ``timeout`` seconds.
    """
    command = " ".join(gateway.restart)
    tell(f"restart the gateway: {command}")
    began = told = clock()
    try:
        ended = (run or _run)(gateway.restart)
    except OSError as error:
        raise GatewayFailed(
            f"gateway.restart: cannot run {gateway.restart[0]}: {error.strerror}"
        ) from None
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip() or f"exit status {ended.returncode}"
        raise GatewayFailed(f"gateway.restart: {command}: {said}")
    # trust_env: HTTP_PROXY is for hosts elsewhere.
    with httpx.Client(timeout=_ANSWER, trust_env=False, transport=transport) as http:
        while trouble := _trouble(gateway, http):
            now = clock()
            if now - began >= timeout:
                raise GatewayFailed(
                    f"the gateway has not come back within {timeout:g} s: {trouble}"
                )
            if now - told >= _SPACING:
                tell(f"wait for the gateway ({now - began:.0f} s): {trouble}")
                told = now
            sleep(_PAUSE)
    return clock() - began


def _trouble(gateway: Gateway, http: httpx.Client) -> str:
    """Why it cannot be said to live; empty where it does. LiteLLM asks for no key there."""
    url = f"{gateway.base_url.removesuffix('/v1')}/health/liveliness"
    try:
        answer = http.get(url)
    except httpx.HTTPError as error:
        return f"{url}: {error or type(error).__name__}"
    return "" if answer.status_code == 200 else f"{url}: HTTP {answer.status_code}"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
