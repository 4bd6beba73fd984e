"""rStar: typed steps, answers that agree, and a second model that completes what it is shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conftest import InProcess
from driving import MESSAGES, Driver, FakeUpstream

from optictl.simulator import SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.registry import discover
from proxy.search.reasoning import LEGAL, Action
from proxy.upstream.port import Call

STEP = re.compile(r'<step kind="(.*?)">\n(.*?)\n</step>', re.DOTALL)
#: What tells the actions' prompts apart.
ASKED = {
    "Write the next step only": Action.THINK,
    "Break the message above into smaller questions": Action.SUBQUESTION,
    "The last sub-question may have been": Action.REANSWER,
    "Say in other words": Action.REPHRASE,
    "Go on from there, check": Action.ANSWER,
}


def prompt(call: Call) -> str:
    return str(call.body["messages"][-1]["content"])


def is_check(call: Call) -> bool:
    return "<beginning>" in prompt(call)


def action_of(call: Call) -> Action:
    """What a step's call asks for; the bare conversation asks for an answer."""
    found = [action for words, action in ASKED.items() if words in prompt(call)]
    return found[0] if found else Action.ANSWER


class Search:
    """One run; steps say their action, answers and completions what they are given to say."""

    def __init__(
        self, answer: Callable[[int, Call], Any], complete: Callable[[Call], Any], *members: Member
    ) -> None:
        self._answer = answer
        self._complete = complete
        self._members = members
        self._answers = 0
        self.steps: list[Call] = []
        self.checks: list[Call] = []
        self.text = ""
        self.calls = self.rounds = 0

    def respond(self, call: Call) -> Any:
        if is_check(call):
            self.checks.append(call)
            return self._complete(call)
        if "Best candidate" in prompt(call):
            return "Best candidate: 1"
        self.steps.append(call)
        action = action_of(call)
        if action is not Action.ANSWER:
            return f"Action {action}.\nIt goes on."
        self._answers += 1
        return self._answer(self._answers - 1, call)

    async def play(self, **options: Any) -> None:
        driver = Driver(FakeUpstream(self.respond), *self._members, params={"seed": 1, "stop": "§"})
        await driver.play("rstar", **options)
        self.text = driver.text
        self.calls, self.rounds = driver.run.ledger.choices, driver.run.ledger.rounds


def searched(
    answers: Sequence[Any] | Callable[[int, Call], Any],
    complete: Callable[[Call], Any] = lambda _: "\\boxed{1}",
    *members: Member,
    **options: Any,
) -> Search:
    says = answers if callable(answers) else lambda nth, _: answers[nth % len(answers)]
    search = Search(says, complete, *members)
    asyncio.run(search.play(**options))
    return search


class TestTrajectories:
    @pytest.mark.parametrize("depth", [1, 2, 3, 6])
    def test_every_step_is_legal_behind_those_it_is_shown(self, depth: int) -> None:
        search = searched(["\\boxed{1}", "\\boxed{2}"], num_rollouts=24, max_depth=depth)
        for call in search.steps:
            before = [Action(text[7:9]) for _, text in STEP.findall(prompt(call))]
            assert len(before) < depth
            path = [*before, action_of(call)]
            for last, following in zip([None, *path], path, strict=False):
                assert following in LEGAL[last]
        assert sum(action_of(call) is Action.ANSWER for call in search.steps) == 24

    def test_all_five_actions_are_taken(self) -> None:
        search = searched(["\\boxed{1}"], num_rollouts=32, max_depth=5)
        assert {action_of(call) for call in search.steps} == set(Action)

    @pytest.mark.parametrize("options", [{}, {"num_rollouts": 1}, {"num_rollouts": 20}])
    @pytest.mark.parametrize("answers", [["\\boxed{1}"], [f"\\boxed{{{n}}}" for n in range(20)]])
    def test_it_costs_no_more_than_it_declares(
        self, answers: Sequence[str], options: dict[str, int]
    ) -> None:
        search = searched(answers, **options)
        shape = discover()["rstar"].shape(options)
        assert shape.least_calls <= search.calls <= shape.most_calls
        assert shape.least_rounds <= search.rounds <= shape.most_rounds

    def test_at_defaults_within_five_rounds_at_the_upstream(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=0.2)
        optillm = proxy.ask("rstar-sim").json["optillm"]
        assert optillm["rounds"] == sim.log.rounds <= 5
        assert sim.log.peak >= 5

    def test_an_answer_at_once_is_asked_for_as_the_client_did(self) -> None:
        search = searched(["\\boxed{1}"])
        direct = [call for call in search.steps if call.body["messages"] == list(MESSAGES)]
        assert direct
        assert all(action_of(call) is Action.ANSWER for call in direct)

    def test_answers_take_the_clients_shape_and_steps_do_not(self) -> None:
        search = searched(["\\boxed{1}"])
        for call in search.steps:
            assert ("stop" in call.body) == (action_of(call) is Action.ANSWER)
            assert "seed" in call.body


class TestWhichAnswer:
    def test_the_one_that_most_trajectories_came_to(self) -> None:
        answers = [f"\\boxed{{{n}}}" for n in (7, 8, 8, 9, 8)]
        assert searched(answers, lambda _: "I do not know.").text == "\\boxed{8}"

    def test_unless_another_survives_and_it_does_not(self) -> None:
        """8 has three votes of five, but only 7 is what the second model comes to."""
        answers = [f"\\boxed{{{n}}}" for n in (7, 8, 8, 7, 8)]
        assert searched(answers, lambda _: "\\boxed{7}").text == "\\boxed{7}"

    def test_a_class_is_the_answer_and_not_its_spelling(self) -> None:
        answers = [
            "= 0.5",
            "\\boxed{\\frac{1}{2}}",
            "The answer is 1/2.",
            "\\boxed{3}",
            "\\boxed{3}",
        ]
        assert searched(answers, lambda _: "Hm.").text in answers[:3]

    @pytest.mark.parametrize(
        "answers",
        [
            ["答案是 伦敦。", "答案是 巴黎。", "答案是 巴黎。"],
            ["The answer is 2.5.", "The answer is -2.5.", "The answer is -2.5."],
            ["The answer is (C).", "The answer is (B).", "The answer is (B)."],
            ["```python\nx = 2\n```", "```python\nx = 1\n```", "Code:\n```python\nx = 1\n```"],
            ['{"answer": "y"}', '{"answer": "x"}', '{"answer": "x"}'],
        ],
    )
    def test_any_kind_of_answer(self, answers: list[str]) -> None:
        said = searched(answers, lambda _: "?!", num_rollouts=3, max_depth=1).text
        assert said in answers[1:]

    def test_prose_that_no_answer_is_found_in_is_selected_from(self) -> None:
        prose = "It depends, as so often, on what is meant by it; and that nobody ever said. " * 3
        search = searched([prose])
        assert search.text == prose
        assert not search.checks

    def test_a_truncated_answer_has_no_vote(self) -> None:
        def answer(nth: int, call: Call) -> Any:
            if nth == 4:
                return "\\boxed{2}"
            message = {"role": "assistant", "content": "\\boxed{1}"}
            return {"model": "m", "choices": [{"message": message, "finish_reason": "length"}]}

        search = searched(answer, lambda _: "\\boxed{1}")
        assert search.text == "\\boxed{2}"
        assert len(search.checks) == 1


class TestDiscriminator:
    def test_it_is_another_model_where_there_is_one(self) -> None:
        authors: list[str] = []

        def answer(nth: int, call: Call) -> str:
            authors.append(call.model)
            return f"By {call.model}.\nAnswer it.\n\\boxed{{{nth}}}"

        search = searched(answer, lambda _: "\\boxed{1}", Member("anna"), Member("bela"))
        assert {"anna", "bela"} == set(authors)
        assert len(search.checks) == 5
        for call in search.checks:
            beginning = prompt(call).partition("<beginning>")[2]
            if "By " in beginning:
                assert f"By {call.model}." not in beginning

    def test_or_the_judge_of_the_ensemble(self) -> None:
        team = (Member("anna", "proposer"), Member("dora", "judge"))
        search = searched(["\\boxed{1}"], lambda _: "\\boxed{1}", *team)
        assert {call.model for call in search.checks} == {"dora"}
        assert {call.model for call in search.steps} == {"anna"}

    def test_it_sees_a_beginning_and_never_the_last_line(self) -> None:
        long = "\n".join(f"line {n}" for n in range(20))
        search = searched(lambda nth, _: f"{long}\nend {nth}: \\boxed{{{nth}}}")
        shown = [prompt(call).partition("<beginning>")[2] for call in search.checks]
        assert len(shown) == 5
        assert not any("boxed" in text for text in shown)
        assert any("line 2" in text for text in shown)

    @pytest.mark.parametrize("failure", [UpstreamError("down"), "", "No idea at all."])
    def test_where_it_fails_the_votes_decide(self, failure: Any) -> None:
        answers = [f"\\boxed{{{n}}}" for n in (7, 8, 8, 9, 8)]
        assert searched(answers, lambda _: failure).text == "\\boxed{8}"

    def test_it_begins_as_soon_as_a_trajectory_has_ended(self) -> None:
        async def run() -> None:
            checked, others = asyncio.Event(), asyncio.Event()

            async def respond(call: Call) -> str:
                if is_check(call):
                    checked.set()
                elif "message above" in prompt(call):
                    await others.wait()
                return "\\boxed{1}"

            driver = Driver(FakeUpstream(respond))
            playing = asyncio.create_task(driver.play("rstar"))
            async with asyncio.timeout(30):
                await checked.wait()
                others.set()
                await playing

        asyncio.run(run())


class TestFaults:
    def test_a_trajectory_that_fails_is_left_out(self) -> None:
        def answer(nth: int, call: Call) -> Any:
            return UpstreamError("down") if nth < 2 else "\\boxed{5}"

        assert searched(answer).text == "\\boxed{5}"

    def test_a_step_that_fails_once_is_asked_for_again(self) -> None:
        seen: list[Call] = []

        def respond(call: Call) -> Any:
            seen.append(call)
            return UpstreamError("down") if len(seen) == 1 else "\\boxed{1}"

        async def run() -> None:
            await Driver(FakeUpstream(respond)).play("rstar", num_rollouts=1, max_depth=1)

        asyncio.run(run())
        assert [prompt(call) for call in seen[:2]] == [MESSAGES[0]["content"]] * 2


def test_the_peers_names_for_its_options(proxy: InProcess, sim: SimulatorThread) -> None:
    options = {"rstar_max_depth": 1, "rstar_num_rollouts": 2, "rstar_c": 0.5}
    assert proxy.ask("rstar-sim", optillm_options=options).json["optillm"]["calls"] == 4
