"""Calls and rounds as declared, counted at the upstream: each approach at its critical path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import SPLIT, InProcess, MakeProxy, eventually

from optictl.simulator import SimulatorThread
from proxy.approach import Shape
from proxy.registry import discover

#: Long against what starting a fan takes, so that rounds can be told from the clock.
LATENCY = 0.2
#: Options to try each approach with, besides its defaults; and how many calls run at once.
CASES: Mapping[str, Sequence[tuple[dict[str, Any], int]]] = {
    "none": [({}, 1)],
    "re2": [({}, 1), ({"trigger": False}, 1)],
    "cot_reflection": [({}, 1), ({"full": True}, 1)],
    "bon": [({}, 3), ({"samples": 1}, 1), ({"samples": 6}, 6)],
    "self_consistency": [
        ({}, 5),
        ({"samples": 1}, 1),
        ({"samples": 8}, 8),
        ({"samples": 16, "stop": "beta"}, 4),
        ({"samples": 12, "stop": "dirichlet"}, 4),
        ({"samples": 12, "stop": "esc"}, 5),
        ({"stop": "off", "weights": "confidence"}, 5),
    ],
    "majority_voting": [({}, 8), ({"samples": 3}, 3)],
    "usc": [({}, 8), ({"samples": 1}, 1)],
    "cascade": [({}, 3), ({"samples": 2, "escalate": "none"}, 2)],
    "moa": [
        ({}, 3),
        ({"samples": 2, "layers": 3}, 2),
        ({"samples": 4, "critique": False}, 4),
        ({"samples": 1}, 1),
    ],
    "genselect": [
        ({}, 4),
        ({"samples": 1}, 1),
        ({"samples": 5, "mode": "tournament", "selections": 2}, 5),
    ],
    "self_moa": [({}, 6), ({"samples": 1}, 1)],
    "rsa": [({}, 6), ({"samples": 4, "steps": 2}, 4), ({"steps": 1}, 6)],
    "deepthink": [({}, 4), ({"samples": 5, "discover": False}, 6)],
    "deepconf": [({}, 8), ({"samples": 4}, 4), ({"warmup": 2, "samples": 6}, 2)],
    "cepo": [
        ({}, 9),
        ({"bestofn_n": 2, "bestofn_rating_type": "pairwise", "planning_n": 2}, 4),
        ({"bestofn_n": 1, "planning_n": 4, "planning_m": 2, "use_plan_diversity": True}, 2),
    ],
    "mcts": [
        ({}, 3),
        ({"simulations": 8}, 4),
        ({"simulations": 1, "depth": 2, "samples": 1}, 1),
    ],
    "abmcts": [({}, 4), ({"expansions": 3, "prior": "beta"}, 3)],
    "pvg": [({}, 6), ({"rounds": 1, "samples": 2}, 4)],
}
EACH = [(slug, options, peak) for slug, cases in CASES.items() for options, peak in cases]
AGREED: Mapping[str, Any] = {"probability": 1.0}
#: So many wrong answers that two of sixteen samples are hardly ever the same.
ALL_DIFFERENT: Mapping[str, Any] = {"probability": 0.0, "distractors": (1.0,) * 5000}


@dataclass(frozen=True)
class Seen:
    calls: int
    rounds: int
    peak: int


def observe(
    proxy: InProcess, sim: SimulatorThread, model: str, latency: float, **members: Any
) -> Seen:
    """One request as the upstream counted it; what the response says of it must agree."""
    sim.behave(latency=latency)
    sim.reset()
    response = proxy.ask(model, **members)
    assert response.status_code == 200, response.text
    optillm = response.json["optillm"]
    assert eventually(lambda: sim.log.inflight == 0)
    assert (optillm["calls"], optillm["exhausted"]) == (sim.log.choices, None)
    assert not optillm["skipped"]
    if latency:
        assert optillm["rounds"] == sim.log.rounds
    return Seen(sim.log.choices, optillm["rounds"], sim.log.peak)


def declared(slug: str, options: Mapping[str, Any]) -> Shape:
    registry = discover()
    shape = registry[slug].shape(options)
    return shape + registry["none"].shape({}) if registry[slug].mark.kind == "transform" else shape


#: Whose calls depend on what the replies say, not on how right they are: counted in its own tests.
ELSEWHERE = {
    *("cov", "leap", "mars", "plansearch", "router", "rstar"),
    *("rto", "self_refine", "shortest", "skeleton", "z3"),
}


def test_every_approach_is_counted() -> None:
    assert CASES.keys() | ELSEWHERE == {entry.slug for entry in discover()}


@pytest.mark.parametrize(("slug", "options", "peak"), EACH, ids=str)
def test_an_approach_takes_what_it_declares(
    proxy: InProcess, sim: SimulatorThread, slug: str, options: dict[str, Any], peak: int
) -> None:
    members = {"optillm_options": options} if options else {}
    seen = observe(proxy, sim, f"{slug}-sim", LATENCY, **members)
    sim.behave(**(ALL_DIFFERENT if slug == "self_consistency" else SPLIT))
    both = [seen, observe(proxy, sim, f"{slug}-sim", 0.0, **members)]
    shape = declared(slug, options)
    assert min(run.calls for run in both) == shape.least_calls
    assert max(run.calls for run in both) == shape.most_calls
    assert min(run.rounds for run in both) == shape.least_rounds
    assert max(run.rounds for run in both) == shape.most_rounds
    assert seen.peak == peak


@pytest.mark.parametrize(
    ("selector", "n", "expected"),
    [
        ("re2&self_consistency", 1, Seen(5, 1, 5)),
        ("moa&bon", 1, Seen(11, 5, 3)),
        ("bon&none", 1, Seen(7, 3, 3)),
        ("bon&re2&moa", 1, Seen(11, 5, 3)),
        ("bon|moa", 1, Seen(11, 3, 6)),
        ("none|re2|cot_reflection", 1, Seen(3, 1, 3)),
        ("re2&bon|moa&none", 1, Seen(12, 4, 6)),
        ("none", 3, Seen(3, 1, 1)),
        ("re2", 3, Seen(3, 1, 3)),
        ("bon", 3, Seen(18, 2, 9)),
        ("moa", 3, Seen(15, 3, 9)),
        ("self_consistency", 3, Seen(15, 1, 15)),
        ("bon|self_consistency", 3, Seen(33, 2, 24)),
    ],
    ids=str,
)
def test_pipelines_branches_and_choices_add_up(
    make_proxy: MakeProxy, sim: SimulatorThread, selector: str, n: int, expected: Seen
) -> None:
    # Shapes are those at unlimited fan-out.
    proxy = make_proxy(max_fanout=64)
    # Without a majority no vote is curtailed, which can end a call before it is sent.
    sim.behave(**SPLIT)
    members = {"n": n} if n > 1 else {}
    assert observe(proxy, sim, f"{selector}-sim", LATENCY, **members) == expected


@pytest.mark.parametrize("slug", [slug for slug in CASES if slug != "none"])
def test_a_streamed_answer_costs_the_same(
    proxy: InProcess, sim: SimulatorThread, slug: str
) -> None:
    sim.behave(**SPLIT)
    optillm = proxy.stream(f"{slug}-sim")[-2]["optillm"]
    shape = declared(slug, {})
    assert shape.least_calls <= optillm["calls"] <= shape.most_calls
    assert shape.least_rounds <= optillm["rounds"] <= shape.most_rounds
    assert sim.log.choices == optillm["calls"]
    assert eventually(lambda: sim.log.inflight == 0)


def test_curtailed_votes_in_parallel_wait_for_no_one(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    """What is in flight when each vote is decided is cancelled, in each choice by itself."""
    sim.behave(**AGREED, latency=0.02, sigma=1.0)
    optillm = proxy.ask("self_consistency-sim", n=3, optillm_trace=True).json["optillm"]
    assert (optillm["calls"], optillm["rounds"]) == (15, 1)
    assert {call["round"] for call in optillm["trace"]} == {1}
    assert eventually(lambda: sim.log.inflight == 0)
    # Three of five agreeing decide; two landing at once is all that may come too late.
    assert sum(call["outcome"] == "ok" for call in optillm["trace"]) >= 9
