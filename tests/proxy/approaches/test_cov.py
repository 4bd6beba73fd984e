"""Chain of verification: questions answered apart from the draft, and a revision that streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import QUESTION, InProcess
from driving import Driver, FakeUpstream, Live

from optictl.simulator import SimulatorThread
from proxy.approaches.cov import listed
from proxy.errors import UpstreamError
from proxy.registry import discover


def prompts(sim: SimulatorThread) -> list[str]:
    return [str((call.body or {})["messages"][-1]["content"]) for call in sim.log.records]


class TestStages:
    def test_draft_plan_checks_at_once_and_the_revision(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=0.2)
        optillm = proxy.ask("cov-sim").json["optillm"]
        shape = discover()["cov"].shape({})
        assert (optillm["calls"], optillm["rounds"]) == (shape.most_calls, shape.most_rounds)
        assert (sim.log.choices, sim.log.rounds, sim.log.peak) == (8, 4, 5)

    def test_the_checks_do_not_see_the_draft(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask("cov-sim")
        draft = str(sim.log.records[0].content)
        first, plan, *checks, revision = prompts(sim)
        assert first == QUESTION
        assert draft in plan
        assert draft in revision
        assert len({check for check in checks if draft not in check}) == 5
        for number in range(1, 6):
            assert sum(f"Does step {number} hold?" in check for check in checks) == 1

    def test_the_revision_sees_every_finding(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask("cov-sim")
        revision = prompts(sim)[-1]
        assert all(str(call.content) in revision for call in sim.log.records[2:7])
        places = [revision.index(f"Does step {number} hold?") for number in range(1, 6)]
        assert places == sorted(places)

    def test_no_more_questions_than_asked_for(self, proxy: InProcess) -> None:
        assert proxy.ask("cov-sim", optillm_options={"questions": 2}).json["optillm"]["calls"] == 5

    def test_the_revision_is_what_streams(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream(_respond), outlet=Live())
            await driver.play("cov")
            assert isinstance(driver.outlet, Live)
            assert driver.text == "The revision."
            assert len(driver.outlet.deltas) > 5

        asyncio.run(run())


class TestWhatIsMissing:
    def test_nothing_to_check(self) -> None:
        shape = discover()["cov"].shape({})
        said, calls = played(lambda call: "All of it is an opinion.")
        assert (said, calls) == ("All of it is an opinion.", shape.least_calls)

    @pytest.mark.parametrize("broken", ["List up to", "by itself, briefly"])
    def test_a_stage_that_fails_leaves_the_draft(self, broken: str) -> None:
        def respond(call: Any) -> Any:
            return UpstreamError("down") if broken in _prompt(call) else _respond(call)

        assert played(respond)[0] == "The draft."

    def test_a_check_that_fails_is_left_out(self) -> None:
        seen: list[str] = []

        def respond(call: Any) -> Any:
            seen.append(_prompt(call))
            down = "Who?" in _prompt(call) and "itself, briefly" in _prompt(call)
            return UpstreamError("down") if down else _respond(call)

        assert played(respond)[0] == "The revision."
        assert "Question: When?" in seen[-1]
        assert "Question: Who?" not in seen[-1]

    def test_a_revision_that_fails_leaves_the_draft(self) -> None:
        def respond(call: Any) -> Any:
            return UpstreamError("down") if "<finding>" in _prompt(call) else _respond(call)

        assert played(respond)[0] == "The draft."

    def test_calls_that_end_before_the_revision_leave_the_draft(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        answer = proxy.ask("cov-sim", optillm_budget={"max_calls": 7}).json
        assert answer["choices"][0]["message"]["content"] == sim.log.records[0].content
        assert answer["optillm"]["exhausted"] == "max_calls"


class TestListed:
    @pytest.mark.parametrize(
        "line",
        [
            "1. When was it?",
            "1) When was it?",
            "(1) When was it?",
            "- When was it?",
            "  * When was it?",
            "a) When was it?",
            "**1. When was it?**",
            "**When was it?**",
            "When was it?",
        ],
    )
    def test_however_it_is_listed(self, line: str) -> None:
        (question,) = listed(f"Questions:\n{line}\n")
        assert question == "When was it?"

    def test_in_other_scripts(self) -> None:
        assert listed("1. 他何时出生？\n2. متى ولد؟") == ["他何时出生？", "متى ولد؟"]

    def test_once_each_and_no_statements(self) -> None:
        assert listed("1. Who?\n2. Who?\nThat is all.\n3. 1.5 or 2?") == ["Who?", "1.5 or 2?"]

    def test_a_question_that_begins_with_a_letter_or_a_number_is_whole(self) -> None:
        assert listed("A cat?\n2 plus 2?\nU.S. or U.K.?") == [
            "A cat?",
            "2 plus 2?",
            "U.S. or U.K.?",
        ]


def _prompt(call: Any) -> str:
    return str(call.body["messages"][-1]["content"])


def _respond(call: Any) -> str:
    asked = _prompt(call)
    if "List up to" in asked:
        return "1. Who?\n2. When?"
    if "<finding>" in asked:
        return "The revision."
    return "A finding." if "itself, briefly" in asked else "The draft."


def played(respond: Any) -> tuple[str, int]:
    async def run() -> tuple[str, int]:
        driver = Driver(FakeUpstream(respond))
        await driver.play("cov")
        return driver.text, driver.run.ledger.choices

    return asyncio.run(run())
