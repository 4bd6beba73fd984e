"""Self-refine: feedback and refinements until it is good, and the best of them returned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from driving import Driver, FakeUpstream, Live

from proxy.errors import UpstreamError
from proxy.registry import discover
from proxy.upstream.port import Call


class Played:
    """One run with scripted scores; answers are numbered by the order in which they came."""

    def __init__(
        self, scores: Sequence[Any], answers: Sequence[Any] | None = None, **options: Any
    ) -> None:
        self.prompts: list[str] = []
        self._scores = iter(scores)
        self._answers = iter(answers) if answers else (f"answer {i}." for i in range(99))
        asyncio.run(self._run(options))

    def _respond(self, call: Call) -> Any:
        asked = str(call.body["messages"][-1]["content"])
        if not asked.endswith("Score: [0-10]"):
            self.prompts.append(asked)
            return next(self._answers)
        score = next(self._scores)
        return f"Feedback {score}. Score: {score}" if isinstance(score, int | float) else score

    async def _run(self, options: dict[str, Any]) -> None:
        driver = Driver(FakeUpstream(self._respond), outlet=Live())
        await driver.play("self_refine", **options)
        self.text = driver.text
        self.calls = driver.run.ledger.choices
        self.rounds = driver.run.ledger.rounds


def test_it_ends_as_soon_as_the_feedback_says_good() -> None:
    played = Played([5, 9.5])
    assert (played.text, played.calls, played.rounds) == ("answer 1.", 4, 4)


def test_a_good_draft_is_the_answer() -> None:
    played = Played([10])
    shape = discover()["self_refine"].shape({})
    assert (played.text, played.calls) == ("answer 0.", shape.least_calls)
    assert played.rounds == shape.least_rounds


def test_it_ends_after_the_last_refinement() -> None:
    played = Played([1, 2, 3, 4])
    shape = discover()["self_refine"].shape({})
    assert (played.text, played.calls) == ("answer 3.", shape.most_calls)
    assert played.rounds == shape.most_rounds


def test_a_refinement_that_is_worse_is_not_returned() -> None:
    assert Played([4, 8, 2, 3]).text == "answer 1."


def test_every_refinement_sees_all_answers_and_all_feedback() -> None:
    draft, *refinements = Played([1, 2, 3, 4]).prompts
    assert "answer" not in draft
    for number, asked in enumerate(refinements):
        for earlier in range(number + 1):
            assert f"answer {earlier}." in asked
            assert f"Feedback {earlier + 1}." in asked


def test_what_good_is_can_be_said() -> None:
    assert Played([5], good=5).calls == 2
    assert Played([9.5, 9.5], good=10, iterations=1).calls == 4


def test_without_feedback_there_is_nothing_to_refine_by() -> None:
    assert Played([UpstreamError("down")]).text == "answer 0."
    assert Played([3, "Hm."]).text == "answer 0."


def test_an_answer_that_comes_back_unchanged_ends_it() -> None:
    assert Played([3, 3, 3, 3], ["same", "same"]).calls == 4


@pytest.mark.parametrize("failures", [2])
def test_a_refinement_that_fails_twice_leaves_the_best(failures: int) -> None:
    played = Played([3], ["draft", *[UpstreamError("down")] * failures])
    assert played.text == "draft"


def test_one_that_fails_once_is_tried_again() -> None:
    assert Played([3, 9], ["draft", UpstreamError("down"), "better"]).text == "better"
