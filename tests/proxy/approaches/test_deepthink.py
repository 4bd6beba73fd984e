"""Deep thinking: a plan made once for a task, chains that follow it, and agreement that decides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from conftest import QUESTION, InProcess, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.settings import Limits
from proxy.upstream.port import Call

UNLIKE: Mapping[str, Any] = {"probability": 0.0, "distractors": (1.0,) * 200}


def prompt(call: Any) -> str:
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def of_the_plan(call: Any) -> bool:
    return "Do not solve" in prompt(call)


def thought(
    said: Sequence[Any],
    greedy: Any = "\\boxed{0} greedily",
    plan: Any = "Look, then leap.",
    members: tuple[Member, ...] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Driver:
    """The driver behind a run over these chains, in this order."""
    chains: Iterator[Any] = iter(said)

    def respond(call: Call) -> Any:
        if of_the_plan(call):
            return plan
        return greedy if call.body.get("temperature") == 0 else next(chains)

    async def run() -> Driver:
        driver = Driver(FakeUpstream(respond), *members, limits=limits)
        await driver.play("deepthink", **{"samples": len(said), **options})
        assert driver.upstream.running == 0
        return driver

    return asyncio.run(run())


class TestThePlan:
    def test_is_selected_adapted_and_implemented_then_followed(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        optillm = proxy.ask("deepthink-sim").json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (7, 4)
        stages = [call for call in sim.log.records if of_the_plan(call)]
        assert [call.role for call in stages] == ["stage"] * 3
        for before, after in zip(stages, sim.log.records[1:], strict=False):
            assert str(before.content) in prompt(after)
        chains = sim.log.records[3:]
        assert all(f"<plan>\n{stages[2].content}\n</plan>" in prompt(call) for call in chains)

    def test_is_made_once_for_questions_that_differ_in_their_numbers(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("deepthink-sim", "What is 17 * 23?")
        again = proxy.ask("deepthink-sim", "What is 1,204.5 * 3?").json["optillm"]
        assert (again["calls"], again["rounds"]) == (4, 1)
        assert "<plan>" in prompt(sim.log.records[-1])

    @pytest.mark.parametrize(
        ("model", "members"),
        [
            ("deepthink-sim", {"content": "Who was Ada Lovelace?"}),
            ("deepthink-other", {}),
            ("deepthink-sim", {"optillm_options": {"modules": 3}}),
        ],
    )
    def test_is_made_anew_for_another_task_model_or_length(
        self, proxy: InProcess, sim: SimulatorThread, model: str, members: dict[str, Any]
    ) -> None:
        proxy.ask("deepthink-sim")
        assert proxy.ask(model, **members).json["optillm"]["calls"] == 7

    def test_joins_so_many_ways_of_thinking_at_most(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("deepthink-sim", reasoning_modules_limit=5)
        assert "5 at most" in prompt(sim.log.records[0])

    def test_can_be_left_out(self, proxy: InProcess, sim: SimulatorThread) -> None:
        optillm = proxy.ask("deepthink-sim", enable_self_discover=False).json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (4, 1)

    @pytest.mark.parametrize("plan", [UpstreamError("down"), completion(None)])
    def test_that_fails_is_done_without_and_made_the_next_time(self, plan: Any) -> None:
        driver = thought(["\\boxed{1}"] * 3, plan=plan)
        assert driver.text == "\\boxed{1}"
        assert "<plan>" not in prompt(driver.upstream.calls[-1])

    def test_that_failed_is_not_remembered(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(faults=(Fault(400, role="stage"),))
        assert proxy.ask("deepthink-sim").status_code == 200
        sim.behave(faults=())
        assert proxy.ask("deepthink-sim").json["optillm"]["calls"] == 7

    def test_there_is_no_time_for(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(latency=2.4)
        optillm = proxy.ask("deepthink-sim", optillm_budget={"max_seconds": 9.2}).json["optillm"]
        assert (optillm["calls"], optillm["exhausted"]) == (5, None)

    def test_there_is_no_budget_for(self) -> None:
        driver = thought(["\\boxed{1}"] * 3, limits=Limits(max_calls=6))
        assert (len(driver.upstream.calls), driver.run.ledger.exhausted) == (4, None)


class TestRouting:
    def test_a_large_majority_is_the_answer_its_shortest_chain(self) -> None:
        said = ["So many words: \\boxed{1}", "\\boxed{1}", "\\boxed{1} it is", "\\boxed{2}"]
        assert thought(said).text == "\\boxed{1}"

    def test_a_small_one_leaves_it_to_the_greedy_chain(self) -> None:
        assert thought(["\\boxed{1}", "\\boxed{1}", "\\boxed{2}"]).text == "\\boxed{0} greedily"

    def test_how_large_is_an_option(self, proxy: InProcess, sim: SimulatorThread) -> None:
        said = ["\\boxed{1}", "\\boxed{1}", "\\boxed{2}"]
        assert thought(said, confidence=0.6).text == "\\boxed{1}"
        answer = proxy.ask("deepthink-sim", deepthink_samples=5, confidence_threshold=0.2).json
        assert answer["optillm"]["calls"] == 3 + 5 + 1

    def test_chains_without_an_answer_agree_with_nobody(self) -> None:
        story = "Once upon a time there was a proxy. " * 5
        assert thought([story, story, story]).text == "\\boxed{0} greedily"
        assert thought([story, story, "\\boxed{2}"]).text == "\\boxed{0} greedily"

    def test_the_greedy_chain_is_not_awaited_where_it_is_not_needed(self) -> None:
        async def run() -> None:
            async def respond(call: Call) -> str:
                if call.body.get("temperature") == 0 and not of_the_plan(call):
                    await asyncio.Event().wait()
                return "\\boxed{1}"

            driver = Driver(FakeUpstream(respond))
            async with asyncio.timeout(30):
                await driver.play("deepthink")
            assert (driver.text, driver.upstream.cancelled) == ("\\boxed{1}", 1)

        asyncio.run(run())

    @pytest.mark.parametrize(
        "said",
        [
            ["答案是 42。", "Die Antwort ist 42.", "La respuesta es 42."],
            ["```c\nreturn 1;\n```"] * 3,
        ],
    )
    def test_answers_in_any_language_agree(self, said: list[str]) -> None:
        assert thought(said).text in said


class TestFaults:
    def test_lost_chains_are_drawn_once_more(self) -> None:
        said = [UpstreamError("down"), completion(None), "\\boxed{1}", "\\boxed{1}", "\\boxed{1}"]
        assert thought(said, samples=3).text == "\\boxed{1}"

    def test_without_chains_the_greedy_one_answers(self) -> None:
        assert thought([UpstreamError("down")] * 3).text == "\\boxed{0} greedily"

    @pytest.mark.parametrize("greedy", [UpstreamError("down"), completion(None)])
    def test_without_the_greedy_one_the_largest_class_does(self, greedy: Any) -> None:
        said = ["\\boxed{1}", "so \\boxed{2}", "\\boxed{2}"]
        assert thought(said, greedy).text == "\\boxed{2}"

    def test_where_nothing_remains_it_is_an_error(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(500),))
        assert proxy.ask("deepthink-sim").status_code == 502

    def test_half_of_the_calls_refused_for_their_length(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE, faults=(Fault(400, probability=0.4),))
        answered = [proxy.ask("deepthink-sim").status_code for _ in range(5)]
        assert answered.count(200) >= 3

    def test_at_the_deadline_the_best_so_far(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask("deepthink-sim")
        sim.behave(**UNLIKE, faults=(Fault("hang", role="solver", times=1),))
        answer = proxy.ask("deepthink-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)


@pytest.mark.parametrize("support", ["honoured", "ignored", "refused"])
def test_what_the_upstream_does_with_n(
    proxy: InProcess, sim: SimulatorThread, support: str
) -> None:
    sim.behave(n=support)
    answer = proxy.ask("deepthink-sim", n=2).json
    # The two choices share one plan.
    assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 3 + 2 * 4)


def test_the_conversation_stays_in_front(proxy: InProcess, sim: SimulatorThread) -> None:
    system = {"role": "system", "content": "Be brief."}
    turn = {"role": "user", "content": QUESTION}
    proxy.post(json={"model": "deepthink-sim", "messages": [system, turn]})
    for call in sim.log.records:
        sent = (call.body or {})["messages"]
        assert sent[0] == system
        assert sent[1]["content"].startswith(QUESTION)


def test_an_ensembles_members_do_their_part() -> None:
    members = (Member("anna"), Member("carl", "aggregator"), Member("fred", "helper"))
    driver = thought(["\\boxed{1}", "\\boxed{2}"], members=members)
    assert driver.upstream.models_called[:3] == ["fred"] * 3
    assert sorted(driver.upstream.models_called[3:]) == ["anna", "anna", "carl"]


def test_inside_pipelines(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("none&deepthink-sim").json["optillm"]["calls"] == 8
    assert len(proxy.ask("deepthink|none-sim").json["choices"]) == 2
