"""What goes wrong with a real LiteLLM: every request ends in an answer or a typed error."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Service, chat_body, content_of, events, eventually, free_port, start_process
from gateway import MASTER_KEY, Gateway, base_model
from raw_http import CHAT, Wire, request_bytes

from optictl.simulator import Behaviour, Fault, SimulatorThread

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]

#: Half a minute of chunks, unless somebody hangs up.
LONG: Mapping[str, Any] = {"tokens": 2000, "chunk_interval": 0.05}


def proxy_of(url: str, log: Path, key: str = MASTER_KEY) -> Service:
    return start_process(
        f"--base-url {url}/v1 --model base --approach proxy".split(),
        log,
        env={"OPENAI_API_KEY": key} if key else {},
    ).wait_healthy()


def ask(proxy: Service, model: str, **members: Any) -> httpx.Response:
    """The answer; asked again where a stream had begun before LiteLLM came to refuse it."""
    for _ in range(5):
        answer = httpx.post(proxy.url + CHAT, json=chat_body(model, **members), timeout=60)
        late = answer.status_code == 200 and '"error":' in answer.text
        if not late:
            break
    return answer


def ready(proxy: Service) -> tuple[int, str]:
    """The status of /health/ready, and the reason given."""
    answer = httpx.get(f"{proxy.url}/health/ready", timeout=30)
    return answer.status_code, answer.json()["reason"] or ""


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a typed error."""
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["x-optillm-error"] == error["code"]
    return answer.status_code, error["code"]


class Lab:
    """A proxy, and behind it a gateway that can be taken away."""

    MODELS = ("base", "other")

    def __init__(self, sim: SimulatorThread, folder: Path) -> None:
        self.sim = sim
        self.gateway = Gateway(free_port(), folder / "gateway")
        self.proxy = proxy_of(self.gateway.url, folder / "proxy.log")
        self.folder = folder

    def start_gateway(self) -> None:
        """LiteLLM retries and cools down as it does by default."""
        self.gateway.start(
            [base_model(name, self.sim.url) for name in self.MODELS], cancel_on_disconnect=True
        )

    def idle(self) -> bool:
        """Whether soon nothing is under way any more."""
        return eventually(
            lambda: (
                self.sim.log.inflight == 0
                and "in_flight 0.0" in httpx.get(f"{self.proxy.url}/metrics", timeout=30).text
            )
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with SimulatorThread(Behaviour(), models=dict.fromkeys(Lab.MODELS, Behaviour())) as sim:
        lab = Lab(sim, tmp_path_factory.mktemp("faults"))
        try:
            lab.start_gateway()
            assert eventually(lambda: ready(lab.proxy) == (200, ""))
            yield lab
        finally:
            lab.gateway.stop()
            lab.proxy.stop()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test of the lab begins with sound models and an empty log, and leaves nothing behind."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab: Lab = request.getfixturevalue("lab")
    for model in lab.MODELS:
        lab.sim.behave(model=model, latency=0.0, chunk_interval=0.0, tokens=24, faults=())
    lab.sim.log.clear()
    yield
    assert lab.idle()


@pytest.fixture
def other_proxy(lab: Lab) -> Iterator[Callable[[str], Service]]:
    """Start one in front of the same gateway with another key."""
    started: list[Service] = []

    def start(key: str) -> Service:
        log = lab.folder / f"other-{time.monotonic_ns()}.log"
        started.append(proxy_of(lab.gateway.url, log, key))
        return started[-1]

    yield start
    for service in started:
        service.stop()


def test_where_no_gateway_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Bound and not listening: whoever connects is refused, and nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        proxy = proxy_of(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path / "proxy.log")
        try:
            for model in ("base", "moa-base", "self_consistency-base", "bon|re2-base"):
                for stream in (False, True):
                    answer = ask(proxy, model, stream=stream)
                    assert refused(answer) == (502, "upstream_unreachable"), model
            status, reason = ready(proxy)
            assert status == 503
            assert reason.startswith("Cannot connect")
            models = httpx.get(f"{proxy.url}/v1/models", timeout=30)
            assert refused(models) == (502, "upstream_unreachable")
            assert httpx.get(f"{proxy.url}/health", timeout=30).status_code == 200
        finally:
            proxy.stop()


class TestTheKey:
    def test_is_wrong(self, lab: Lab, other_proxy: Callable[[str], Service]) -> None:
        """LiteLLM without a database says so with a 400, which is not the client's fault."""
        proxy = other_proxy("sk-wrong")
        for model in ("base", "moa-base"):
            for stream in (False, True):
                assert refused(ask(proxy, model, stream=stream)) == (502, "upstream_auth")
        status, reason = ready(proxy)
        assert status == 503
        assert "refused the proxy's own key" in reason
        assert lab.sim.log.calls == 0

    def test_is_missing(self, other_proxy: Callable[[str], Service]) -> None:
        """LiteLLM without a database fails on such a request, with a 500 and no reason."""
        proxy = other_proxy("")
        assert refused(ask(proxy, "base"))[0] == 502
        status, reason = ready(proxy)
        assert status == 503
        assert "OPENAI_API_KEY" in reason


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("bsae", "Did you mean 'base'?"),
        ("moa-bsae", "Did you mean 'moa-base'?"),
        ("re2&bon|moa-ohter", "Did you mean 're2&bon|moa-other'?"),
        ("xyzzy", None),
        ("moa-xyzzy", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_the_gateway_does_not_have(
    lab: Lab, model: str, meant: str | None, stream: bool
) -> None:
    answer = ask(lab.proxy, model, stream=stream)
    assert refused(answer) == (400, "model_not_found")
    message = answer.json()["error"]["message"]
    if meant is None:
        assert "Did you mean" not in message
    else:
        assert message.endswith(meant)
    assert lab.sim.log.calls == 0


class TestTheBackendFails:
    def test_and_its_model_cools_down(self, lab: Lab) -> None:
        lab.sim.behave(model="other", faults=(Fault(401),))
        first = ask(lab.proxy, "other")
        assert refused(first) == (502, "upstream_auth")
        # The key that was refused is in the gateway's configuration, not in ours.
        assert "behind the upstream" in first.json()["error"]["message"]
        assert ready(lab.proxy)[0] == 200
        for stream in (False, True):
            answer = ask(lab.proxy, "other", stream=stream)
            assert refused(answer) == (429, "upstream_rate_limited")
            assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert lab.sim.log.calls == 1
        assert ask(lab.proxy, "moa-base").status_code == 200
        lab.sim.behave(model="other", faults=())
        # An approach waits as long as the gateway has asked for, rather than fail.
        assert ask(lab.proxy, "moa-other").status_code == 200
        self.recovered(lab)

    def test_and_how_long_to_wait_comes_through(self, lab: Lab) -> None:
        lab.sim.behave(model="other", faults=(Fault(429, retry_after=1),))
        answer = ask(lab.proxy, "other")
        assert refused(answer) == (429, "upstream_rate_limited")
        assert answer.headers["retry-after"] == "1"
        self.recovered(lab)

    @pytest.mark.parametrize("kind", [500, "hang"])
    def test_and_the_gateway_tries_longer_than_there_is_time(
        self, lab: Lab, kind: int | str
    ) -> None:
        lab.sim.behave(model="other", faults=(Fault(kind),))
        for model in ("other", "moa-other"):
            answer = ask(lab.proxy, model, optillm_budget={"max_seconds": 1})
            assert refused(answer) == (504, "deadline_exceeded")
            # Left alone, LiteLLM would go on for another four seconds, or for ever.
            assert eventually(lambda: lab.sim.log.inflight == 0, within=3)
        self.recovered(lab)

    @staticmethod
    def recovered(lab: Lab) -> None:
        lab.sim.behave(model="other", faults=())
        assert eventually(lambda: ask(lab.proxy, "other").status_code == 200)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "calls"), [("base", 1), ("moa-base", 3)])
def test_a_client_that_leaves_before_the_first_byte(
    lab: Lab, model: str, calls: int, stream: bool
) -> None:
    lab.sim.behave(model="base", latency=60.0)
    with Wire(lab.proxy.port) as wire:
        wire.send(request_bytes(chat_body(model, stream=stream)))
        assert eventually(lambda: lab.sim.log.inflight == calls)
    assert lab.idle()
    assert lab.sim.log.dropped == calls


class TestTheGatewayIsKilled:
    def test_in_mid_stream_and_comes_back(self, lab: Lab) -> None:
        lab.sim.behave(model="base", **LONG)
        lab.sim.behave(model="other", latency=60.0)
        with ExitStack() as wires:

            def post(model: str, **members: Any) -> Wire:
                wire = wires.enter_context(Wire(lab.proxy.port))
                return wire.send(request_bytes(chat_body(model, **members)))

            talking = [post(model, stream=True).response() for model in ("base", "re2-base")]
            for response in talking:
                while not content_of(events(response.readline().decode())):
                    pass
            thinking = post("moa-other", stream=True).response()
            silent = post("bon-other")
            assert eventually(lambda: lab.sim.log.inflight == 1 + 1 + 3 + 3)
            lab.gateway.kill()
            for response in (*talking, thinking):
                rest = events(response.read().decode())
                assert rest[-1]["error"]["code"] == "upstream_unreachable"
                assert "[DONE]" not in rest
            answer = silent.response()
            assert answer.status == 502
            assert answer.headers["x-optillm-error"] == "upstream_unreachable"
        assert lab.idle()
        assert eventually(lambda: ready(lab.proxy)[0] == 503)

        lab.sim.behave(model="base", chunk_interval=0.0, tokens=24)
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(lab.start_gateway)
            while not starting.done():
                for model in ("base", "moa-base"):
                    gap = ask(lab.proxy, model)
                    assert gap.status_code == 200 or refused(gap) == (502, "upstream_unreachable")
                time.sleep(0.5)
            starting.result()
        for model in ("base", "moa-base", "re2&bon-base"):
            assert ask(lab.proxy, model).status_code == 200
        assert eventually(lambda: ready(lab.proxy) == (200, ""))
