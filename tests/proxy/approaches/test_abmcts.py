"""Adaptive branching tree search: wider where fresh answers score, deeper where revisions do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from driving import Driver, FakeUpstream

from proxy.errors import UpstreamError
from proxy.upstream.port import Call

CANDIDATE = re.compile(r"<candidate[^>]*>\n(.*?)\n</candidate>", re.DOTALL)


def grow(rate: Callable[[int], Any], **options: Any) -> tuple[str, list[int]]:
    """The answer, and the depth of each that was written; an answer says its depth."""
    depths: list[int] = []

    def respond(call: Call) -> Any:
        asked = str(call.body["messages"][-1]["content"])
        shown = CANDIDATE.findall(asked)
        if asked.endswith("Score: [0-10]"):
            return rate(len(shown[0].split()))
        depth = len(shown[0].split()) + 1 if shown else 1
        depths.append(depth)
        return " ".join(["deeper"] * depth)

    async def run() -> str:
        driver = Driver(FakeUpstream(respond))
        await driver.play("abmcts", **options)
        return driver.text

    return asyncio.run(run()), depths


@pytest.mark.parametrize("prior", ["gaussian", "beta"])
def test_it_goes_deep_where_revisions_score_and_wide_where_they_do_not(prior: str) -> None:
    said, deep = grow(lambda depth: f"Score: {min(10, 2 * depth)}", expansions=32, prior=prior)
    _, wide = grow(lambda depth: f"Score: {8 if depth == 1 else 0}", expansions=32, prior=prior)
    assert len(deep) == len(wide) == 32
    assert max(deep) >= 3
    assert wide.count(1) > 2 * deep.count(1)
    assert len(said.split()) == min(5, max(deep))


def test_the_best_scored_is_the_answer_wherever_it_is() -> None:
    said, depths = grow(lambda depth: f"Score: {9 if depth == 2 else 3}", expansions=32)
    assert 2 in depths
    assert said == "deeper deeper"


def test_the_first_batch_is_fresh_and_a_batch_bounds_what_runs_at_once() -> None:
    _, depths = grow(lambda _: "Score: 5", expansions=4, parallel=4)
    assert depths == [1, 1, 1, 1]


def test_without_scores_it_still_answers() -> None:
    said, depths = grow(lambda _: UpstreamError("down"))
    assert said.split()[0] == "deeper"
    assert len(depths) == 8


def test_a_later_batch_that_fails_costs_nothing_but_itself() -> None:
    written = 0

    def respond(call: Call) -> Any:
        nonlocal written
        asked = str(call.body["messages"][-1]["content"])
        if asked.endswith("Score: [0-10]"):
            return "Score: 5"
        written += 1
        return "An answer." if written <= 4 else UpstreamError("down")

    async def run() -> None:
        driver = Driver(FakeUpstream(respond))
        ended = await driver.play("abmcts")
        assert (driver.text, ended.finish_reason) == ("An answer.", "stop")

    asyncio.run(run())
