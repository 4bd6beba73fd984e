"""MARS: agreement ends it, what is aggregated can be verified, what is refuted is improved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import QUESTION, InProcess
from driving import Driver, FakeUpstream, Live, completion

from optictl.simulator import Call, Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.registry import discover
from proxy.upstream import port

NEVER = UpstreamError("down")


def prompt(call: Call | port.Call) -> str:
    """The last user turn of a call."""
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def stage(call: port.Call) -> str:
    """Which part of the algorithm a call belongs to."""
    text = prompt(call)
    marks = {"on the table": "aggregate", "Verify it": "verify", "did not pass": "improve"}
    return next((name for mark, name in marks.items() if mark in text), "sample")


class Model:
    """Everybody answers differently and every verifier refutes, unless ``respond`` differs."""

    def __init__(self, respond: Callable[[str, int, port.Call], Any] | None = None) -> None:
        self.seen: dict[str, int] = {}
        self._respond = respond
        self.upstream = FakeUpstream(self._say)

    def _say(self, call: port.Call) -> Any:
        name = stage(call)
        number = self.seen[name] = self.seen.get(name, 0) + 1
        said = self._respond(name, number, call) if self._respond else None
        if said is not None:
            return said
        if name == "verify":
            return f"Line {number} is wrong. Overall assessment: INCORRECT"
        return f"By way {number} of {name}: \\boxed{{{len(self.upstream.calls)}}}"

    def play(
        self,
        *members: Member,
        seconds: float = 30.0,
        outlet: Live | None = None,
        samples: int = 6,
        **options: Any,
    ) -> Driver:
        async def run() -> Driver:
            driver = Driver(self.upstream, *members, seconds=seconds, outlet=outlet)
            await driver.play("mars", samples=samples, **options)
            assert self.upstream.running == 0
            return driver

        return asyncio.run(run())

    def calls(self, name: str) -> list[port.Call]:
        return [call for call in self.upstream.calls if stage(call) == name]


def saying(answer: str) -> Callable[[str, int, port.Call], Any]:
    return lambda name, *_: None if name == "verify" else f"So \\boxed{{{answer}}}."


class TestCosts:
    def test_the_most_that_it_takes_is_what_it_declares(self) -> None:
        shape = discover()["mars"].shape({})
        model = Model()
        driver = model.play(samples=12)
        assert len(model.upstream.calls) == shape.most_calls == 99
        assert driver.run.ledger.rounds == shape.most_rounds

    @pytest.mark.parametrize("improvements", [0, 1, 3])
    def test_eight_rounds_and_two_for_an_improvement(self, improvements: int) -> None:
        driver = Model().play(improvements=improvements)
        assert driver.run.ledger.rounds <= 8 + 2 * improvements

    def test_an_agreement_ends_it_at_once(self) -> None:
        shape = discover()["mars"].shape({"samples": 6})
        model = Model(saying("7"))
        driver = model.play()
        assert driver.text == "So \\boxed{7}."
        assert (len(model.upstream.calls), driver.run.ledger.rounds) == (6, 1)
        assert (shape.least_calls, shape.least_rounds) == (6, 1)

    def test_one_that_aggregation_brings_ends_it_too(self) -> None:
        model = Model(lambda name, *_: "So \\boxed{7}." if name == "aggregate" else None)
        driver = model.play()
        assert driver.text == "So \\boxed{7}."
        assert (len(model.upstream.calls), driver.run.ledger.rounds) == (12, 2)

    @pytest.mark.parametrize("answer", ["Antwort: Köln", "答案：四十二", "```python\nx = 1\n```"])
    def test_identical_answers_of_any_kind_agree(self, answer: str) -> None:
        model = Model(lambda *_: answer)
        assert model.play(agreement=1.0).text == answer
        assert len(model.upstream.calls) in (6, 30)

    @pytest.mark.parametrize("stage", ["sample", "aggregate"])
    def test_those_that_cannot_change_an_agreement_are_not_waited_for(self, stage: str) -> None:
        def respond(name: str, number: int, _: port.Call) -> Any:
            if name == stage:
                return asyncio.sleep(60, "late") if number > 5 else "So \\boxed{7}."
            return None

        model = Model(respond)
        driver = model.play()
        assert driver.text == "So \\boxed{7}."
        assert model.upstream.cancelled == 1
        (decision,) = driver.run.ledger.decisions
        assert decision.why == "5 of 5 agree"

    def test_those_that_can_are(self) -> None:
        """Four of six are not the four fifths that end it."""

        def respond(name: str, number: int, _: port.Call) -> Any:
            if name == "sample":
                return "So \\boxed{7}." if number < 5 else asyncio.sleep(0.05, "So \\boxed{8}.")
            return None

        model = Model(respond)
        model.play()
        assert model.calls("aggregate")
        assert model.upstream.cancelled == 0


class TestAggregation:
    def test_each_place_is_made_of_different_solutions_whole(self) -> None:
        model = Model()
        model.play(loops=1, improvements=0)
        sampled = [f"By way {number} of sample" for number in range(1, 7)]
        for call in model.calls("aggregate"):
            assert sum(f"{text}:" in prompt(call) for text in sampled) == 3
        drawn = {frozenset(t for t in sampled if f"{t}:" in prompt(c)) for c in model.calls("aggregate")}  # fmt: skip # noqa: E501
        assert len(drawn) > 1

    def test_a_solution_that_it_made_is_marked_verified(self) -> None:
        """What OptiLLM's never can: there only an original draft passes."""
        chosen: list[str] = []

        def respond(name: str, number: int, call: port.Call) -> Any:
            if name != "verify":
                return None
            if not chosen:
                chosen.append(prompt(call).partition("<candidate>\n")[2].partition("\n")[0])
            right = chosen[0] in prompt(call)
            return f"Overall assessment: {'CORRECT' if right else 'INCORRECT'}"

        outlet = Live()
        driver = Model(respond).play(outlet=outlet)
        assert " of aggregate: " in chosen[0]
        assert driver.text == chosen[0]
        assert "verified after 0 improvements" in outlet.notes
        assert driver.run.ledger.rounds == 5


class TestVerification:
    def test_the_answers_are_verified_side_by_side_in_two_ways(self) -> None:
        model = Model()
        driver = model.play(loops=0, improvements=0, passes=2, candidates=3)
        assert len({prompt(call) for call in model.calls("verify")}) == 6
        assert driver.run.ledger.rounds == 2

    def test_one_refutation_outweighs_an_acceptance(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify" and "another way" in prompt(call):
                return "Overall assessment: CORRECT"
            return None

        outlet = Live()
        Model(respond).play(improvements=1, outlet=outlet)
        assert not any(note.startswith("verified") for note in outlet.notes)

    def test_a_verifier_that_babbles_has_no_say(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify":
                return "Overall assessment: CORRECT" if "another way" in prompt(call) else "Hm."
            return None

        outlet = Live()
        Model(respond).play(outlet=outlet)
        assert "verified after 0 improvements" in outlet.notes

    @pytest.mark.parametrize("said", [NEVER, "Hm.", "Score: NaN"])
    def test_without_any_verdict_it_is_the_vote(self, said: Any) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify":
                return said
            return "So \\boxed{7}." if name == "sample" and number < 4 else None

        model = Model(respond)
        assert model.play(loops=0).text == "So \\boxed{7}."
        assert not model.calls("improve")

    def test_the_most_frequent_of_those_accepted_and_without_waiting_for_the_others(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify":
                leading = "boxed{7}" in prompt(call)
                verdict = "Overall assessment: CORRECT"
                return verdict if leading else asyncio.sleep(60, verdict)
            return "So \\boxed{7}." if name == "sample" and number in (2, 5) else None

        model = Model(respond)
        assert model.play(loops=0).text == "So \\boxed{7}."
        assert model.upstream.cancelled == 4

    def test_a_more_frequent_one_is_waited_for(self) -> None:
        async def later() -> str:
            await asyncio.sleep(0.05)
            return "Overall assessment: CORRECT"

        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify":
                return later() if "boxed{7}" in prompt(call) else "Overall assessment: CORRECT"
            return "So \\boxed{7}." if name == "sample" and number in (2, 5) else None

        assert Model(respond).play(loops=0).text == "So \\boxed{7}."


class TestImprovement:
    def test_it_works_by_the_report_and_is_verified_again(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify" and " of improve" in prompt(call):
                return "Overall assessment: CORRECT"
            return None

        model, outlet = Model(respond), Live()
        driver = model.play(outlet=outlet)
        assert " of improve: " in driver.text
        assert "verified after 1 improvements" in outlet.notes
        assert driver.run.ledger.rounds == 7
        for call in model.calls("improve"):
            assert " is wrong. Overall" in prompt(call)
            assert " of aggregate: " in prompt(call)

    def test_where_nothing_gets_verified_it_is_the_vote(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            return "So \\boxed{7}." if name == "aggregate" and number in (2, 5) else None

        assert Model(respond).play(loops=1).text == "So \\boxed{7}."

    def test_one_that_fails_costs_nothing_but_itself(self) -> None:
        model = Model(lambda name, *_: NEVER if name == "improve" else None)
        assert " of aggregate: " in model.play().text
        assert len(model.calls("improve")) == 3


class TestFaults:
    @pytest.mark.parametrize("fault", [NEVER, completion(None), ""])
    def test_what_failed_is_drawn_again_once(self, fault: Any) -> None:
        model = Model(lambda name, number, _: fault if name == "sample" and number < 3 else None)
        model.play(loops=0, improvements=0)
        assert len(model.calls("sample")) == 8

    def test_prose_without_answers_is_verified_as_it_is(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "verify":
                return f"Overall assessment: {'CORRECT' if 'no. 2' in prompt(call) else 'Hm'}"
            return f"Roses of {name} are red, no. {number}, and so they will stay"

        assert Model(respond).play(loops=0).text.startswith("Roses of sample are red, no. 2,")

    def test_an_error_only_where_nothing_is_left(self) -> None:
        with pytest.raises(UpstreamError):
            Model(lambda *_: NEVER).play()


class TestAtTheSimulator:
    def test_the_clients_instructions_and_history_are_in_front_of_every_call(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50, aggregator_skill=0.0)
        messages = [
            {"role": "system", "content": "Sei höflich."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": QUESTION},
        ]
        assert proxy.post(json={"model": "mars-sim", "messages": messages}).status_code == 200
        assert {"solver", "aggregator", "verifier"} == {call.role for call in sim.log.records}
        for call in sim.log.records:
            sent = (call.body or {})["messages"]
            assert sent[:3] == messages[:3]
            assert sent[3]["content"].startswith(QUESTION)

    def test_a_conversation_that_is_too_long_for_half_of_the_calls(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(400, probability=0.5),))
        assert "391" in proxy.text("mars-sim")

    def test_a_deadline_returns_the_vote_so_far(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(
            probability=0.0,
            distractors=(1.0,) * 50,
            aggregator_skill=0.0,
            faults=(Fault("hang", role="verifier"),),
        )
        answer = proxy.ask("mars-sim", optillm_budget={"max_seconds": 2.0}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"

    @pytest.mark.parametrize("most", [12, 13, 30])
    def test_so_does_a_budget(self, proxy: InProcess, sim: SimulatorThread, most: int) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50, aggregator_skill=0.0)
        answer = proxy.ask("mars-sim", optillm_budget={"max_calls": most}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "max_calls"
        assert sim.log.choices <= most

    def test_it_hands_its_answer_on_and_takes_one(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        assert proxy.ask("mars&none-sim").json["optillm"]["calls"] == 13
        sim.reset()
        assert proxy.ask("none&mars-sim").json["optillm"]["calls"] == 13
        assert all("<draft>" in prompt(call) for call in sim.log.records[1:])

    def test_the_peers_names(self, proxy: InProcess, sim: SimulatorThread) -> None:
        assert proxy.ask("mars-sim", population_size=4).json["optillm"]["calls"] == 4


def test_an_ensembles_members_play_their_parts() -> None:
    model = Model()
    model.play(Member("a", "proposer"), Member("b", "proposer"), Member("c", "judge"))
    for step, models in {
        "sample": {"a", "b"}, "aggregate": {"a", "b"}, "improve": {"a", "b"}, "verify": {"c"},
    }.items():  # fmt: skip
        assert {call.model for call in model.calls(step)} == models
