"""Requests that are routed: what runs, what is told of it, and a classifier that is sick."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, chat_body, content_of, eventually
from driving import Driver, FakeUpstream
from fake_sidecar import Answer, FakeSidecar, sure_of

from optictl.simulator import Behaviour, SimulatorThread
from proxy import tasks
from proxy.app import create_app
from proxy.chat import Chat
from proxy.ensembles import Ensemble, Member, Team
from proxy.errors import UpstreamError
from proxy.router import ladder as rungs
from proxy.router.client import Router
from proxy.router.config import RouterSettings
from proxy.router.ladder import Choice
from proxy.settings import Settings

OPEN = "Compare the French and the American revolution."
Start = Callable[..., tuple[InProcess, FakeSidecar]]


@pytest.fixture(autouse=True)
def no_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are about the classifier: the linear model knows nothing."""
    monkeypatch.setattr(rungs.linear, "shares", lambda _: None)


@pytest.fixture
def start(sim: SimulatorThread, tmp_path: Path) -> Iterator[Start]:
    """Start the app in front of ``sim`` and beside a sidecar that says ``answer``."""
    with ExitStack() as running:

        def start(
            answer: Answer = lambda _: sure_of("moa"),
            *,
            phase: str = "ready",
            router: RouterSettings | None = None,
            **settings: Any,
        ) -> tuple[InProcess, FakeSidecar]:
            sidecar = running.enter_context(FakeSidecar(tmp_path / "socket", answer, phase=phase))
            classifier = Router(router or RouterSettings(within=10.0), sidecar.path)
            given = {"base_url": sim.url, "model": "sim", **settings}
            app = create_app(Settings(**given), classifier=classifier)
            app.engine.start()
            running.callback(app.engine.stop)
            assert eventually(lambda: phase == "loading" or classifier.state.phase == phase)
            return InProcess(app), sidecar

        yield start


def ensemble(**params: Any) -> Ensemble:
    team = Team((Member("sim"), Member("sim-2"), Member("sim-3", "aggregator")))
    return Ensemble("opt-chat-fast-s", "router", team, params)


def routed(answer: Any) -> tuple[str, str]:
    told = answer.json["optillm"]["router"]
    return told["approach"], told["source"]


class TestWhatIsTold:
    def test_in_a_header_the_body_the_trace_and_a_metric(self, start: Start) -> None:
        proxy, _ = start(lambda _: sure_of("moa", 1.0))
        answer = proxy.ask("router-sim", OPEN)
        assert answer.headers["x-optillm-router"] == "moa; source=classifier; confidence=1.00"
        assert answer.json["optillm"]["approach"] == "router"
        assert answer.json["optillm"]["router"] == {
            "approach": "moa", "source": "classifier", "confidence": 1.0
        }  # fmt: skip
        path = f"/v1/traces/{answer.headers['x-request-id']}"
        assert eventually(lambda: proxy.http.get(path).status_code == 200)
        trace = proxy.http.get(path).json
        route = next(each for each in trace["decisions"] if each["kind"] == "route")
        assert route["why"] == "moa; source=classifier; confidence=1.00"
        metrics = proxy.http.get("/metrics").get_data(as_text=True)
        assert 'optillm_router_decisions_total{approach="moa",source="classifier"} 1' in metrics
        assert 'optillm_router_confidence_bucket{le="1.0",source="classifier"} 1' in metrics
        assert 'optillm_router_confidence_bucket{le="0.99",source="classifier"} 0' in metrics

    def test_to_a_client_that_streams(self, start: Start) -> None:
        proxy, _ = start(lambda _: sure_of("none"))
        response = proxy.ask("router-sim", OPEN, stream=True)
        assert response.headers["x-optillm-router"].startswith("none; source=classifier")
        response.close()
        chunks = proxy.stream("router-sim", OPEN)
        assert content_of(chunks)
        assert chunks[-2]["optillm"]["router"]["source"] == "cache"

    def test_nothing_where_nothing_was_routed(self, start: Start) -> None:
        proxy, sidecar = start()
        answer = proxy.ask("bon-sim", OPEN)
        assert "x-optillm-router" not in answer.headers
        assert "router" not in answer.json["optillm"]
        assert not sidecar.asked


class TestWhatRuns:
    def test_has_all_parameters_of_the_request(self, start: Start, sim: SimulatorThread) -> None:
        proxy, _ = start(lambda _: sure_of("none"))
        members = {"temperature": 0.35, "seed": 5, "user": "u1", "logit_bias": {"7": 1}}
        proxy.ask("router-sim", OPEN, **members)
        [call] = sim.log.records
        assert call.body is not None
        assert call.body | members == call.body

    @pytest.mark.parametrize(
        "members",
        [
            {"optillm_options": {"bon.samples": 2}},
            {"optillm_options": {"samples": 2}},
            {"best_of_n": 2},
        ],
    )
    def test_has_the_options_of_the_request(self, start: Start, members: dict[str, Any]) -> None:
        proxy, _ = start(lambda _: sure_of("bon"), options={"bon.samples": 5})
        assert proxy.ask("router-sim", OPEN, **members).json["optillm"]["calls"] == 4

    def test_has_the_operators_options(self, start: Start) -> None:
        proxy, _ = start(lambda _: sure_of("bon"), options={"bon.samples": 5})
        assert proxy.ask("router-sim", OPEN).json["optillm"]["calls"] == 10

    def test_an_option_that_no_approach_has_is_refused(self, start: Start) -> None:
        proxy, _ = start()
        answer = proxy.ask("router-sim", OPEN, optillm_options={"sample": 2})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "unknown_option")

    def test_an_option_need_not_suit_what_is_not_chosen(self, start: Start) -> None:
        # cascade has samples too, but no fewer than two.
        proxy, _ = start(lambda _: sure_of("bon"))
        answer = proxy.ask("router-sim", OPEN, optillm_options={"samples": 1})
        assert answer.json["optillm"]["calls"] == 2
        answer = proxy.ask("router-sim", OPEN, optillm_options={"samples": 1000})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_option")

    def test_treats_what_the_request_carries(self, start: Start) -> None:
        proxy, sidecar = start(lambda _: sure_of("leap"))
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        assert routed(proxy.ask("router-sim", OPEN, tools=tools)) == ("none", "features")
        picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
        assert routed(proxy.ask("router-sim", picture)) == ("none", "features")
        assert not sidecar.asked

    def test_fits_the_budget(self, start: Start) -> None:
        proxy, _ = start()
        answer = proxy.ask("router-sim", OPEN, optillm_budget={"max_calls": 1})
        assert answer.status_code == 200
        assert routed(answer)[0] != "moa"

    def test_is_none_of_those_that_act_unless_it_is_asked_for(self, start: Start) -> None:
        proxy, _ = start(lambda _: sure_of("z3"))
        assert routed(proxy.ask("router-sim", OPEN))[0] != "z3"
        answer = proxy.ask("router-sim", OPEN, optillm_options={"allow": "none, z3"})
        assert routed(answer) == ("z3", "classifier")

    def test_a_name_that_is_no_approach_is_refused(self, start: Start) -> None:
        proxy, _ = start()
        answer = proxy.ask("router-sim", OPEN, optillm_options={"allow": "none,mao"})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "unknown_approach")

    def test_several_choices_are_routed_each(self, start: Start) -> None:
        proxy, _ = start(lambda _: sure_of("none"))
        answer = proxy.ask("router-sim", OPEN, n=2)
        assert len(answer.json["choices"]) == 2
        assert routed(answer) == ("none", "classifier")


class TestInAnEnsemble:
    def test_only_what_its_row_allows_is_chosen(self, start: Start) -> None:
        row = ensemble(**{"router.allow": "none,bon", "bon.samples": 2})
        proxy, sidecar = start(ensembles={row.name: row})
        answer = proxy.ask(row.name, OPEN)
        assert routed(answer)[0] in ("none", "bon")
        assert sidecar.asked[0]["effort"] == 0.1

    def test_its_options_are_those_of_what_runs(self, start: Start) -> None:
        row = ensemble(**{"router.effort": 0.8, "bon.samples": 2})
        proxy, sidecar = start(lambda _: sure_of("bon"), ensembles={row.name: row})
        assert proxy.ask(row.name, OPEN).json["optillm"]["calls"] == 4
        assert sidecar.asked[0]["effort"] == 0.8

    def test_the_request_says_the_last_word_on_effort(self, start: Start) -> None:
        row = ensemble()
        proxy, sidecar = start(ensembles={row.name: row})
        proxy.ask(row.name, OPEN, optillm_options={"effort": 1.0})
        assert sidecar.asked[0]["effort"] == 1.0


class TestAuto:
    def test_is_the_router_where_that_is_ready(self, start: Start) -> None:
        proxy, _ = start()
        assert routed(proxy.ask("sim", OPEN)) == ("moa", "classifier")
        assert routed(proxy.ask("sim", OPEN, optillm_approach="auto")) == ("moa", "cache")

    def test_in_a_body_goes_before_the_servers_approach(self, start: Start) -> None:
        proxy, _ = start(lambda _: sure_of("none"), approach="bon")
        assert proxy.ask("sim", OPEN).json["optillm"]["approach"] == "bon"
        answer = proxy.ask("sim", OPEN, optillm_approach="auto")
        assert answer.json["optillm"]["approach"] == "router"

    def test_a_prefix_goes_before_it(self, start: Start) -> None:
        proxy, _ = start()
        answer = proxy.ask("bon-sim", OPEN, optillm_approach="auto")
        assert answer.json["optillm"]["approach"] == "bon"

    def test_an_ensemble_keeps_its_own_approach(self, start: Start) -> None:
        team = Team((Member("sim"), Member("sim-2")))
        row = Ensemble("opt-x", "self_moa", team)
        proxy, _ = start(ensembles={row.name: row})
        answer = proxy.ask(row.name, OPEN, optillm_approach="auto")
        assert answer.json["optillm"]["approach"] == "self_moa"

    @pytest.mark.parametrize("phase", ["loading", "absent"])
    def test_is_as_ever_where_it_is_not(self, start: Start, phase: str) -> None:
        proxy, sidecar = start(phase=phase)
        answer = proxy.ask("sim", OPEN, optillm_approach="auto")
        assert answer.json["optillm"]["approach"] == "none"
        assert "x-optillm-router" not in answer.headers
        assert not sidecar.asked

    def test_a_chore_is_not_routed(self, start: Start) -> None:
        proxy, sidecar = start()
        answer = proxy.post(json=chat_body("sim", OPEN), headers={tasks.HEADER: "title"})
        assert answer.json["optillm"]["approach"] == "none"
        assert answer.json["optillm"]["task"]
        assert not sidecar.asked


class TestWhereNobodyIsSure:
    def test_samples_that_agree_are_the_answer(self, start: Start, sim: SimulatorThread) -> None:
        proxy, _ = start(lambda _: None, phase="absent")
        answer = proxy.ask("router-sim", "Which number comes to mind?")
        assert routed(answer) == ("none", "probe")
        assert answer.json["optillm"]["calls"] == 3

    def test_samples_that_do_not_are_used_by_what_follows(self, tmp_path: Path) -> None:
        behaviour = Behaviour(probability=0.0, distractors=(1.0,) * 50)
        with SimulatorThread(behaviour) as sim:
            app = create_app(Settings(base_url=sim.url, model="sim"))
            app.engine.start()
            try:
                options = {"self_consistency.samples": 5}
                answer = InProcess(app).ask(
                    "router-sim", "Which number comes to mind?", optillm_options=options
                )
            finally:
                app.engine.stop()
        assert routed(answer) == ("self_consistency", "probe")
        assert answer.json["optillm"]["calls"] <= 5

    def test_samples_without_answers_are_merged(self) -> None:
        said = iter([f"{way} can anybody know that. " * 10 for way in ("How", "When", "Where")])

        async def run() -> tuple[list[str], list[Choice]]:
            upstream = FakeUpstream(lambda call: next(said, "All three are right."))
            driver = Driver(upstream)
            await driver.llm.run("router", Chat(({"role": "user", "content": OPEN},)), tail=True)
            return upstream.models_called, driver.run.ledger.routes

        called, [choice] = asyncio.run(run())
        assert (choice.slug, choice.source) == ("moa", "probe")
        # Three samples, a critique and a merged answer: none of the samples is drawn again.
        assert len(called) == 5

    def test_samples_that_fail_leave_it_at_one_call(self) -> None:
        async def run() -> tuple[str, list[Choice]]:
            down = UpstreamError("down")
            said = iter([down, down, down])
            driver = Driver(FakeUpstream(lambda call: next(said, "Here I am.")))
            await driver.llm.run("router", Chat(({"role": "user", "content": OPEN},)), tail=True)
            return driver.text, driver.run.ledger.routes

        text, [choice] = asyncio.run(run())
        assert text == "Here I am."
        assert (choice.slug, choice.source) == ("none", "default")

    @pytest.mark.parametrize("options", [{"probe": 0}, {"effort": 0.3}])
    def test_none_are_drawn_where_that_is_too_dear(
        self, start: Start, options: dict[str, Any]
    ) -> None:
        proxy, _ = start(phase="absent")
        answer = proxy.ask("router-sim", OPEN, optillm_options=options)
        assert routed(answer) == ("none", "default")
        assert answer.json["optillm"]["calls"] == 1


class TestASickClassifier:
    """The request goes on by the ladder, without a word of complaint."""

    def goes_on(self, proxy: InProcess, content: str = OPEN) -> None:
        answer = proxy.ask("router-sim", content, optillm_options={"probe": 0})
        assert answer.status_code == 200
        assert routed(answer) == ("none", "default")

    def test_that_was_never_set_up(self, proxy: InProcess) -> None:
        self.goes_on(proxy)
        ready = proxy.http.get("/health/ready").json
        assert (ready["router"], ready["router_why"]) == ("absent", "no classifier is set up")

    @pytest.mark.parametrize("why", ["torch is not installed", "codelion/... is not in the cache"])
    def test_that_cannot_be_loaded(self, sim: SimulatorThread, why: str) -> None:
        app = create_app(
            Settings(base_url=sim.url, model="sim"), classifier=Router(RouterSettings(), "", why)
        )
        app.engine.start()
        try:
            proxy = InProcess(app)
            self.goes_on(proxy)
            ready = proxy.http.get("/health/ready").json
            assert (ready["router"], ready["router_why"]) == ("absent", why)
        finally:
            app.engine.stop()

    def test_that_hangs_while_it_loads(self, start: Start) -> None:
        proxy, sidecar = start(phase="loading")
        self.goes_on(proxy)
        assert proxy.http.get("/health/ready").json["router"] == "loading"
        assert not sidecar.asked

    def test_that_dies_while_it_loads(self, start: Start) -> None:
        proxy, sidecar = start(phase="loading")
        sidecar.crash()
        self.goes_on(proxy)

    def test_that_hangs_while_it_decides(self, start: Start) -> None:
        # As the service asks.
        proxy, sidecar = start(lambda _: None, router=RouterSettings())
        began = time.monotonic()
        self.goes_on(proxy)
        assert 0.25 <= time.monotonic() - began < 5
        self.goes_on(proxy, "Compare the Russian and the Chinese revolution.")
        # The second has not waited for an answer that is owed already.
        assert len(sidecar.asked) == 1

    def test_that_dies_while_it_decides(self, start: Start) -> None:
        arrived = threading.Event()

        def silent(_: Any) -> None:
            arrived.set()

        proxy, sidecar = start(silent, router=RouterSettings(within=60.0))
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(self.goes_on, proxy)
            assert arrived.wait(30)
            sidecar.crash()
            asking.result(timeout=30)
        # Not for as long as it would have been waited for.
        assert time.monotonic() - began < 60

    def test_that_is_asked_by_200_at_once(self, start: Start) -> None:
        def by_number(question: dict[str, Any]) -> list[float]:
            return sure_of(("none", "re2")[int(question["query"].split()[1]) % 2])

        proxy, sidecar = start(by_number)
        with ThreadPoolExecutor(32) as pool:
            questions = [f"Choice {number} of many: which of them?" for number in range(200)]
            answers = list(pool.map(lambda each: proxy.ask("router-sim", each), questions))
        assert [routed(answer)[0] for answer in answers] == ["none", "re2"] * 100
        assert len(sidecar.asked) == 200

    @pytest.mark.parametrize(
        "content", [" \n\t", "\N{GRINNING FACE}\0 \N{SNOWMAN}", "So what? " * 110_000]
    )
    def test_that_is_asked_strange_things(self, start: Start, content: str) -> None:
        proxy, sidecar = start(lambda _: sure_of("none"))
        answer = proxy.ask("router-sim", content)
        assert answer.status_code == 200
        assert routed(answer)[0] == "none"
        assert all(len(each["query"]) <= 8192 for each in sidecar.asked)
