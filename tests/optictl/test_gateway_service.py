"""Restarting LiteLLM: its own command, then the wait for its life."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import httpx
import pytest

from optictl.errors import GatewayFailed
from optictl.gateway_service import restart_gateway
from optictl.site import Gateway

GATEWAY = Gateway(base_url="http://127.0.0.1:4000/v1", restart=("systemctl", "restart", "litellm"))


class Life:
    """A clock, a command and a LiteLLM that is back after so many looks."""

    def __init__(self, looks: int = 0, status: int = 0, said: str = "") -> None:
        self.now, self.looks, self.status, self.said = 0.0, looks, status, said
        self.run_with: list[Sequence[str]] = []
        self.told: list[str] = []
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        self.looks -= 1
        if self.looks == 0:
            return httpx.Response(503)
        if self.looks > 0:
            raise httpx.ConnectError("Connection refused", request=request)
        return httpx.Response(200)

    def restart(self, timeout: float = 120.0) -> float:
        def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
            self.run_with.append(command)
            return subprocess.CompletedProcess(command, self.status, "", self.said)

        def sleep(seconds: float) -> None:
            self.now += seconds

        return restart_gateway(
            GATEWAY,
            self.told.append,
            timeout=timeout,
            run=run,
            transport=httpx.MockTransport(self.answer),
            clock=lambda: self.now,
            sleep=sleep,
        )


def test_its_command_is_run_and_its_life_waited_for() -> None:
    life = Life(looks=16)
    assert life.restart() == 8.0
    assert life.run_with == [("systemctl", "restart", "litellm")]
    assert set(life.asked) == {"http://127.0.0.1:4000/health/liveliness"}
    assert life.told[0] == "restart the gateway: systemctl restart litellm"
    assert life.told[1].startswith("wait for the gateway (5 s): ")
    assert len(life.told) == 2


def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    life = Life(status=5, said="Unit litellm.service not found.\n")
    with pytest.raises(GatewayFailed, match=r"systemctl restart litellm: Unit litellm\.service"):
        life.restart()
    assert life.asked == []


def test_one_that_does_not_come_back_is_given_up() -> None:
    with pytest.raises(GatewayFailed, match=r"within 10 s: .*Connection refused"):
        Life(looks=1_000).restart(timeout=10)


def test_a_command_that_is_not_there_is_named() -> None:
    gateway = GATEWAY.model_copy(update={"restart": ("/nowhere/restart",)})
    with pytest.raises(GatewayFailed, match="cannot run /nowhere/restart"):
        restart_gateway(gateway, print)
