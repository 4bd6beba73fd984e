"""Monte Carlo tree search over answers: the ratings say where it goes and what it returns."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from conftest import InProcess
from driving import Driver, FakeUpstream

from optictl.simulator import SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.upstream.port import Call

CANDIDATE = re.compile(r"<candidate[^>]*>\n(.*?)\n</candidate>", re.DOTALL)


def prompt(call: Call) -> str:
    return str(call.body["messages"][-1]["content"])


def is_judge(call: Call) -> bool:
    return prompt(call).endswith("Score: [0-10]")


class Family:
    """Answers that are named for their descent: 0, 1, 2, then 0.0, 1.0, 1.0.0 for revisions."""

    def __init__(self, rate: Callable[[str], Any]) -> None:
        self._rate = rate
        self._births: Counter[str] = Counter()
        self.ratings: list[str] = []

    def respond(self, call: Call) -> Any:
        shown = CANDIDATE.findall(prompt(call))
        if is_judge(call):
            self.ratings.append(shown[0])
            return self._rate(shown[0])
        parent = f"{shown[0]}." if shown else ""
        self._births[parent] += 1
        return f"{parent}{self._births[parent] - 1}"

    @property
    def revised(self) -> list[str]:
        """The parents of all revisions, as often as they were revised."""
        return [parent[:-1] for parent in self._births.elements() if parent]

    @property
    def depth(self) -> int:
        return max(name.count(".") + 1 for name in self.ratings)


def search(rate: Callable[[str], Any], *members: Member, **options: Any) -> tuple[str, Family]:
    """The answer, and all that were written."""
    family = Family(rate)

    async def run() -> str:
        driver = Driver(FakeUpstream(family.respond), *members)
        await driver.play("mcts", **options)
        return driver.text

    return asyncio.run(run()), family


@pytest.mark.parametrize("simulations", [2, 8, 20])
@pytest.mark.parametrize("k", ["0", "1", "2"])
def test_a_judge_that_always_prefers_one_sample_gets_it(k: str, simulations: int) -> None:
    said, _ = search(lambda name: f"Score: {9 if name == k else 4}", simulations=simulations)
    assert said == k


@pytest.mark.parametrize("k", ["0", "1", "2"])
def test_its_descendants_are_what_is_revised(k: str) -> None:
    """At eight simulations most go where the scores are high, and at least two levels deep."""
    _, family = search(lambda name: f"Score: {9 if name[0] == k else 2}", simulations=8)
    assert len(family.revised) == 8
    assert sum(name[0] == k for name in family.revised) >= 6
    assert family.depth >= 3


def test_a_poor_revision_sends_it_back_to_the_same_parent_or_elsewhere() -> None:
    """Whatever sample 1 becomes is bad, so that the others get their turn."""

    def rate(name: str) -> str:
        return f"Score: {9 if name == '1' else 1 if name[0] == '1' else 7}"

    said, family = search(rate, simulations=8, parallel=1)
    assert said == "1"
    assert family.revised[0] == "1"
    assert sum(name[0] != "1" for name in family.revised) > 4


def test_a_revision_that_is_rated_best_is_the_answer() -> None:
    said, _ = search(lambda name: f"Score: {3 + 2 * name.count('.')}", simulations=8)
    assert said.count(".") >= 2


def test_simulations_at_once_revise_different_answers_of_like_worth() -> None:
    _, family = search(lambda _: "Score: 6", simulations=3, parallel=3)
    assert sorted(family.revised) == ["0", "1", "2"]


def test_exploration_is_how_evenly_they_spread() -> None:
    def spread(c: float) -> int:
        _, family = search(
            lambda name: f"Score: {8 if name[0] == '0' else 5}", simulations=16, exploration=c
        )
        return min(Counter(name[0] for name in [*family.ratings]).values())

    assert spread(0.0) == 1
    assert spread(3.0) > 2


def test_depth_is_how_often_a_simulation_revises() -> None:
    _, family = search(lambda _: "Score: 5", simulations=1, depth=3, samples=1)
    assert family.ratings == ["0", "0.0", "0.0.0", "0.0.0.0"]


def test_an_unrated_answer_is_last() -> None:
    said, _ = search(lambda name: UpstreamError("down") if name[0] != "2" else "Score: 0")
    assert said[0] == "2"


def test_a_failed_simulation_costs_only_itself() -> None:
    family = Family(lambda name: f"Score: {5 + name.count('.')}")

    def respond(call: Call) -> Any:
        if "<candidate" in prompt(call) and not is_judge(call) and "\n0\n" in prompt(call):
            return UpstreamError("down")
        return family.respond(call)

    async def run() -> str:
        driver = Driver(FakeUpstream(respond))
        await driver.play("mcts", simulations=8)
        return driver.text

    assert "." in asyncio.run(run())


def test_a_failed_sample_is_drawn_once_more() -> None:
    calls: list[Call] = []

    def respond(call: Call) -> Any:
        calls.append(call)
        return UpstreamError("down") if len(calls) == 1 else "Score: 5"

    async def run() -> None:
        await Driver(FakeUpstream(respond), params={"seed": 7}).play("mcts")

    asyncio.run(run())
    fresh = [call for call in calls if "<candidate" not in prompt(call)]
    assert len(fresh) == 4
    assert len({call.body["seed"] for call in fresh}) == 4


class TestPrompts:
    def test_a_revision_sees_the_answer_whole_and_what_the_judge_said(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=1500)
        proxy.ask("mcts-sim")
        texts = {
            role: [str(c.content) for c in sim.log.records if c.role == role]
            for role in ("solver", "judge")
        }
        revisions = [c for c in sim.log.records if c.role == "aggregator"]
        assert len(revisions) == 2
        for call in revisions:
            asked = (call.body or {})["messages"][-1]["content"]
            assert sum(text in asked for text in texts["solver"]) == 1
            assert sum(text in asked for text in texts["judge"]) == 1

    def test_the_judge_is_another_member_where_there_is_one(self) -> None:
        pairs: list[tuple[str, str]] = []

        def respond(call: Call) -> str:
            if is_judge(call):
                pairs.append((CANDIDATE.findall(prompt(call))[0], call.model))
                return "Score: 5"
            return call.model

        async def run() -> None:
            members = (Member("anna"), Member("bela"))
            await Driver(FakeUpstream(respond), *members).play("mcts", samples=4)

        asyncio.run(run())
        assert len(pairs) == 6
        assert all(author != judge for author, judge in pairs)


def test_each_is_rated_as_it_lands() -> None:
    async def run() -> None:
        slow, rated = asyncio.Event(), asyncio.Event()
        written = 0

        async def respond(call: Call) -> str:
            nonlocal written
            if is_judge(call):
                rated.set()
                return "Score: 5"
            written += 1
            if written > 1:
                await slow.wait()
            return f"answer {written}"

        driver = Driver(FakeUpstream(respond))
        playing = asyncio.create_task(driver.play("mcts"))
        async with asyncio.timeout(30):
            await rated.wait()
            slow.set()
            await playing
        assert driver.run.ledger.rounds == 4

    asyncio.run(run())


def test_the_peers_names_for_its_options(proxy: InProcess, sim: SimulatorThread) -> None:
    options = {"mcts_simulations": 1, "mcts_exploration": 0.5, "mcts_depth": 2}
    assert proxy.ask("mcts-sim", **options).json["optillm"]["calls"] == 10
    assert not options.keys() & (sim.log.records[0].body or {}).keys()
    assert proxy.ask("mcts-sim", mcts_depth=0).status_code == 400
