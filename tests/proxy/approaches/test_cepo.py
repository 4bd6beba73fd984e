"""CePO: chains of plan and execution, spares for those that fail or lag, and every option used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import QUESTION, InProcess
from driving import Driver, FakeUpstream, Live, completion

from optictl.simulator import Call, Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.registry import discover
from proxy.upstream import port

ONE = {"bestofn_n": 1}


def prompt(call: Call | port.Call) -> str:
    """The last user turn of a call."""
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def stage(call: Call | port.Call) -> str:
    """Which step of the pipeline a call belongs to."""
    text = prompt(call)
    marks = {
        "Name ": "ways",
        "Plan how": "plan",
        "<plan>": "execute",
        "were worked out": "review",
        "has been worked out": "answer",
        "Rate this": "rate",
        "are compared": "compare",
    }
    return next((name for mark, name in marks.items() if mark in text), "direct")


def stages(calls: Any) -> list[str]:
    return [stage(call) for call in calls]


class Model:
    """An upstream that says ``step i`` at each step, unless ``respond`` says something else."""

    def __init__(self, respond: Callable[[str, int, port.Call], Any] | None = None) -> None:
        self.seen: dict[str, int] = {}
        self._respond = respond
        self.upstream = FakeUpstream(self._say)

    def _say(self, call: port.Call) -> Any:
        name = stage(call)
        number = self.seen[name] = self.seen.get(name, 0) + 1
        said = self._respond(name, number, call) if self._respond else None
        if said is None:
            said = {"rate": "Score: 5", "compare": "Best candidate: 1"}.get(
                name, f"{name} {number}."
            )
        return said

    def play(
        self,
        *members: Member,
        params: Any = None,
        seconds: float = 30.0,
        outlet: Live | None = None,
        **options: Any,
    ) -> Driver:
        async def run() -> Driver:
            driver = Driver(self.upstream, *members, params=params, seconds=seconds, outlet=outlet)
            await driver.play("cepo", **options)
            assert self.upstream.running == 0
            return driver

        return asyncio.run(run())

    def calls(self, name: str) -> list[port.Call]:
        return [call for call in self.upstream.calls if stage(call) == name]


def without_plans(name: str, number: int, call: port.Call) -> Any:
    return UpstreamError("down") if name == "plan" else None


def without_ratings(name: str, number: int, call: port.Call) -> Any:
    return UpstreamError("down") if name == "rate" else None


#: Each option with another value than its default, and what has to happen for it to matter.
CHANGED: dict[str, tuple[Any, Any]] = {
    "bestofn_n": (2, None),
    "bestofn_temperature": (0.4, None),
    "bestofn_max_tokens": (77, None),
    "bestofn_rating_type": ("pairwise", None),
    "planning_n": (2, None),
    "planning_m": (4, without_plans),
    "planning_temperature_step1": (0.9, None),
    "planning_temperature_step2": (0.9, None),
    "planning_temperature_direct_resp": (0.9, without_plans),
    "planning_temperature_step3": (0.9, None),
    "planning_temperature_step4": (0.9, None),
    "planning_max_tokens_step1": (77, None),
    "planning_max_tokens_step2": (77, None),
    "planning_max_tokens_direct_resp": (77, without_plans),
    "planning_max_tokens_step3": (77, None),
    "planning_max_tokens_step4": (77, None),
    "use_plan_diversity": (True, None),
    "use_reasoning_fallback": (True, None),
    "num_of_retries": (1, without_ratings),
    "rating_model": ("another", None),
}


class TestEveryOption:
    def test_they_are_the_peers_under_its_names_too(self) -> None:
        entry = discover()["cepo"]
        # What every stage said is for people: it changes no call.
        assert entry.options.keys() == CHANGED.keys() | {"print_output"}
        for name in entry.options:
            assert entry.option(f"cepo_{name}") is entry.options[name]

    @pytest.mark.parametrize("name", CHANGED)
    def test_it_changes_a_call(self, name: str) -> None:
        value, respond = CHANGED[name]

        def sent(**options: Any) -> list[str]:
            model = Model(respond)
            model.play(params={"temperature": 0.7}, **options)
            return sorted(f"{call.model} {call.body}" for call in model.upstream.calls)

        assert sent() == sent()
        assert sent(**{name: value}) != sent()

    @pytest.mark.parametrize(
        ("step", "option"),
        [
            ("plan", "step1"),
            ("execute", "step2"),
            ("review", "step3"),
            ("answer", "step4"),
            ("direct", "direct_resp"),
        ],
    )
    def test_a_steps_limits_are_those_of_its_calls_and_of_no_others(
        self, step: str, option: str
    ) -> None:
        model = Model(without_plans if step == "direct" else None)
        limits = {f"planning_temperature_{option}": 1.5, f"planning_max_tokens_{option}": 123}
        model.play(**ONE, **limits)
        for call in model.upstream.calls:
            of_it = (call.body["temperature"], call.body["max_tokens"]) == (1.5, 123)
            assert of_it == (stage(call) == step)

    def test_what_every_stage_said_is_told(self) -> None:
        quiet, loud = Live(), Live()
        Model().play(**ONE, outlet=quiet)
        Model().play(**ONE, outlet=loud, print_output=True)
        assert quiet.notes == []
        assert "plan: plan 1." in loud.notes
        assert "answer: answer 1." in loud.notes


class TestChains:
    def test_each_plan_is_carried_out_by_its_own_call(self) -> None:
        model = Model()
        model.play(**ONE)
        assert stages(model.upstream.calls).count("plan") == 3
        shown = [prompt(call) for call in model.calls("execute")]
        assert all(sum(f"plan {i}." in text for text in shown) == 1 for i in (1, 2, 3))

    def test_an_execution_begins_as_soon_as_its_plan_is_there(self) -> None:
        executed = asyncio.Event()

        async def slowly() -> str:
            await executed.wait()
            return "a late plan."

        def respond(name: str, number: int, call: port.Call) -> Any:
            if name == "plan" and number == 3:
                return slowly()
            if name == "execute" and number == 2:
                executed.set()
            return None

        assert Model(respond).play(**ONE).run.ledger.rounds == 4

    def test_no_spare_is_started_where_nothing_fails(self) -> None:
        model = Model()
        driver = model.play(planning_m=64)
        assert len(model.upstream.calls) == 27
        assert driver.run.ledger.rounds == 5

    @pytest.mark.parametrize("fault", [UpstreamError("down"), completion(None), ""])
    @pytest.mark.parametrize("step", ["plan", "execute"])
    def test_a_chain_that_fails_is_replaced_at_once(self, step: str, fault: Any) -> None:
        model = Model(lambda name, number, _: fault if (name, number) == (step, 1) else None)
        model.play(**ONE)
        assert len(model.calls("plan")) == 4
        assert prompt(model.calls("review")[0]).count("<candidate") == 3

    def test_so_is_one_that_is_cut_short(self) -> None:
        cut = {**completion("half a pl"), "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "half a pl"},
             "finish_reason": "length"}
        ]}  # fmt: skip
        model = Model(lambda name, number, _: cut if (name, number) == ("plan", 2) else None)
        model.play(**ONE)
        assert len(model.calls("plan")) == 4
        assert not any("half a pl" in prompt(call) for call in model.upstream.calls)

    def test_a_straggler_gets_a_rival_and_the_first_counts(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            return asyncio.sleep(60, "never") if (name, number) == ("plan", 3) else None

        model = Model(respond)
        model.play(**ONE)
        assert len(model.calls("plan")) == 4
        assert model.upstream.cancelled == 1
        assert prompt(model.calls("review")[0]).count("<candidate") == 3

    def test_no_more_are_tried_than_permitted(self) -> None:
        model = Model(without_plans)
        model.play(**ONE, planning_m=5)
        assert len(model.calls("plan")) == 5
        assert len(model.calls("direct")) == 1

    def test_one_execution_is_enough(self) -> None:
        model = Model(
            lambda name, number, _: UpstreamError("down") if name == "plan" and number > 1 else None
        )
        assert model.play(**ONE).text == "answer 1."
        assert prompt(model.calls("review")[0]).count("<candidate") == 1


class TestAnswer:
    def test_it_is_written_from_the_review(self) -> None:
        model = Model()
        assert model.play(**ONE).text == "answer 1."
        (answer,) = model.calls("answer")
        assert "review 1." in prompt(answer)
        assert "execute" not in prompt(answer)

    def test_from_the_executions_where_nobody_reviews_them(self) -> None:
        model = Model(lambda name, *_: UpstreamError("down") if name == "review" else None)
        assert model.play(**ONE).text == "answer 1."
        assert prompt(model.calls("answer")[0]).count("<candidate") == 3

    def test_an_execution_is_the_answer_where_no_answer_is_written(self) -> None:
        model = Model(lambda name, *_: UpstreamError("down") if name == "answer" else None)
        assert model.play().text.startswith("execute ")

    def test_directly_where_no_plan_succeeds(self) -> None:
        model = Model(without_plans)
        assert model.play(**ONE).text == "direct 1."
        (direct,) = model.calls("direct")
        assert direct.body["messages"] == [{"role": "user", "content": QUESTION}]

    @pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
    def test_its_shape_is_the_clients_and_nobody_elses(self, limit: str) -> None:
        model = Model()
        model.play(params={limit: 50, "stop": ["x"]}, **ONE)
        for call in model.upstream.calls:
            answers = stage(call) == "answer"
            assert (call.body.get(limit) == 50) == answers
            assert ("stop" in call.body) == answers

    def test_an_error_only_where_nothing_is_left(self) -> None:
        with pytest.raises(UpstreamError):
            Model(lambda *_: UpstreamError("down")).play()


class TestRating:
    def test_the_one_rated_best(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            return f"Score: {9 if 'answer 2.' in prompt(call) else 3}" if name == "rate" else None

        assert Model(respond).play().text == "answer 2."

    @pytest.mark.parametrize("said", ["Score: NaN", "Score: 70", "Fine.", UpstreamError("down")])
    def test_a_judge_that_says_nothing_useful_costs_no_answer(self, said: Any) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            return said if name == "rate" else None

        assert Model(respond).play().text == "answer 1."

    def test_pairs_in_both_orders(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name != "compare":
                return None
            text = prompt(call)
            first = text.index("answer 3.") < text.index("</candidate>") if (
                "answer 3." in text
            ) else True  # fmt: skip
            return f"Best candidate: {1 if first else 2}"

        model = Model(respond)
        driver = model.play(bestofn_rating_type="pairwise")
        assert driver.text == "answer 3."
        compared = model.calls("compare")
        assert len({prompt(call) for call in compared}) == 6
        assert driver.run.ledger.rounds == 5

    def test_a_judge_of_pairs_that_prefers_places_decides_nothing(self) -> None:
        assert Model().play(bestofn_rating_type="pairwise").text == "answer 1."

    def test_the_majority_by_the_answer_that_they_end_in(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            value = ["7", "42", "42"][number - 1] if name == "answer" else ""
            return f"So \\boxed{{{value}}}." if value else None

        model = Model(respond)
        driver = model.play(bestofn_rating_type="majority")
        assert driver.text == "So \\boxed{42}."
        assert len(model.upstream.calls) == 24

    def test_a_majority_waits_for_no_answer_that_cannot_change_it(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            if name != "answer":
                return None
            return "So \\boxed{42}." if number < 3 else asyncio.sleep(60, "So \\boxed{7}.")

        model = Model(respond)
        driver = model.play(bestofn_rating_type="majority")
        assert driver.text == "So \\boxed{42}."
        assert model.upstream.cancelled == 1

    def test_of_two_answers_the_first_is_the_majority(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            late = name == "answer" and number == 2
            return asyncio.sleep(60, "So \\boxed{7}.") if late else None

        options = {"bestofn_n": 2, "bestofn_rating_type": "majority"}
        model = Model(respond)
        driver = model.play(**options)
        assert driver.text == "answer 1."
        assert model.upstream.cancelled == 1
        shape = discover()["cepo"].shape(options)
        assert (shape.least_calls, shape.most_calls) == (8, len(model.upstream.calls))

    def test_by_another_model(self) -> None:
        model = Model()
        model.play(rating_model="other")
        assert {call.model for call in model.calls("rate")} == {"other"}
        assert {call.model for call in model.upstream.calls} == {"base", "other"}


class TestPersistence:
    def test_less_effort_where_more_gets_nowhere(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            high = call.body["reasoning_effort"] == "high"
            return UpstreamRejected("no", status=400) if high and name == "plan" else None

        model = Model(respond)
        model.play(**ONE, use_reasoning_fallback=True)
        efforts = [call.body["reasoning_effort"] for call in model.calls("plan")]
        assert sorted(efforts) == ["high"] * 3 + ["medium"] * 3
        assert all(c.body["reasoning_effort"] == "high" for c in model.calls("execute"))

    def test_no_effort_is_asked_for_unless_told_to(self) -> None:
        model = Model()
        model.play()
        assert not any("reasoning_effort" in call.body for call in model.upstream.calls)

    def test_a_call_is_made_again_as_often_as_told(self) -> None:
        def respond(name: str, number: int, call: port.Call) -> Any:
            return UpstreamError("down") if name == "review" and number < 3 else None

        model = Model(respond)
        model.play(**ONE, num_of_retries=2)
        assert len(model.calls("review")) == 3
        assert "review 3." in prompt(model.calls("answer")[0])


def test_different_ways_are_named_first_and_each_plan_goes_one() -> None:
    model = Model()
    driver = model.play(**ONE, use_plan_diversity=True)
    plans = [prompt(call) for call in model.calls("plan")]
    assert all("ways 1." in text for text in plans)
    assert sorted(text.partition("Go way ")[2][0] for text in plans) == ["1", "2", "3"]
    assert driver.run.ledger.rounds == 5


class TestAtTheSimulator:
    @pytest.mark.parametrize("language", ["Sei höflich.", "Réponds en vers."])
    def test_the_clients_instructions_and_history_are_in_front_of_every_call(
        self, proxy: InProcess, sim: SimulatorThread, language: str
    ) -> None:
        messages = [
            {"role": "system", "content": language},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": QUESTION},
        ]
        assert proxy.post(json={"model": "cepo-sim", "messages": messages}).status_code == 200
        for call in sim.log.records:
            sent = (call.body or {})["messages"]
            assert sent[:3] == messages[:3]
            assert sent[3]["content"].startswith(QUESTION)

    def test_a_conversation_that_is_too_long_for_half_of_the_calls(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(400, probability=0.5),))
        response = proxy.ask("cepo-sim")
        assert response.status_code == 200
        assert "391" in response.json["choices"][0]["message"]["content"]

    def test_a_deadline_returns_the_best_so_far(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("hang", role="judge"),))
        answer = proxy.ask("cepo-sim", optillm_budget={"max_seconds": 2.0}).json
        assert "391" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"

    def test_a_budget_below_its_calls_is_refused_and_told(self, proxy: InProcess) -> None:
        response = proxy.ask("cepo-sim", optillm_budget={"max_calls": 2})
        assert response.json["error"]["code"] == "budget_too_small"

    def test_it_hands_its_answer_on_and_takes_one(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        assert proxy.ask("cepo&none-sim", optillm_options=ONE).json["optillm"]["calls"] == 9
        sim.reset()
        assert proxy.ask("none&cepo-sim", optillm_options=ONE).json["optillm"]["calls"] == 9
        assert all("<draft>" in prompt(call) for call in sim.log.records[1:])

    def test_the_rating_goes_by_what_is_right(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(probability=0.5, judge_separation=10.0, aggregator_skill=1.0)
        right = sum("boxed{391}" in proxy.text("cepo-sim") for _ in range(20))
        assert right >= 17


def test_an_ensembles_members_play_their_parts() -> None:
    model = Model()
    model.play(
        Member("a", "proposer"),
        Member("b", "proposer"),
        Member("c", "critic"),
        Member("d", "aggregator"),
        Member("e", "judge"),
    )
    for step, models in {
        "plan": {"a", "b"}, "execute": {"a", "b"}, "review": {"c"}, "answer": {"d"}, "rate": {"e"},
    }.items():  # fmt: skip
        assert {call.model for call in model.calls(step)} == models
