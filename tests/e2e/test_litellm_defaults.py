"""A LiteLLM as it comes: nothing in its general settings but a key, and handles as we render them.

It passes a hang-up on only once a stream flows, so the proxy runs with ``--upstream-cancel stream``
here, which makes every upstream call of an approach a stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from conftest import (
    QUESTION,
    Service,
    StartService,
    chat_body,
    eventually,
    free_port,
    start_process,
)
from gateway import MASTER_KEY, PROXY_KEY, Gateway, base_model, handle
from raw_http import Wire, request_bytes

from optictl.simulator import Behaviour, CallLog, SimulatorThread

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]

BASES = ("base", "org/base:8b")
#: Handles whose names are selectors themselves.
EXACT = ("re2&bon-base", "bon|re2-org/base:8b")
#: A minute of chunks, unless somebody hangs up.
LONG: Mapping[str, Any] = {"tokens": 4000, "chunk_interval": 0.05}
#: A second for what is said behind the first word.
SLOW: Mapping[str, Any] = {"latency": 0.05, "chunk_interval": 0.12}


class Chain:
    """One gateway, one proxy behind and in front of it, one simulated model."""

    def __init__(self, gateway: Gateway, proxy: Service, sim: SimulatorThread) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self.sim = sim
        self.client = _client(gateway.url, MASTER_KEY)

    def post(self, model: str, *, to_proxy: bool = False, **members: Any) -> Wire:
        """A chat that is under way."""
        port, key = (self.proxy.port, PROXY_KEY) if to_proxy else (self.gateway.port, MASTER_KEY)
        data = request_bytes(chat_body(model, **members), Authorization=f"Bearer {key}")
        return Wire(port).send(data)

    def ended(self, calls: int) -> bool:
        """Whether soon so many calls have been hung up on and the proxy has nothing left to do."""
        return eventually(
            lambda: (
                self.sim.log.inflight == 0
                and self.sim.log.dropped == calls
                and "in_flight 0.0" in self.metrics()
            )
        )

    def metrics(self) -> str:
        headers = {"Authorization": f"Bearer {PROXY_KEY}"}
        return httpx.get(f"{self.proxy.url}/metrics", headers=headers, timeout=30).text

    def healthy_answers(self) -> int:
        """How often the proxy has answered a health check by itself."""
        return len(re.findall(r"status=200 \S+ approach=health", self.proxy.log))


def _client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("defaults")
    with SimulatorThread(Behaviour(), models=BASES) as sim:
        gateway = Gateway(free_port(), folder / "gateway")
        proxy = start_process(
            f"--base-url {gateway.url}/v1 --model base --approach proxy "
            f"--upstream-cancel stream --optillm-api-key {PROXY_KEY}".split(),
            folder / "proxy.log",
            env={"OPENAI_API_KEY": MASTER_KEY},
        ).wait_healthy()
        try:
            gateway.start(
                [
                    *(base_model(name, sim.url) for name in BASES),
                    handle("opt-*", "*", proxy.url),
                    *(handle(name, name, proxy.url) for name in EXACT),
                ]
            )
            ready = f"{proxy.url}/health/ready"
            assert eventually(lambda: httpx.get(ready, timeout=30).status_code == 200)
            yield Chain(gateway, proxy, sim)
        finally:
            gateway.stop()
            proxy.stop()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test of the chain begins with a model that answers at once and an empty log."""
    if "chain" not in request.fixturenames:
        yield
        return
    sim: SimulatorThread = request.getfixturevalue("chain").sim
    sim.behave(latency=0.0, chunk_interval=0.0, tokens=24)
    sim.log.clear()
    yield
    assert eventually(lambda: sim.log.inflight == 0)


class TestWhoHangsUp:
    @pytest.mark.parametrize(
        ("model", "calls"), [("opt-base", 1), ("opt-moa-base", 3), ("opt-self_consistency-base", 5)]
    )
    def test_ends_all_calls_of_a_stream(self, chain: Chain, model: str, calls: int) -> None:
        """Through both passes: each of them carries a stream by then."""
        chain.sim.behave(**LONG)
        with chain.post(model, stream=True) as wire:
            assert wire.response().readline().startswith(b"data: ")
            assert eventually(lambda: chain.sim.log.inflight == calls)
        assert chain.ended(calls)

    @pytest.mark.parametrize(("model", "calls"), [("moa-base", 3), ("self_consistency-base", 5)])
    @pytest.mark.parametrize("stream", [False, True])
    def test_ends_all_calls_of_a_client_of_the_proxy(
        self, chain: Chain, model: str, calls: int, stream: bool
    ) -> None:
        chain.sim.behave(**LONG)
        with chain.post(model, to_proxy=True, stream=stream):
            assert eventually(lambda: chain.sim.log.inflight == calls)
        assert chain.ended(calls)

    def test_ends_calls_by_their_first_byte_at_the_latest(self, chain: Chain) -> None:
        """LiteLLM sees that the proxy has left when it has something to send."""
        chain.sim.behave(latency=3.0, **LONG)
        with chain.post("moa-base", to_proxy=True):
            assert eventually(lambda: chain.sim.log.inflight == 3)
        assert eventually(lambda: "in_flight 0.0" in chain.metrics())
        assert chain.ended(3)

    def test_of_a_json_answer_is_known_to_the_gateway_alone(self, chain: Chain) -> None:
        """LiteLLM goes on waiting for our answer; what ends the calls is the request's own limit.

        Without one, the run would go on to its end: that is what ``cancel_on_disconnect`` is for.
        """
        chain.sim.behave(**LONG)
        with chain.post("opt-moa-base", optillm_budget={"max_seconds": 3}):
            assert eventually(lambda: chain.sim.log.inflight == 3)
        assert chain.ended(3)


class TestProgress:
    def test_it_arrives_as_reasoning(self, chain: Chain) -> None:
        thought, said = self.ask(chain, extra_body={"optillm_progress": True})
        assert "3 of 3 proposals written\n" in thought
        assert thought.endswith("proposals compared\n")
        assert "391" in said

    def test_it_is_off_by_default(self, chain: Chain) -> None:
        thought, said = self.ask(chain)
        assert thought == ""
        assert "391" in said

    @staticmethod
    def ask(chain: Chain, **members: Any) -> tuple[str, str]:
        """What was thought aloud, and what was said."""
        chunks = chain.client.chat.completions.create(
            model="opt-moa-base",
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            **members,
        )
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        thoughts = (getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        return "".join(thoughts), "".join(delta.content or "" for delta in deltas)


def test_a_health_check_of_the_handles_calls_no_model(chain: Chain) -> None:
    answered = chain.healthy_answers()
    report = httpx.get(
        f"{chain.gateway.url}/health",
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        timeout=90,
    ).json()
    handles = [entry for entry in report["healthy_endpoints"] if chain.proxy.url in str(entry)]
    assert len(handles) == 1 + len(EXACT)
    assert report["unhealthy_count"] == 0
    # The bases are called, by LiteLLM itself: none of these calls has passed through the proxy.
    assert chain.sim.log.calls == len(BASES)
    assert not any("x-optillm-hop" in call.headers for call in chain.sim.log.records)
    assert eventually(lambda: chain.healthy_answers() == answered + len(handles))


class TestNames:
    @pytest.mark.parametrize(
        ("name", "base", "calls", "choices"),
        [("re2&bon-base", "base", 6, 1), ("bon|re2-org/base:8b", "org/base:8b", 7, 2)],
    )
    def test_an_exact_entry(
        self, chain: Chain, name: str, base: str, calls: int, choices: int
    ) -> None:
        assert name in [model.id for model in chain.client.models.list()]
        answer = chain.client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": QUESTION}]
        )
        assert answer.model == name
        assert ["391" in (choice.message.content or "") for choice in answer.choices] == (
            [True] * choices
        )
        assert chain.sim.log.choices == calls
        assert {call.model for call in chain.sim.log.records} == {base}

    @pytest.mark.parametrize("name", [*EXACT, *BASES, "moa&bon|re2-org/base:8b"])
    def test_the_model_s_own_page(self, chain: Chain, name: str) -> None:
        page = httpx.get(
            f"{chain.proxy.url}/v1/models/{quote(name, safe='')}",
            headers={"Authorization": f"Bearer {PROXY_KEY}"},
            timeout=30,
        )
        assert page.status_code == 200, page.text
        assert page.json()["id"] == name
        assert _client(chain.proxy.url, PROXY_KEY).models.retrieve(name).id == name


class TestTheFirstWord:
    """It leaves while the final call is still being answered."""

    @pytest.mark.parametrize("model", ["moa-sim", "rto-sim", "re2&moa-sim"])
    def test_from_the_proxy(
        self, start_service: StartService, sim: SimulatorThread, model: str
    ) -> None:
        service = start_service()
        sim.behave(**SLOW)
        assert self.only_the_last_is_under_way(_client(service.url, "none"), model, sim.log)

    def test_through_the_gateway(self, chain: Chain) -> None:
        chain.sim.behave(**SLOW)
        assert self.only_the_last_is_under_way(chain.client, "opt-moa-base", chain.sim.log)

    @staticmethod
    def only_the_last_is_under_way(client: openai.OpenAI, model: str, log: CallLog) -> bool:
        """Whether of all calls the last one alone has not ended when the first word is read."""
        chunks = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
        *earlier, final = [call.end for call in log.records]
        whole = final is None and None not in earlier
        assert "391" in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        return whole
