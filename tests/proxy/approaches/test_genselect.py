"""Generative selection: nothing to judge where all agree, else shuffled judges side by side."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from conftest import QUESTION, InProcess, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.registry import discover
from proxy.settings import Limits
from proxy.upstream.port import Call

Judge = Callable[[Sequence[str]], Any]


def shown(call: Call) -> list[str]:
    """The candidates that a call shows, in its order; none where it asks for one."""
    text = str(call.body["messages"][-1]["content"])
    return re.findall(r"<candidate number=\"\d+\">\n(.*?)\n</candidate>", text, re.DOTALL)


def prefers(wanted: str) -> Judge:
    """A judge that names the candidate with these words wherever it stands."""

    def judge(candidates: Sequence[str]) -> str:
        found = [n for n, text in enumerate(candidates, 1) if wanted in text]
        return f"That one. Best candidate: {found[0] if found else 1}"

    return judge


def cut(text: str) -> Any:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return completion(text, choices=[choice])


def selecting(
    said: Sequence[Any],
    judge: Judge = lambda _: "Best candidate: 1",
    members: Sequence[Member] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Driver:
    """The driver behind a run over these samples, in this order, and a judge."""
    answers: Iterator[Any] = iter(said)

    def respond(call: Call) -> Any:
        candidates = shown(call)
        return judge(candidates) if candidates else next(answers)

    async def run() -> Driver:
        driver = Driver(FakeUpstream(respond), *members, limits=limits)
        await driver.play("genselect", **{"samples": len(said), **options})
        assert driver.upstream.running == 0
        return driver

    return asyncio.run(run())


def judged(driver: Driver) -> list[list[str]]:
    return [candidates for call in driver.upstream.calls if (candidates := shown(call))]


class TestAgreement:
    @pytest.mark.parametrize(
        "said",
        [
            ["It is \\boxed{42}."] * 4,
            ["\\boxed{42}", "The answer is 42.0", "So: **42**", '{"answer": 42}'],
            ["答案是 42。", "Die Antwort ist 42.", "La respuesta es 42.", "The answer is 42."],
            ["Once upon a time there was a proxy. " * 5] * 3,
            ["```python\nprint(1)\n```"] * 3,
        ],
    )
    def test_needs_no_judge(self, said: list[str]) -> None:
        driver = selecting(said)
        assert driver.text in said
        assert not judged(driver)
        assert driver.run.ledger.rounds == 1

    def test_programs_do_not_agree_because_of_a_number_in_them(self) -> None:
        said = [f"Here it is:\n```python\n{body}\nexit(2)\n```" for body in ("a()", "b()", "c()")]
        driver = selecting(said, prefers("b()"))
        assert "b()" in driver.text

    def test_stories_do_not_agree(self) -> None:
        said = [f"Once upon a time there was {who}. " * 5 for who in ("a fox", "an owl")]
        assert "owl" in selecting(said, prefers("owl")).text

    def test_of_one_survivor_is_an_answer(self) -> None:
        driver = selecting(["\\boxed{1}", *[UpstreamError("down")] * 3], samples=2)
        assert (driver.text, judged(driver)) == ("\\boxed{1}", [])


class TestSelection:
    def test_the_judges_candidate_is_the_answer_against_the_majority(self) -> None:
        said = ["\\boxed{1}", "\\boxed{1}", "\\boxed{2} it is", "\\boxed{1}"]
        driver = selecting(said, prefers("it is"))
        assert driver.text == "\\boxed{2} it is"
        assert (len(driver.upstream.calls), driver.run.ledger.rounds) == (5, 2)

    def test_each_judge_sees_all_of_them_whole_in_another_order(self) -> None:
        said = [f"\\boxed{{{n}}} " + "because. " * 400 for n in range(4)]
        orders = judged(selecting(said, prefers("boxed{3}"), selections=3))
        assert all(sorted(order) == sorted(text.strip() for text in said) for order in orders)
        assert len({tuple(order) for order in orders}) == len(orders) > 1

    def test_a_judge_that_prefers_a_place_elects_nobody_by_that_alone(self) -> None:
        """Of two candidates each stands first for somebody."""
        orders = judged(selecting(["\\boxed{1}", "\\boxed{2}"], selections=2))
        assert orders[0] == orders[1][::-1]

    def test_what_a_candidate_thought_is_not_shown(self) -> None:
        driver = selecting(["<think>secret</think>\\boxed{1}", "\\boxed{2}"], prefers("{1}"))
        assert driver.text == "<think>secret</think>\\boxed{1}"
        assert not any("secret" in text for order in judged(driver) for text in order)

    @pytest.mark.parametrize(
        "verdict",
        [
            UpstreamError("down"),
            UpstreamRejected("too long", status=400),
            "",
            "No idea.",
            "Best candidate: 9",
        ],
    )
    def test_without_any_vote_the_largest_class_gives_the_answer(self, verdict: Any) -> None:
        said = ["\\boxed{1}", "so \\boxed{2}", "\\boxed{2}"]
        assert selecting(said, lambda _: verdict).text == "\\boxed{2}"

    def test_one_judge_that_can_be_read_is_enough(self) -> None:
        verdicts = iter([UpstreamError("down"), "Score: NaN", None])

        def judge(candidates: Sequence[str]) -> Any:
            return next(verdicts) or prefers("{1}")(candidates)

        said = ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]
        assert selecting(said, judge, selections=3).text == "\\boxed{1}"


class TestKnockout:
    def test_more_than_a_judge_can_compare_are_selected_from_in_groups(self) -> None:
        said = [f"\\boxed{{{n}}}" for n in range(40)]
        driver = selecting(said, prefers("{31}"), selections=1)
        assert driver.text == "\\boxed{31}"
        # Three groups, and their winners.
        assert sorted(len(order) for order in judged(driver)) == [3, 13, 13, 14]
        assert driver.run.ledger.rounds == 3

    @pytest.mark.parametrize(("samples", "rounds"), [(2, 2), (3, 3), (5, 4), (8, 4)])
    def test_a_tournament_is_played_in_pairs(self, samples: int, rounds: int) -> None:
        said = [f"\\boxed{{{n}}}" for n in range(samples)]
        last = f"{{{samples - 1}}}"
        driver = selecting(said, prefers(last), mode="tournament", selections=1)
        assert driver.text == said[-1]
        assert [len(order) for order in judged(driver)] == [2] * (samples - 1)
        assert driver.run.ledger.rounds == rounds

    def test_its_cost_is_declared(self) -> None:
        options = {"samples": 40, "selections": 2}
        shape = discover()["genselect"].shape(options)
        assert (shape.most_calls, shape.most_rounds) == (40 + 4 * 2, 3)


class TestLostSamples:
    def test_are_drawn_once_more(self) -> None:
        said = [UpstreamError("down"), completion(None), cut("\\boxed{9}"), "\\boxed{1}"]
        driver = selecting([*said, "\\boxed{2}", "\\boxed{2}", "\\boxed{3}"], samples=4)
        assert sorted(judged(driver)[0]) == ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}", "\\boxed{3}"]

    def test_once_and_no_more(self) -> None:
        said = [UpstreamError("down"), "\\boxed{1}", UpstreamError("down"), UpstreamError("never")]
        driver = selecting(said, samples=2)
        assert (driver.text, len(driver.upstream.calls)) == ("\\boxed{1}", 3)

    def test_a_truncated_one_is_better_than_nothing(self) -> None:
        assert selecting([cut("Once upon"), completion(None)]).text == "Once upon"

    def test_where_nothing_remains_it_is_an_error(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(500),))
        assert proxy.ask("genselect-sim").status_code == 502

    def test_half_of_the_calls_refused_for_their_length(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(probability=0.5, faults=(Fault(400, probability=0.5),))
        for _ in range(5):
            assert "boxed" in proxy.text("genselect-sim")


class TestTimeAndBudget:
    def test_the_least_budget_pays_for_the_samples(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(probability=0.5)
        answer = proxy.ask("genselect-sim", optillm_budget={"max_calls": 4}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert sim.log.choices == 4
        assert proxy.ask("genselect-sim", optillm_budget={"max_calls": 3}).status_code == 400

    def test_judges_that_cannot_be_paid_for_leave_it_to_the_largest_class(self) -> None:
        said = ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]
        driver = selecting(said, prefers("{1}"), limits=Limits(max_calls=3))
        assert (driver.text, driver.run.ledger.exhausted) == ("\\boxed{2}", "max_calls")

    def test_judges_that_there_is_no_time_for_are_not_asked(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=1.2, probability=0.0, distractors=(1.0,) * 50)
        optillm = proxy.ask("genselect-sim", optillm_budget={"max_seconds": 2.2}).json["optillm"]
        assert (optillm["calls"], optillm["exhausted"]) == (4, None)

    def test_at_the_deadline_the_best_so_far_is_the_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(
            probability=0.0, distractors=(1.0,) * 50, faults=(Fault("hang", role="selector"),)
        )
        answer = proxy.ask("genselect-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)


class TestOptions:
    def test_the_peers_names(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50)
        answer = proxy.ask(
            "genselect-sim",
            num_candidates=3,
            comparison_temperature=0.9,
            comparison_mode="tournament",
            include_reasoning=True,
        ).json
        said = answer["choices"][0]["message"]["content"]
        judges = [call for call in sim.log.records if call.role == "selector"]
        # The final and one match in front of it; the third has a bye.
        assert (len(judges), answer["optillm"]["calls"]) == (2, 3 + 2)
        assert {(call.body or {})["temperature"] for call in judges} == {0.9}
        assert "Best candidate:" in said.partition("\n\n---\n\n")[2]

    def test_a_json_answer_stays_json(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50)
        form = {"type": "json_object"}
        said = proxy.text("genselect-sim", include_reasoning=True, response_format=form)
        assert re.fullmatch(r'\{"answer":-?\d+\}', said)


@pytest.mark.parametrize("support", ["honoured", "ignored", "refused"])
def test_what_the_upstream_does_with_n(
    proxy: InProcess, sim: SimulatorThread, support: str
) -> None:
    sim.behave(n=support, probability=0.5)
    choices = proxy.ask("genselect-sim", n=2).json["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]


def test_the_conversation_stays_in_front(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.0, distractors=(1.0,) * 50)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": QUESTION},
    ]
    proxy.post(json={"model": "genselect-sim", "messages": messages})
    for call in sim.log.records:
        sent = (call.body or {})["messages"]
        assert sent[:3] == messages[:3]
        assert sent[3]["content"].startswith(QUESTION)


def test_an_ensemble_proposes_in_turn_and_its_judge_selects() -> None:
    members = (Member("anna"), Member("bela"), Member("dora", "judge"))
    driver = selecting(["\\boxed{1}", "\\boxed{2}"], prefers("{2}"), members=members)
    assert driver.upstream.models_called == ["anna", "bela", "dora"]
    assert driver.text == "\\boxed{2}"


def test_as_a_stage_it_reads_the_draft_in_front(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.5)
    assert "boxed" in proxy.text("none&genselect-sim")
    solvers = [call for call in sim.log.records if "<draft>" in str(call.body)]
    assert len(solvers) >= 4
    assert len(proxy.ask("genselect|none-sim").json["choices"]) == 2
