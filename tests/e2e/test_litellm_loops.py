"""A LiteLLM that sends base names back to the proxy: deliberately, and with one refusal each."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import QUESTION, Service, eventually, free_port, start_process
from gateway import MASTER_KEY, PROXY_KEY, Gateway, base_model, handle

from optictl.simulator import Behaviour, SimulatorThread

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]


class Ring:
    """One gateway between two proxies."""

    def __init__(self, gateway: Gateway, one: Service, two: Service, sim: SimulatorThread) -> None:
        self.gateway = gateway
        self.one = one
        self.two = two
        self.sim = sim

    def ask(self, model: str) -> tuple[httpx.Response, float]:
        """The gateway's answer, and the seconds it took."""
        began = time.monotonic()
        answer = httpx.post(
            f"{self.gateway.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": QUESTION}]},
            headers={"Authorization": f"Bearer {MASTER_KEY}"},
            timeout=60,
        )
        return answer, time.monotonic() - began

    def arrivals(self) -> tuple[int, int]:
        time.sleep(0.8)  # logs are written in batches
        one, two = (
            len(re.findall("path=/v1/chat/completions", service.log))
            for service in (self.one, self.two)
        )
        return one, two


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    folder = tmp_path_factory.mktemp("ring")
    with SimulatorThread(Behaviour()) as sim:
        gateway = Gateway(free_port(), folder / "gateway")
        one, two = (
            start_process(
                f"--base-url {gateway.url}/v1 --optillm-api-key {PROXY_KEY}".split(),
                folder / f"{name}.log",
                env={"OPENAI_API_KEY": MASTER_KEY},
            ).wait_healthy()
            for name in ("one", "two")
        )
        try:
            gateway.start(
                [
                    base_model("base", sim.url),
                    handle("looped-one", "re2-looped-one", one.url),
                    handle("looped-three", "moa-looped-three", one.url),
                    handle("ring-one", "re2-ring-one-back", one.url),
                    handle("ring-one-back", "re2-ring-one", two.url),
                    handle("ring-three", "moa-ring-three-back", one.url),
                    handle("ring-three-back", "re2-ring-three", two.url),
                    handle("chain", "re2-chain-on", one.url),
                    handle("chain-on", "moa-base", two.url),
                ]
            )
            # Each proxy has learned that a LiteLLM is in front of it.
            for service in (one, two):
                assert eventually(
                    lambda url=service.url: (
                        httpx.get(f"{url}/health/ready", timeout=10).status_code == 200
                    )
                )
            yield Ring(gateway, one, two, sim)
        finally:
            gateway.stop()
            one.stop()
            two.stop()


@pytest.mark.parametrize("model", ["looped-one", "looped-three", "ring-one", "ring-three"])
def test_a_loop_is_one_400_and_few_arrivals(ring: Ring, model: str) -> None:
    ring.ask("chain")  # the first call through a fresh LiteLLM takes a second of its own
    for _ in range(5):  # a stall of the machine may make some of them slow
        before = ring.arrivals()
        answer, seconds = ring.ask(model)
        after = ring.arrivals()
        assert answer.status_code == 400
        assert answer.headers["llm_provider-x-optillm-error"] == "loop_detected"
        assert "leads back here" in answer.text
        assert all(now - then <= 5 for now, then in zip(after, before, strict=True))
        if seconds < 2.0:
            break
    assert seconds < 2.0


def test_two_different_proxies_may_stand_in_a_row(ring: Ring) -> None:
    ring.sim.log.clear()
    answer, _ = ring.ask("chain")
    assert answer.status_code == 200
    assert "391" in answer.json()["choices"][0]["message"]["content"]
    assert ring.sim.log.calls == 5
    hops = {call.headers["x-optillm-hop"] for call in ring.sim.log.records}
    assert len(hops) == 1
    assert len(hops.pop().split(", ")) == 2
