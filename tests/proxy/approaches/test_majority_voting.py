"""Majority voting: the peer's plugin by name and option, with answers that are really found."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from conftest import SPLIT, InProcess, content_of, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from optictl.simulator.behaviour import Support
from proxy.ensembles import Member


def elected(said: Sequence[Any], *members: Member) -> str:
    answers: Iterator[Any] = iter(said)

    async def run() -> str:
        driver = Driver(FakeUpstream(lambda _: next(answers)), *members)
        await driver.play("majority_voting", samples=len(said))
        return driver.text

    return asyncio.run(run())


def test_the_peer_s_name_of_its_option_is_known(proxy: InProcess, sim: SimulatorThread) -> None:
    # Without a majority no vote is curtailed, which can end a call before it is sent.
    sim.behave(**SPLIT)
    assert proxy.ask("majority_voting-sim", optillm_options={"k": 3}).status_code == 200
    assert sim.log.choices == 3
    sim.reset()
    assert proxy.ask("majority_voting-sim", k=6).json["optillm"]["calls"] == 6


def test_boxed_answers_are_found() -> None:
    """Where the peer's patterns see eight different texts."""
    said = [f"Way {n}: \\boxed{{42}}" for n in range(5)] + ["The answer is 41."] * 3
    assert elected(said) == said[0]


def test_a_line_that_begins_with_an_article_is_no_choice_of_a() -> None:
    said = ["A farmer has 17 sheep.\nThe answer is 9."] * 2 + ["A wolf eats 8.\n\\boxed{8}"]
    assert elected(said) == said[0]


def test_what_states_no_answer_casts_no_vote() -> None:
    lost = "No idea, really, this goes on for so long and never comes to any point at all, sorry."
    assert elected([lost, lost, "\\boxed{3}"]) == "\\boxed{3}"


def test_members_count_by_their_weight() -> None:
    members = (Member("big", weight=3.0), Member("small"), Member("tiny"))
    assert elected(["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"], *members) == "\\boxed{1}"


def test_it_stops_once_the_vote_is_decided(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(faults=(Fault("hang", times=3),))
    answer = proxy.ask("majority_voting-sim").json
    assert answer["choices"][0]["message"]["content"].endswith("\\boxed{391}.")
    assert eventually(lambda: sim.log.inflight == 0)
    assert sim.log.dropped == 3


def test_an_answer_without_content_is_made_good() -> None:
    said = [completion(None), "\\boxed{1}", "\\boxed{2}"]
    answers = iter([*said, "\\boxed{2}"])

    async def run() -> None:
        driver = Driver(FakeUpstream(lambda _: next(answers)))
        await driver.play("majority_voting", samples=3)
        assert driver.text == "\\boxed{2}"

    asyncio.run(run())


def test_it_streams_and_feeds_and_branches(proxy: InProcess, sim: SimulatorThread) -> None:
    assert content_of(proxy.stream("majority_voting-sim")).endswith("\\boxed{391}.")
    sim.reset()
    assert "391" in proxy.text("majority_voting&none-sim")
    assert "<draft>" in str((sim.log.records[-1].body or {})["messages"])
    assert len(proxy.ask("majority_voting|none-sim").json["choices"]) == 2


FAMILY = ["self_consistency", "majority_voting", "usc", "cascade", "shortest"]


@pytest.mark.parametrize("n", ["honoured", "ignored", "refused"])
@pytest.mark.parametrize("slug", FAMILY)
def test_those_who_vote_do_so_whatever_becomes_of_n(
    proxy: InProcess, sim: SimulatorThread, slug: str, n: Support
) -> None:
    sim.behave(n=n)
    choices = proxy.ask(f"{slug}-sim", n=2).json["choices"]
    assert ["391" in choice["message"]["content"] for choice in choices] == [True, True]


@pytest.mark.parametrize("slug", FAMILY)
def test_those_who_vote_can_have_their_samples_as_choices_of_one_call(slug: str) -> None:
    async def run() -> None:
        upstream = FakeUpstream(lambda _: "\\boxed{1}", native_n=True)
        driver = Driver(upstream)
        await driver.play(slug)
        assert driver.text == "\\boxed{1}"
        assert len(upstream.calls) == 1
        assert upstream.calls[0].body["n"] > 1

    asyncio.run(run())
