"""Samples that are given up because the others are there: only where the operator wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import MakeProxy, eventually
from driving import MESSAGES, Driver, FakeUpstream, taken

from benchmarks.virtual_time import VirtualTime
from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Ensemble, Member, Team
from proxy.errors import UpstreamError
from proxy.upstream.port import Call


def after(*seconds: float | None) -> Callable[[Call], Awaitable[Any]]:
    """Answers that take so long, one call after the other; None for one that fails at once."""
    left = iter(enumerate(seconds))

    async def answer(number: int, taking: float | None) -> Any:
        if taking is None:
            return UpstreamError("down")
        await asyncio.sleep(taking)
        return f"answer {number}"

    return lambda _: answer(*next(left))


def sampled(patience: float | None, *seconds: float | None) -> tuple[Driver, list[str]]:
    """The texts of as many samples, in the order in which they land."""

    async def run() -> tuple[Driver, list[str]]:
        driver = Driver(FakeUpstream(after(*seconds)))
        driver.run.patience = patience
        replies = await taken(driver.llm.sample(MESSAGES, len(seconds)))
        assert driver.upstream.running == 0
        return driver, [reply.text for reply in replies]

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(run())


class TestSamples:
    def test_the_slowest_is_given_up(self) -> None:
        driver, texts = sampled(0.5, 60, 0.01, 0.02)
        assert texts == ["answer 1", "answer 2"]
        record = driver.run.ledger.calls[0]
        assert (record.outcome, record.why) == ("cancelled", "slow")

    def test_one_that_comes_in_time_is_not(self) -> None:
        _, texts = sampled(3.0, 0.05, 0.01, 0.02)
        assert texts == ["answer 1", "answer 2", "answer 0"]

    def test_all_are_waited_for_where_nothing_is_said(self) -> None:
        assert len(sampled(None, 0.3, 0.001, 0.001)[1]) == 3

    @pytest.mark.parametrize("seconds", [[0.2], [0.2, 0.001]])
    def test_of_one_or_two_all_are_waited_for(self, seconds: list[float]) -> None:
        assert len(sampled(0.0, *seconds)[1]) == len(seconds)

    def test_what_failed_is_not_there(self) -> None:
        """One of three is no two thirds, though nobody else can come any more."""
        assert sampled(0.0, None, 0.001, 0.2)[1] == ["answer 1", "answer 2"]

    @pytest.mark.parametrize(("samples", "needed"), [(3, 2), (4, 3), (5, 4), (8, 6), (12, 8)])
    def test_how_many_that_is(self, samples: int, needed: int) -> None:
        times = [0.001] * needed + [60.0] * (samples - needed)
        assert len(sampled(0.0, *times)[1]) == needed


#: With whom the first sample may hang. What all of a stage is needed for has no such samples.
PATIENT = [
    *("bon", "deepthink", "genselect", "majority_voting", "mars", "mcts", "moa", "plansearch"),
    *("pvg", "rsa", "self_consistency", "self_moa", "usc"),
]


@pytest.mark.parametrize("slug", PATIENT)
def test_an_approach_answers_without_a_sample_that_hangs(
    make_proxy: MakeProxy, sim: SimulatorThread, slug: str
) -> None:
    # Before what plansearch and deepthink begin with, nobody can go on.
    skip = {"plansearch": 1, "deepthink": 0}.get(slug, 0)
    options = {"deepthink": {"discover": False}, "plansearch": {"samples": 3}}.get(slug, {})
    behaviours = [Fault("no_usage", times=skip)] if skip else []
    sim.behave(latency=0.02, faults=(*behaviours, Fault("hang", times=1)))
    answer = make_proxy(patience=1.0).ask(f"{slug}-sim", optillm_options=options).json
    assert answer["choices"][0]["message"]["content"]
    assert answer["optillm"]["exhausted"] is None
    assert eventually(lambda: sim.log.inflight == 0)
    assert sim.log.dropped >= 1


def test_the_members_of_an_ensemble_are_waited_for(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    sim.behave(latency=0.01)
    sim.behave(model="large", latency=0.5)
    team = Team((Member("small"), Member("medium"), Member("large")))
    proxy = make_proxy(patience=0.0, ensembles={"opt-x": Ensemble("opt-x", "moa", team)})
    trace = proxy.ask("opt-x", optillm_trace=True).json["optillm"]["trace"]
    assert {call["model"]: call["outcome"] for call in trace}["large"] == "ok"
