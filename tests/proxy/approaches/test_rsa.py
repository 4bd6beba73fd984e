"""Recursive self-aggregation: populations made of parts of the last one, until they agree."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from conftest import QUESTION, InProcess, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.settings import Limits
from proxy.upstream.port import Call

UNLIKE: Mapping[str, Any] = {
    "probability": 0.0,
    "distractors": (1.0,) * 200,
    "aggregator_skill": 0.0,
}


def shown(text: str) -> list[str]:
    """The candidates that a prompt shows; none where it belongs to the first population."""
    return re.findall(r"<candidate number=\"\d+\">\n(.*?)\n</candidate>", text, re.DOTALL)


def steps(sim: SimulatorThread, samples: int) -> list[list[tuple[list[str], str]]]:
    """Parents and answer of each call, population by population."""
    seen = [
        (shown((call.body or {})["messages"][-1]["content"]), str(call.content))
        for call in sim.log.records
    ]
    return [seen[start : start + samples] for start in range(0, len(seen), samples)]


def aggregated(
    said: Sequence[Any],
    aggregate: Callable[[list[str]], Any] = lambda parents: parents[0],
    members: Sequence[Member] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Driver:
    answers: Iterator[Any] = iter(said)

    def respond(call: Call) -> Any:
        parents = shown(str(call.body["messages"][-1]["content"]))
        return aggregate(parents) if parents else next(answers)

    async def run() -> Driver:
        driver = Driver(FakeUpstream(respond), *members, limits=limits)
        await driver.play("rsa", **{"samples": len(said), **options})
        assert driver.upstream.running == 0
        return driver

    return asyncio.run(run())


class TestAgreement:
    def test_ends_it_without_those_that_cannot_change_it(self) -> None:
        said = [*["So \\boxed{7}."] * 5, asyncio.Event().wait()]
        driver = aggregated(said)
        assert driver.text == "So \\boxed{7}."
        assert (len(driver.upstream.calls), driver.upstream.cancelled) == (6, 1)

    def test_does_not_elect_whom_others_may_still_outvote(self) -> None:
        """A low bar is no reason to take the first answer."""
        late = (asyncio.sleep(0.05, f"So \\boxed{{{answer}}}.") for answer in (8, 8, 8, 8))
        driver = aggregated(["So \\boxed{7}.", "So \\boxed{7}.", *late], agreement=0.3)
        assert driver.text == "So \\boxed{8}."
        assert len(driver.upstream.calls) == 6


class TestPopulations:
    def test_each_answer_is_made_of_k_different_ones_of_the_last(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE, tokens=600)
        answer = proxy.ask("rsa-sim", optillm_options={"samples": 5, "subset": 3, "steps": 4}).json
        populations = steps(sim, 5)
        assert (len(populations), answer["optillm"]["rounds"]) == (4, 4)
        assert all(parents == [] for parents, _ in populations[0])
        for before, population in pairwise(populations):
            there = {text for _, text in before}
            for parents, _ in population:
                assert len(set(parents)) == 3
                assert set(parents) <= there
            assert len({tuple(parents) for parents, _ in population}) > 1

    def test_the_same_parents_are_drawn_in_every_run(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE)
        runs = []
        for _ in range(2):
            sim.reset()
            proxy.ask("rsa-sim", seed=1, optillm_options={"samples": 3, "steps": 2, "subset": 2})
            runs.append(sorted(str(parents) for parents, _ in steps(sim, 3)[1]))
        assert runs[0] == runs[1]

    def test_no_two_samples_share_a_seed(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**UNLIKE)
        proxy.ask("rsa-sim", seed=100)
        seeds = [(call.body or {})["seed"] for call in sim.log.records]
        assert len(set(seeds)) == len(seeds) == 18

    def test_the_last_one_votes(self) -> None:
        """What the first population thought does not count any more."""
        driver = aggregated(
            ["\\boxed{1}", "\\boxed{1}", "\\boxed{2}"], lambda _: "\\boxed{3}", agreement=1.0
        )
        assert driver.text == "\\boxed{3}"


class TestStopping:
    def test_at_agreement(self) -> None:
        driver = aggregated(["\\boxed{4}"] * 4 + ["\\boxed{5}"])
        assert (len(driver.upstream.calls), driver.text) == (5, "\\boxed{4}")

    def test_below_it_the_population_is_made_anew(self) -> None:
        driver = aggregated(["\\boxed{4}"] * 3 + ["\\boxed{5}"] * 2, lambda _: "\\boxed{4}")
        assert len(driver.upstream.calls) == 10
        assert driver.run.ledger.rounds == 2

    def test_answers_in_any_language_agree(self) -> None:
        said = ["答案是 42。", "Die Antwort ist 42.", "La respuesta es 42."]
        assert len(aggregated(said).upstream.calls) == 3

    def test_identical_stories_cast_no_vote_but_one_is_the_answer(self) -> None:
        story = "Once upon a time there was a proxy. " * 5
        assert aggregated([story] * 3, lambda _: story, steps=2).text == story

    def test_a_program_is_an_answer(self) -> None:
        program = "```python\nprint(1)\n```"
        driver = aggregated([program] * 4 + ["```python\nprint(2 - 1)\n```"])
        assert (driver.text, len(driver.upstream.calls)) == (program, 5)


class TestFaults:
    def test_lost_samples_are_drawn_once_more(self) -> None:
        said = [UpstreamError("down"), completion(None), "\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]
        driver = aggregated(said, samples=3, subset=3, steps=2)
        drawn = shown(driver.upstream.calls[-1].body["messages"][-1]["content"])
        assert sorted(drawn) == ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]

    @pytest.mark.parametrize(
        "error", [UpstreamError("down"), UpstreamRejected("too long", status=400)]
    )
    def test_a_population_that_fails_leaves_the_last(self, error: Any) -> None:
        said = ["\\boxed{1}", "\\boxed{2} or so", "\\boxed{2}"]
        assert aggregated(said, lambda _: error).text == "\\boxed{2}"

    def test_where_nothing_remains_it_is_an_error(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(500),))
        assert proxy.ask("rsa-sim").status_code == 502

    def test_half_of_the_calls_refused_for_their_length(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE, faults=(Fault(400, probability=0.5),))
        for _ in range(5):
            assert "boxed" in proxy.text("rsa-sim")

    def test_truncated_ones_are_better_than_nothing(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("length"),))
        choice = proxy.ask("rsa-sim").json["choices"][0]
        assert choice["finish_reason"] == "length"


class TestTimeAndBudget:
    def test_the_best_population_that_was_paid_for(self) -> None:
        said = ["\\boxed{1}", "\\boxed{2} or so", "\\boxed{2}"]
        driver = aggregated(said, lambda _: "\\boxed{3}", limits=Limits(max_calls=3))
        assert (driver.text, driver.run.ledger.exhausted) == ("\\boxed{2}", "max_calls")

    def test_at_the_deadline_the_best_so_far(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**UNLIKE, faults=(Fault("hang", role="aggregator"),))
        answer = proxy.ask("rsa-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)

    def test_no_population_is_begun_that_there_is_no_time_for(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE, latency=3.0)
        optillm = proxy.ask("rsa-sim", optillm_budget={"max_seconds": 5.6}).json["optillm"]
        assert (optillm["calls"], optillm["exhausted"]) == (6, None)


@pytest.mark.parametrize("support", ["honoured", "ignored", "refused"])
def test_what_the_upstream_does_with_n(
    proxy: InProcess, sim: SimulatorThread, support: str
) -> None:
    sim.behave(n=support)
    answer = proxy.ask("rsa-sim", n=2).json
    assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 12)


def test_the_conversation_stays_in_front(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(**UNLIKE)
    system = {"role": "system", "content": "Be brief."}
    turn = {"role": "user", "content": QUESTION}
    proxy.post(json={"model": "rsa-sim", "messages": [system, turn]})
    for call in sim.log.records:
        sent = (call.body or {})["messages"]
        assert sent[0] == system
        assert sent[1]["content"].startswith(QUESTION)


def test_an_ensembles_proposers_take_turns() -> None:
    members = (Member("anna"), Member("bela"))
    driver = aggregated(["\\boxed{1}", "\\boxed{2}"], members=members, steps=2)
    assert driver.upstream.models_called == ["anna", "bela"] * 2


def test_inside_pipelines(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("none&rsa-sim").json["optillm"]["calls"] == 7
    assert len(proxy.ask("rsa|none-sim").json["choices"]) == 2
