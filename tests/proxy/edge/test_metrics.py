"""``/metrics``: what is counted of each request, and that no client can make it grow."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, chat_body, eventually
from scraped import Scraped

from optictl.simulator import Behaviour, Fault, SimulatorThread
from proxy.edge import handoff
from proxy.ensembles import Ensemble
from proxy.ensembles_file import loads
from proxy.router.ladder import Choice
from proxy.run.ledger import Ledger
from proxy.settings import Limits, Secret
from proxy.telemetry.metrics import FAMILIES
from proxy.telemetry.record import Record, Trace
from proxy.upstream.config import PoolConfig, ProviderConfig

PAGE = Path(__file__).parents[3] / "docs/operator.md"
ENSEMBLE = "opt-three-high-s"


def scraped(proxy: InProcess) -> Scraped:
    response = proxy.http.get("/metrics")
    assert response.status_code == 200
    return Scraped(response.text)


def ensemble(*proposers: str) -> Mapping[str, Ensemble]:
    row = {
        "ensemble": ENSEMBLE,
        "approach": "self_consistency",
        "members": [{"model": model} for model in proposers],
    }
    return loads(json.dumps(row), Path("ensembles.jsonl"))


def pool(*urls: str) -> PoolConfig:
    providers = tuple(ProviderConfig(name, url) for name, url in zip("pq", urls, strict=False))
    return PoolConfig(providers, strategy="failover")


def record(code: str) -> Record:
    """A request that an upstream has refused with a code of its own."""
    return Record(
        id="r", path="/v1/chat/completions", began=0.0, seconds=0.1, status=400, code=code,
        stream=False, tenant="", trace=Trace.begin(), plan=None, ledger=Ledger(),
    )  # fmt: skip


def told(response: Any) -> bytes:
    """Its body; a stream is over once the server has closed it."""
    body: bytes = response.get_data()
    response.close()
    return body


def listed(proxy: InProcess) -> bool:
    """Wait for the upstream's list: until then every model is "other"."""
    return eventually(lambda: "sim" in proxy.app.engine.known_models())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer(make_proxy: MakeProxy, stream: bool) -> None:
    proxy = make_proxy()
    assert listed(proxy)
    assert told(proxy.ask("moa-sim", stream=stream))
    seen = scraped(proxy)
    mine = {"approach": "moa"}
    assert seen.value("optillm_requests_total") == 1
    assert seen.value("optillm_requests_total", status="200", code="ok", **mine) == 1
    assert seen.value("optillm_request_seconds_count", **mine) == 1
    assert seen.value("optillm_request_seconds_bucket", le="+Inf", **mine) == 1
    assert 0 < seen.value("optillm_request_seconds_sum", **mine) < 60
    assert seen.value("optillm_first_token_seconds_count", **mine) == stream
    assert seen.value("optillm_rounds_sum", **mine) == 3
    assert seen.value("optillm_rounds_bucket", le="2.0", **mine) == 0
    assert seen.value("optillm_rounds_bucket", le="3.0", **mine) == 1
    ok = {"provider": "upstream", "model": "sim", "outcome": "ok"}
    assert seen.value("optillm_upstream_calls_total", **ok) == 5
    assert seen.value("optillm_queue_wait_seconds_count", provider="upstream") == 5


def test_tokens_are_those_of_the_answers(make_proxy: MakeProxy) -> None:
    proxy = make_proxy()
    assert listed(proxy)
    usage = [proxy.ask("bon-sim").json["usage"] for _ in range(2)]
    seen = scraped(proxy)
    for kind in ("prompt", "completion"):
        told = sum(each[f"{kind}_tokens"] for each in usage)
        assert seen.value("optillm_tokens_total", model="sim", kind=kind) == told > 0


def test_the_first_token_is_the_final_answers(make_proxy: MakeProxy, sim: SimulatorThread) -> None:
    sim.behave(latency=0.1)
    proxy = make_proxy()
    told(proxy.ask("moa-sim", stream=True))
    assert scraped(proxy).value("optillm_first_token_seconds_sum", approach="moa") > 0.3


def test_calls_that_were_cancelled(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(latency=0.2, sigma=1.0)
    answer = proxy.ask("self_consistency-sim").json
    seen = scraped(proxy)
    cancelled = seen.value("optillm_calls_cancelled_total", approach="self_consistency")
    outcome = seen.value("optillm_upstream_calls_total", outcome="cancelled")
    assert cancelled == outcome > 0
    assert seen.value("optillm_upstream_calls_total") == answer["optillm"]["calls"]


def test_how_sure_the_router_was(proxy: InProcess) -> None:
    routed = record("")
    routed.ledger.routes += [
        Choice("moa", "classifier", 0.83),
        Choice("bon", "classifier", 0.55),
        # Nothing spoke for it.
        Choice("none", "default"),
    ]
    proxy.app.metrics.ended(routed)
    seen = scraped(proxy)
    assert seen.value("optillm_router_decisions_total") == 3
    assert seen.labels("optillm_router_confidence_count", "source") == {"classifier"}
    assert seen.value("optillm_router_confidence_count") == 2
    assert seen.value("optillm_router_confidence_sum") == pytest.approx(1.38)
    below = {le: seen.value("optillm_router_confidence_bucket", le=le) for le in ("0.55", "0.8")}
    assert below == {"0.55": 1, "0.8": 1}
    assert seen.value("optillm_router_confidence_bucket", le="0.9") == 2


class TestWhatGoesWrong:
    @pytest.mark.parametrize("stream", [False, True])
    def test_an_error_of_the_upstream(
        self, proxy: InProcess, sim: SimulatorThread, stream: bool
    ) -> None:
        sim.behave(faults=(Fault(500),))
        assert proxy.ask("sim", stream=stream).status_code == 502
        seen = scraped(proxy)
        code = {"code": "upstream_error"}
        assert seen.value("optillm_requests_total", approach="none", status="502", **code) == 1
        assert seen.value("optillm_upstream_calls_total", outcome="upstream_error") == 1
        assert seen.value("optillm_request_seconds_count") == 0

    def test_a_stream_that_breaks_is_no_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("stream_cut"),), chunk_interval=0.01)
        assert b"error" in told(proxy.ask("sim", stream=True))
        seen = scraped(proxy)
        assert seen.value("optillm_requests_total", status="200", code="ok") == 0
        assert seen.value("optillm_requests_total", status="200") == 1

    def test_a_refusal(self, proxy: InProcess) -> None:
        code = proxy.post(data=b"{").json["error"]["code"]
        seen = scraped(proxy)
        mine = {"approach": "-", "status": "400", "code": code}
        assert seen.value("optillm_requests_total", **mine) == 1
        assert seen.value("optillm_upstream_calls_total") == 0

    def test_a_request_that_there_is_no_room_for(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(threads=1)
        name = "optillm_requests_turned_away_total"
        codes = {"overloaded", "queue_full", "queue_timeout"}
        assert scraped(proxy).labels(name, "code") == codes
        with proxy.app.admission.slot():
            assert proxy.ask().status_code == 503
        seen = scraped(proxy)
        assert seen.value(name, code="overloaded") == seen.value(name) == 1

    def test_a_client_without_the_key(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(proxy_key=Secret("sk-right"))
        assert proxy.ask().status_code == 401
        refused = proxy.http.get("/metrics")
        assert (refused.status_code, refused.json["error"]["code"]) == (401, "invalid_api_key")
        right = {"Authorization": "Bearer sk-right"}
        seen = Scraped(proxy.http.get("/metrics", headers=right).text)
        assert seen.value("optillm_requests_total", status="401", code="invalid_api_key") == 1

    def test_a_budget_that_was_used_up(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(limits=Limits(max_total_tokens=1))
        proxy.ask("moa-sim")
        reasons = scraped(proxy)
        assert reasons.value("optillm_budget_exhausted_total", reason="max_total_tokens") == 1

    def test_a_member_that_is_missing(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        proxy = make_proxy(ensembles=ensemble("a", "b", "c"))
        name = "optillm_members_missing_total"
        before = scraped(proxy)
        # Prometheus sees an increase only in what was there before.
        assert before.labels(name, "model") == {"a", "b", "c"}
        assert before.value(name) == 0
        sim.behave(model="b", faults=(Fault(404),))
        assert proxy.ask(ENSEMBLE).json["optillm"]["members_missing"] == ["b"]
        after = scraped(proxy)
        assert after.value(name, ensemble=ENSEMBLE, model="b") == after.value(name) == 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_member_that_was_missing_when_the_client_left(
        self,
        make_proxy: MakeProxy,
        sim: SimulatorThread,
        stream: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # What the member said has been heard by then.
        monkeypatch.setattr(handoff, "_WATCH_EVERY", 1.0)
        sim.behave(latency=60.0)
        sim.behave(model="b", faults=(Fault(404),))
        proxy = make_proxy(ensembles=ensemble("a", "b", "c"))
        near, far = socket.socketpair()

        def leave() -> None:
            assert eventually(lambda: any(call.status == 404 for call in sim.log.records))
            near.close()

        with near, far:
            leaving = threading.Thread(target=leave)
            leaving.start()
            body = chat_body(ENSEMBLE, stream=stream)
            told(proxy.post(json=body, environ_overrides={"gunicorn.socket": far}))
            leaving.join()
        seen = scraped(proxy)
        assert seen.value("optillm_requests_total", status="499") == 1
        name = "optillm_members_missing_total"
        assert seen.value(name, ensemble=ENSEMBLE, model="b") == seen.value(name) == 1

    def test_a_call_that_goes_to_another_provider(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        with SimulatorThread(Behaviour(faults=(Fault(500),))) as broken:
            proxy = make_proxy(base_url="", pool=pool(broken.url, sim.url))
            proxy.text()
            seen = scraped(proxy)
        assert seen.value("optillm_failovers_total", provider="p") == 1
        assert seen.value("optillm_retries_total") == 0
        calls = "optillm_upstream_calls_total"
        assert seen.value(calls, provider="p", outcome="upstream_error") == 1
        assert seen.value(calls, provider="q", outcome="ok") == 1

    def test_a_call_that_is_made_once_more(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(503, times=1),))
        proxy = make_proxy(base_url="", pool=pool(sim.url))
        proxy.text("re2-sim")
        seen = scraped(proxy)
        assert seen.value("optillm_retries_total", provider="p") == 1
        assert seen.value("optillm_failovers_total") == 0

    def test_a_provider_that_is_down(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        proxy = make_proxy(base_url="", pool=pool("http://127.0.0.1:9/v1", sim.url))

        def up(provider: str) -> float:
            return scraped(proxy).value("optillm_provider_up", provider=provider)

        assert eventually(lambda: (up("p"), up("q")) == (0, 1))
        seen = scraped(proxy)
        assert seen.value("optillm_provider_state", provider="q", state="closed") == 1
        assert seen.value("optillm_provider_state", provider="p", state="closed") == 0
        assert seen.value("optillm_provider_state", provider="p") == 1


class TestBounds:
    def test_invented_names_of_models_are_one(self, proxy: InProcess, sim: SimulatorThread) -> None:
        assert listed(proxy)
        proxy.text("sim")
        before = len(proxy.http.get("/metrics").text)
        for number in range(1000):
            proxy.ask(f"nobody-has-{number}")
        text = proxy.http.get("/metrics").text
        assert "nobody" not in text
        seen = Scraped(text)
        assert seen.labels("optillm_upstream_calls_total", "model") == {"sim", "other"}
        assert seen.value("optillm_upstream_calls_total", model="other") == 1000
        assert len(text) < before + 500

    def test_invented_names_of_approaches_are_one(self, proxy: InProcess) -> None:
        proxy.ask("sim", optillm_approach="nobody-built-this")
        assert scraped(proxy).labels("optillm_requests_total", "approach") == {"-"}

    def test_there_are_so_many_pipelines(self, proxy: InProcess) -> None:
        slugs = ("re2", "none", "cot_reflection")
        chains = [f"{a}&{b}&{c}&{d}" for a in slugs for b in slugs for c in slugs for d in slugs]
        for chain in chains:
            proxy.ask(f"{chain}-sim", optillm_budget={"max_calls": 9})
        seen = scraped(proxy)
        approaches = seen.labels("optillm_requests_total", "approach")
        pipelines = {each for each in approaches if "&" in each}
        assert len(pipelines) == 50
        assert approaches - pipelines <= {"other", "none", "re2", "cot_reflection"}
        assert seen.value("optillm_requests_total", approach="other") > 0
        assert seen.value("optillm_requests_total") == len(chains)

    def test_there_are_so_many_codes_of_upstreams(self, proxy: InProcess) -> None:
        views = proxy.app.metrics
        for number in range(200):
            views.ended(record(code=f"invented_{number}"))
        seen = scraped(proxy)
        assert len(seen.labels("optillm_requests_total", "code")) == 101
        assert seen.value("optillm_requests_total", code="other") == 100


class TestWhatIsShown:
    def test_every_metric_is_there_from_the_start(self, proxy: InProcess) -> None:
        text = proxy.http.get("/metrics").text
        for family in FAMILIES:
            assert f"# TYPE {family.shown} {family.kind}\n" in text

    def test_and_in_the_page_for_operators(self) -> None:
        page = PAGE.read_text()
        for family in FAMILIES:
            labels = ", ".join(f"`{label}`" for label in family.labels)
            assert f"| `{family.shown}` | {family.kind} | {labels} | {family.help} |" in page
        assert page.count("\n| `optillm_") == len(FAMILIES)

    def test_the_present(self, proxy: InProcess) -> None:
        def now(name: str) -> float:
            return scraped(proxy).value(name)

        assert eventually(lambda: now("optillm_ready") == 1)
        assert now("optillm_workers") == 1
        assert now("optillm_requests_in_flight") == now("optillm_queue_depth") == 0
        assert now("optillm_degraded") == now("optillm_reload_refused") == 0

    def test_degraded(self, make_proxy: MakeProxy) -> None:
        assert scraped(make_proxy(degraded=True)).value("optillm_degraded") == 1

    def test_an_upstream_that_does_not_answer(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(base_url="http://127.0.0.1:9/v1")
        assert scraped(proxy).value("optillm_ready") == 0

    def test_the_health_check_of_gateways_is_no_approach(self, proxy: InProcess) -> None:
        proxy.text("optictl-health")
        seen = scraped(proxy)
        assert seen.value("optillm_requests_total", approach="-", status="200") == 1
