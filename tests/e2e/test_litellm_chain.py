"""The operator's chain for real: client → LiteLLM → proxy → LiteLLM → model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from conftest import QUESTION, Service, eventually, free_port, start_process
from gateway import MASTER_KEY, PROXY_KEY, Gateway, base_model, handle

from optictl.simulator import Behaviour, Fault, SimulatorThread

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]

TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}


class Chain:
    """One gateway, one proxy behind and in front of it, one simulated model."""

    def __init__(self, gateway: Gateway, proxy: Service, sim: SimulatorThread) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self.sim = sim
        self.client = openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=MASTER_KEY, max_retries=0, timeout=60
        )

    def ask(self, model: str, **members: Any) -> Any:
        return self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], **members
        )

    def arrivals(self) -> int:
        """How many chats have reached the proxy and been answered."""
        time.sleep(0.8)  # the log is written in batches
        return len(re.findall(r"path=/v1/chat/completions", self.proxy.log))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    with SimulatorThread(Behaviour(), models=("base", "org/base:8b")) as sim:
        gateway = Gateway(free_port(), folder / "gateway")
        proxy = start_process(
            f"--base-url {gateway.url}/v1 --model base --approach proxy "
            f"--optillm-api-key {PROXY_KEY}".split(),
            folder / "proxy.log",
            env={"OPENAI_API_KEY": MASTER_KEY},
        ).wait_healthy()
        try:
            gateway.start(
                [
                    base_model("base", sim.url),
                    base_model("org/base:8b", sim.url),
                    handle("opt-*", "*", proxy.url),
                ],
                cancel_on_disconnect=True,
            )
            yield Chain(gateway, proxy, sim)
        finally:
            gateway.stop()
            proxy.stop()


@pytest.fixture(autouse=True)
def quiet(chain: Chain) -> Iterator[None]:
    """Each test begins with a model that answers at once and an empty log."""
    chain.sim.behave(latency=0.0, faults=(), chunk_interval=0.0)
    chain.sim.log.clear()
    yield
    assert eventually(lambda: chain.sim.log.inflight == 0)


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        ("opt-base", 1),
        ("opt-moa-base", 5),
        ("opt-bon-base", 6),
        ("opt-re2&bon-base", 6),
        ("opt-bon|re2-base", 7),
        ("opt-self_consistency-org/base:8b", 5),
    ],
)
def test_an_answer_comes_through_and_the_gateway_sees_base_names_only(
    chain: Chain, model: str, calls: int
) -> None:
    # Long enough for the gateway to pass on the last sample before the first ones' vote ends it.
    chain.sim.behave(latency=1.0 if "consistency" in model else 0.1)
    answer = chain.ask(model)
    assert "391" in answer.choices[0].message.content
    assert chain.sim.log.choices == calls
    assert {call.model for call in chain.sim.log.records} <= {"base", "org/base:8b"}
    used = sum(call.completion_tokens for call in chain.sim.log.records)
    assert 0 < answer.usage.completion_tokens <= used


def test_a_synthesis_streams_through(chain: Chain) -> None:
    """The first content leaves with the final call's first delta, not with its last."""
    chain.sim.behave(latency=0.05, chunk_interval=0.08)
    began = time.monotonic()
    arrived = [
        time.monotonic() - began
        for chunk in chain.ask("opt-moa-base", stream=True)
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(arrived) > 4
    # The chunks are 80 ms apart at the model: a buffered answer would come all at once.
    assert arrived[-1] - arrived[0] > 0.08 * (len(arrived) - 1) / 2


def test_tools_make_the_round_trip(chain: Chain) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    create = chain.client.chat.completions.create
    first = create(model="opt-moa-base", messages=messages, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    call = first.message.tool_calls[0]
    messages += [
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "391"},
    ]
    second = create(model="opt-moa-base", messages=messages, tools=[TOOL]).choices[0]
    assert "391" in (second.message.content or "")
    streamed = create(model="opt-moa-base", messages=messages[:1], tools=[TOOL], stream=True)
    deltas = [c.choices[0].delta for c in streamed if c.choices]
    arguments = "".join(
        part.function.arguments or ""
        for delta in deltas
        for part in delta.tool_calls or ()
        if part.function
    )
    assert arguments.startswith("{")
    assert arguments.endswith("}")


def test_100_calls_in_a_row_lose_none(chain: Chain) -> None:
    for _ in range(100):
        assert "391" in chain.ask("opt-base").choices[0].message.content
    assert chain.sim.log.calls == 100


def raw(chain: Chain, model: str, **members: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **members}
    return httpx.post(
        f"{chain.gateway.url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        timeout=60,
    )


@pytest.mark.parametrize(
    ("model", "members", "status", "code"),
    [
        ("opt-moa&nosuch-base", {}, 400, "unknown_approach"),
        ("opt-memory-base", {}, 400, "approach_not_built"),
        ("opt-moa-nosuch", {}, 400, "model_not_found"),
        ("opt-moa-base", {"optillm_budget": {"max_calls": 1}}, 400, "budget_too_small"),
    ],
)
def test_an_error_of_ours_costs_one_arrival_and_no_cool_down(
    chain: Chain, model: str, members: dict[str, Any], status: int, code: str
) -> None:
    before = chain.arrivals()
    answer = raw(chain, model, **members)
    assert answer.status_code == status
    assert answer.headers["llm_provider-x-optillm-error"] == code, answer.text
    assert chain.arrivals() == before + 1
    assert raw(chain, "opt-base").status_code == 200


def test_a_failing_model_is_not_hammered(chain: Chain) -> None:
    """LiteLLM re-sends what fails on its way to the model, but not what fails with us."""
    chain.sim.behave(faults=(Fault(400),))
    before = chain.arrivals()
    assert raw(chain, "opt-moa-base").status_code == 400
    assert chain.arrivals() == before + 1
    assert chain.sim.log.calls == 3


def test_a_health_check_never_reaches_a_model(chain: Chain) -> None:
    assert raw(chain, "opt-optictl-health").status_code == 200
    assert chain.sim.log.calls == 0


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_ends_all_calls(chain: Chain, stream: bool) -> None:
    """Through both passes of LiteLLM, with cancel_on_disconnect."""
    chain.sim.behave(latency=20.0)
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            f"{chain.gateway.url}/v1/chat/completions",
            json={
                "model": "opt-moa-base",
                "stream": stream,
                "messages": [{"role": "user", "content": QUESTION}],
            },
            headers={"Authorization": f"Bearer {MASTER_KEY}"},
            timeout=4.0,
        )
    assert chain.sim.log.calls == 3
    assert eventually(lambda: chain.sim.log.inflight == 0, within=10)
    assert chain.sim.log.dropped == 3
