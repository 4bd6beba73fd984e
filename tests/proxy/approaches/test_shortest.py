"""Short-m@k: the first few chains to finish vote, and the others are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import InProcess, content_of, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.upstream.port import Call

CUT = completion("x", choices=[{"message": {"content": "\\boxed{5}"}, "finish_reason": "length"}])


def played(said: Sequence[Any], *members: Member, **options: Any) -> tuple[str, FakeUpstream]:
    """What the client gets where chains finish one after another; None never does."""

    async def run() -> tuple[str, FakeUpstream]:
        turns = [asyncio.Event() for _ in range(len(said) + 1)]
        turns[0].set()
        number = iter(range(len(said)))

        async def respond(call: Call) -> Any:
            nth = next(number)
            if said[nth] is None:
                await asyncio.Event().wait()
            await turns[nth].wait()
            asyncio.get_running_loop().call_later(0.001, turns[nth + 1].set)
            return said[nth]

        driver = Driver(FakeUpstream(respond), *members)
        async with asyncio.timeout(30):
            await driver.play("shortest", **{"samples": len(said), **options})
        return driver.text, driver.upstream

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "first", "answer"),
    [
        (["\\boxed{1}", None, None], 1, "\\boxed{1}"),
        (["\\boxed{1}", "\\boxed{2}", "\\boxed{2}", None, None], 3, "\\boxed{2}"),
        (["\\boxed{1}", "\\boxed{2}", "\\boxed{3}", None], 3, "\\boxed{1}"),
    ],
    ids=["one", "majority", "a tie goes to the shortest"],
)
def test_the_first_to_finish_decide_and_nobody_else_is_waited_for(
    said: list[str | None], first: int, answer: str
) -> None:
    text, upstream = played(said, first=first)
    assert text == answer
    assert (len(upstream.calls), upstream.cancelled) == (len(said), said.count(None))


def test_two_of_three_need_no_third() -> None:
    text, upstream = played(["\\boxed{1}", "\\boxed{1}", None, None], first=3)
    assert (text, upstream.cancelled) == ("\\boxed{1}", 2)


@pytest.mark.parametrize("lost", [UpstreamError("down"), completion(None), CUT])
def test_one_that_is_lost_has_not_finished(lost: Any) -> None:
    said = [lost, "\\boxed{1}", "\\boxed{2}", "\\boxed{2}", None]
    assert played(said, first=3)[0] == "\\boxed{2}"


def test_one_without_an_answer_to_compare_has() -> None:
    story = "And so they lived, for as long as anybody could remember them. " * 3
    text, upstream = played([story, f"{story}The end.", None], first=2)
    assert (text, upstream.cancelled) == (story, 1)


def test_fewer_than_asked_for_will_do() -> None:
    assert played(["\\boxed{1}", UpstreamError("down")], first=3)[0] == "\\boxed{1}"
    assert played([CUT, CUT], first=1)[0] == "\\boxed{5}"


def test_none_at_all_is_an_error() -> None:
    with pytest.raises(UpstreamError):
        played([UpstreamError("down")] * 2)


@pytest.mark.parametrize(
    "said",
    [
        ["<think>\\boxed{1}</think>答案是 42。", "**答案：42**", None],
        ["```python\nprint(1)\n```", "```python\nprint(1)\n```", None],
    ],
)
def test_any_language_and_code(said: list[str | None]) -> None:
    assert played(said, first=3)[0] in said


def test_proposers_take_turns_and_count_by_their_weight() -> None:
    members = (Member("big", weight=3.0), Member("small"), Member("judy", "judge"))
    text, upstream = played(["\\boxed{1}", "\\boxed{2}", None], *members, first=2)
    assert text == "\\boxed{1}"
    assert upstream.models_called == ["big", "small", "big"]


def test_it_costs_its_chains_and_one_round(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(latency=0.3, probability=0.0, distractors=(1.0,) * 50)
    optillm = proxy.ask("shortest-sim", k=6, m=2).json["optillm"]
    assert (optillm["calls"], optillm["rounds"]) == (6, 1)
    assert sim.log.peak == 6
    assert eventually(lambda: sim.log.inflight == 0)


def test_connections_of_the_slow_ones_are_closed(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(faults=(Fault("hang", times=3),))
    assert "391" in proxy.text("shortest-sim")
    assert eventually(lambda: sim.log.inflight == 0)
    assert sim.log.dropped == 3


def test_the_best_so_far_is_kept(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(faults=(Fault("hang", times=4),))
    answer = proxy.ask("shortest-sim", optillm_budget={"max_seconds": 1.5}).json
    assert answer["choices"][0]["message"]["content"].endswith("\\boxed{391}.")
    assert answer["optillm"]["exhausted"] == "deadline"


def test_a_conversation_too_long_for_half_of_the_calls(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault(400, probability=0.5),), seed=3)
    assert "391" in proxy.text("shortest-sim", optillm_options={"samples": 8})


def test_it_streams_and_feeds_and_branches(proxy: InProcess, sim: SimulatorThread) -> None:
    assert content_of(proxy.stream("shortest-sim")).endswith("\\boxed{391}.")
    assert "391" in proxy.text("shortest&none-sim")
    assert len(proxy.ask("shortest|none-sim").json["choices"]) == 2
