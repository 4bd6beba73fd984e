"""What holds for all that searches and refines: faults, budgets, streams, pipelines, ensembles."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import QUESTION, InProcess, content_of, eventually
from driving import Driver, FakeUpstream

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.registry import discover

JUDGED = ["mcts", "abmcts", "self_refine", "pvg"]
each = pytest.mark.parametrize("slug", [*JUDGED, "rstar", "cov"])
judged = pytest.mark.parametrize("slug", JUDGED)
SYSTEM = {"role": "system", "content": "Answer in {braces} like a pirate."}
HISTORY = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Ahoy!"}]


def said_by_solvers(sim: SimulatorThread) -> set[str]:
    roles = ("solver", "aggregator")
    return {str(c.content) for c in sim.log.records if c.role in roles and c.content}


def answer_of(response: Any) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json["choices"][0]["message"]["content"]
    return text


@each
class TestFaults:
    @pytest.mark.parametrize("kind", [400, "null_content", "reset"])
    def test_half_of_the_calls_may_fail(
        self, proxy: InProcess, sim: SimulatorThread, slug: str, kind: int | str
    ) -> None:
        sim.behave(faults=(Fault(kind, probability=0.5),), seed=5)
        said = answer_of(proxy.ask(f"{slug}-sim"))
        assert said in said_by_solvers(sim)
        assert eventually(lambda: sim.log.inflight == 0)

    def test_an_error_only_where_nothing_remains_and_never_as_text(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        sim.behave(faults=(Fault(400),))
        response = proxy.ask(f"{slug}-sim")
        assert response.status_code == 400
        assert "choices" not in response.json
        assert eventually(lambda: sim.log.inflight == 0)

    def test_what_is_cut_short_is_better_than_nothing(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        sim.behave(faults=tuple(Fault("length", role=r) for r in ("solver", "aggregator")))
        choice = proxy.ask(f"{slug}-sim").json["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] in said_by_solvers(sim)

    def test_but_never_returned_where_there_is_a_whole_one(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        sim.behave(faults=(Fault("length", role="solver", times=1),), tokens=100)
        choice = proxy.ask(f"{slug}-sim").json["choices"][0]
        assert choice["finish_reason"] == "stop"

    @pytest.mark.parametrize("support", ["honoured", "ignored", "refused"])
    def test_it_never_needs_n(
        self, proxy: InProcess, sim: SimulatorThread, slug: str, support: Any
    ) -> None:
        sim.behave(n=support)
        optillm = proxy.ask(f"{slug}-sim").json["optillm"]
        assert optillm["calls"] == sim.log.calls == sim.log.choices

    def test_identical_answers(self, slug: str) -> None:
        async def run() -> str:
            driver = Driver(FakeUpstream(lambda _: "It is 42. Score: 5"))
            await driver.play(slug)
            assert driver.upstream.running == 0
            return driver.text

        assert asyncio.run(run()) == "It is 42. Score: 5"


@judged
@pytest.mark.parametrize("kind", [400, "null_content"])
def test_judges_that_fail_cost_no_answer(
    proxy: InProcess, sim: SimulatorThread, slug: str, kind: int | str
) -> None:
    sim.behave(faults=(Fault(kind, role="judge"),))
    assert answer_of(proxy.ask(f"{slug}-sim")) in said_by_solvers(sim)


@judged
@pytest.mark.parametrize("rating", ["Score: NaN", "Score: 11", "Score: -3", "I like it.", "Score:"])
def test_judges_that_babble_cost_no_answer(slug: str, rating: str) -> None:
    def respond(call: Any) -> str:
        asked = str(call.body["messages"][-1]["content"])
        return rating if asked.endswith("Score: [0-10]") else "An answer."

    async def run() -> str:
        driver = Driver(FakeUpstream(respond))
        await driver.play(slug)
        return driver.text

    assert asyncio.run(run()) == "An answer."


@each
class TestLimits:
    def test_less_than_its_least_is_refused(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        least = discover()[slug].shape({}).least_calls
        response = proxy.ask(f"{slug}-sim", optillm_budget={"max_calls": least - 1})
        assert response.json["error"]["code"] == "budget_too_small"
        assert sim.log.calls == 0

    def test_its_least_is_enough_for_an_answer(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        least = discover()[slug].shape({}).least_calls
        response = proxy.ask(f"{slug}-sim", optillm_budget={"max_calls": least})
        assert answer_of(response) in said_by_solvers(sim)
        assert response.json["optillm"]["calls"] <= least

    def test_the_first_answer_is_kept_where_tokens_end(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        response = proxy.ask(f"{slug}-sim", optillm_budget={"max_total_tokens": 1})
        assert answer_of(response) in said_by_solvers(sim)
        assert response.json["optillm"]["exhausted"] == "max_total_tokens"

    def test_the_first_answer_is_kept_where_time_ends(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        roles = ("judge", "stage", "deceiver")
        sim.behave(faults=tuple(Fault("hang", role=role) for role in roles))
        response = proxy.ask(f"{slug}-sim", optillm_budget={"max_seconds": 1.5})
        assert answer_of(response) in said_by_solvers(sim)
        assert response.json["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)


@each
class TestConversation:
    def test_it_stays_in_front_of_every_call(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        messages = [SYSTEM, *HISTORY, {"role": "user", "content": QUESTION}]
        answer_of(proxy.post(json={"model": f"{slug}-sim", "messages": messages}))
        assert sim.log.records
        for call in sim.log.records:
            sent = (call.body or {})["messages"]
            assert sent[:3] == messages[:3]
            assert len(sent) == 4
            assert sent[3]["content"].startswith(QUESTION)

    @pytest.mark.parametrize("question", ["17 乘以 23 等于多少？", "Schreibe def f(x) in Python."])
    def test_in_any_language(
        self, proxy: InProcess, sim: SimulatorThread, slug: str, question: str
    ) -> None:
        assert answer_of(proxy.ask(f"{slug}-sim", question)) in said_by_solvers(sim)

    def test_pictures_come_along(self, proxy: InProcess, sim: SimulatorThread, slug: str) -> None:
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        content = [picture, {"type": "text", "text": QUESTION}]
        assert proxy.ask(f"{slug}-sim", content).json["optillm"]["skipped"] == []
        for call in sim.log.records:
            assert (call.body or {})["messages"][-1]["content"][:2] == content

    def test_helpers_get_none_of_the_clients_shape(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        wanted = {"type": "json_object"}
        proxy.ask(f"{slug}-sim", response_format=wanted, stop=["§"])
        for call in sim.log.records:
            inherits = call.role in ("solver", "aggregator") and "findings" not in str(call.body)
            body = call.body or {}
            if call.role in ("judge", "stage", "deceiver"):
                assert "response_format" not in body
                assert "stop" not in body
            elif inherits and slug != "cov":
                assert body["response_format"] == wanted

    def test_tools_are_left_to_the_model_alone(
        self, proxy: InProcess, sim: SimulatorThread, slug: str
    ) -> None:
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        answer = proxy.ask(f"{slug}-sim", tools=[tool]).json
        assert answer["choices"][0]["message"]["tool_calls"]
        assert answer["optillm"]["calls"] == 1
        assert any(slug in skipped for skipped in answer["optillm"]["skipped"])


@each
class TestAmongOthers:
    @pytest.mark.parametrize("selector", ["{}&none", "none&{}", "re2&{}", "{}|none"])
    def test_in_pipelines(
        self, proxy: InProcess, sim: SimulatorThread, slug: str, selector: str
    ) -> None:
        response = proxy.ask(f"{selector.format(slug)}-sim")
        assert answer_of(response) in said_by_solvers(sim)
        assert response.json["optillm"]["skipped"] == []
        assert eventually(lambda: sim.log.inflight == 0)

    def test_streamed(self, proxy: InProcess, sim: SimulatorThread, slug: str) -> None:
        chunks = proxy.stream(f"{slug}-sim")
        assert chunks[-1] == "[DONE]"
        assert content_of(chunks) in said_by_solvers(sim)
        assert eventually(lambda: sim.log.inflight == 0)

    def test_an_ensemble_is_asked_for_the_roles_it_names(self, slug: str) -> None:
        """Whoever is called plays a role that the approach declares."""

        def respond(call: Any) -> str:
            return f"1. Is it {call.model}?\nScore: 5\nThe answer is {len(call.model)}."

        team = {
            "proposer": Member("anna", "proposer"),
            "second": Member("bela", "proposer"),
            "aggregator": Member("carlos", "aggregator"),
            "judge": Member("dorothea", "judge"),
            "critic": Member("emilia-x", "critic"),
            "helper": Member("frederica", "helper"),
        }

        async def run() -> set[str]:
            driver = Driver(FakeUpstream(respond), *team.values())
            await driver.play(slug)
            return {call.model for call in driver.upstream.calls}

        called = asyncio.run(run())
        roles = set(discover()[slug].roles({}))
        assert {m.role for m in team.values() if m.model in called} == roles
