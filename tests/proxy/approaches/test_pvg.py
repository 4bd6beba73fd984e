"""The prover-verifier game: deceivers set the bar, and never answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from conftest import QUESTION, InProcess
from driving import Driver, FakeUpstream

from optictl.simulator import Fault, SimulatorThread
from proxy.errors import UpstreamError
from proxy.registry import discover
from proxy.upstream.port import Call

REGISTRY = discover()
CANDIDATE = re.compile(r"<candidate[^>]*>\n(.*?)\n</candidate>", re.DOTALL)


class Game:
    """Helpful answers are "h0", "h1", …, sneaky ones "s0", …; revisions "r0", …."""

    def __init__(
        self, rate: Callable[[str], Any], say: Callable[[str], Any] = lambda name: name
    ) -> None:
        self._rate = rate
        self._say = say
        self.written: list[str] = []
        self.rated: list[str] = []
        self.text = ""
        self.calls = self.rounds = 0

    def respond(self, call: Call) -> Any:
        asked = str(call.body["messages"][-1]["content"])
        shown = CANDIDATE.findall(asked)
        if asked.endswith("Score: [0-10]"):
            self.rated.append(shown[0])
            return self._rate(shown[0])
        kind = "r" if shown else "s" if "deliberately wrong" in asked else "h"
        name = f"{kind}{sum(known[0] == kind for known in self.written)}"
        self.written.append(name)
        return self._say(name)

    async def play(self, **options: Any) -> Game:
        driver = Driver(FakeUpstream(self.respond), registry=REGISTRY)
        await driver.play("pvg", **options)
        ledger = driver.run.ledger
        self.text, self.calls, self.rounds = driver.text, ledger.choices, ledger.rounds
        return self


def played(rate: Callable[[str], Any], **options: Any) -> Game:
    return asyncio.run(Game(rate).play(**options))


def test_a_sneaky_answer_is_never_returned_in_a_thousand_runs() -> None:
    """Whatever the verifier thinks of it, and whoever fails."""

    async def run() -> None:
        for seed in range(1000):
            random = Random(seed)
            # Sneaky ones convince far more often than helpful ones.
            game = Game(
                lambda name: f"Score: {random.randint(6 if name[0] == 's' else 0, 10)}",  # noqa: B023
                lambda name: UpstreamError("down") if random.random() < 0.1 else name,  # noqa: B023
            )
            try:
                await game.play(samples=2)
            except UpstreamError:
                assert all(name[0] == "s" for name in game.rated)
            else:
                assert game.text[0] in "hr"

    asyncio.run(run())


def test_where_only_sneaky_ones_were_written_it_is_an_error() -> None:
    def say(name: str) -> Any:
        return name if name[0] == "s" else UpstreamError("down")

    with pytest.raises(UpstreamError):
        asyncio.run(Game(lambda _: "Score: 9", say).play())


def test_a_helpful_answer_above_the_bar_ends_it() -> None:
    scores = {"h0": 6, "h1": 8, "s1": 7}
    game = played(lambda name: f"Score: {scores.get(name, 2)}")
    assert (game.text, game.calls, game.rounds) == ("h1", 12, 2)


def test_below_it_the_helpful_ones_revise_and_only_they() -> None:
    scores = {"r1": 9, "s0": 8}
    game = played(lambda name: f"Score: {scores.get(name, 5)}")
    assert (game.text, game.calls, game.rounds) == ("r1", 18, 4)
    assert [name[0] for name in game.written].count("s") == 3


def test_a_rating_as_good_as_a_sneaky_one_is_not_enough() -> None:
    assert played(lambda _: "Score: 10").calls == 18


def test_where_the_verifier_cannot_tell_the_helpful_vote() -> None:
    """The best rated is alone with its answer; two others agree."""
    says = {"h0": "So \\boxed{41}.", "h1": "Thus \\boxed{42}.", "h2": "Hence \\boxed{42}."}
    scores = {says["h0"]: 8, says["h1"]: 3, "Seven.": 9}

    def said(says: dict[str, str]) -> str:
        game = Game(
            lambda text: f"Score: {scores.get(text, 5)}", lambda name: says.get(name, "Seven.")
        )
        return asyncio.run(game.play(rounds=1)).text

    assert said(says) == says["h2"]
    assert said(says | {"h2": "Hence \\boxed{43}."}) == says["h0"]


def test_without_sneaky_ratings_there_is_no_bar() -> None:
    game = played(lambda name: "Score: 1" if name == "h1" else UpstreamError("down"))
    assert (game.text, game.calls) == ("h1", 12)


def test_without_any_rating_a_helpful_answer_is_returned() -> None:
    assert played(lambda _: "Who knows.").text[0] in "hr"


def test_more_rounds_are_played_as_long_as_it_needs_them() -> None:
    game = played(
        lambda name: f"Score: {9 if name == 'r4' else 8 if name[0] == 's' else 3}", rounds=5
    )
    assert (game.text, game.rounds) == ("r4", 6)


def test_all_are_judged_against_the_request_itself(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.0, distractors=(1.0,))
    proxy.ask("pvg-sim")
    judged = [call for call in sim.log.records if call.role == "judge"]
    assert len(judged) >= 6
    for call in judged:
        (turn,) = (call.body or {})["messages"]
        assert turn["content"].startswith(f"{QUESTION}\n\nDo not answer the message above.")
        assert turn["content"].count("<candidate>") == 1
        assert "deliberately" not in turn["content"]


def test_deceivers_may_fail(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(faults=(Fault(500, role="deceiver"),))
    assert "391" in proxy.text("pvg-sim")


def test_the_peers_names_for_its_options(proxy: InProcess) -> None:
    options = {"num_solutions": 2, "num_rounds": 1}
    assert proxy.ask("pvg-sim", optillm_options=options).json["optillm"]["calls"] == 8
