"""Universal self-consistency: a judge counts the agreement of answers that cannot be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conftest import InProcess, content_of, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.upstream.port import Call

STORIES = [f"Story {n}: " + "it went on and on. " * (8 + n) for n in range(4)]


def prompt(call: Call) -> str:
    return str(call.body["messages"][-1]["content"])


def judging(call: Call) -> bool:
    return "<candidate" in prompt(call)


def place(call: Call, text: str) -> int:
    """The number under which the judge sees this candidate."""
    before = prompt(call).partition(text.strip())[0]
    return int(before.rpartition('number="')[2].partition('"')[0])


def played(
    said: Sequence[Any], judge: Callable[[Call], Any], *members: Member, **options: Any
) -> tuple[str, FakeUpstream]:
    """What the client gets where the samples say these, and the calls."""
    samples = iter(said)

    async def run() -> tuple[str, FakeUpstream]:
        upstream = FakeUpstream(
            lambda call: judge(call) if judging(call) else next(samples, UpstreamError("down"))
        )
        driver = Driver(upstream, *members)
        await driver.play("usc", **{"samples": len(said), **options})
        return driver.text, upstream

    return asyncio.run(run())


@pytest.mark.parametrize("favourite", range(4))
def test_the_one_that_the_judge_names_is_the_answer(favourite: int) -> None:
    text, upstream = played(
        STORIES, lambda call: f"Best candidate: {place(call, STORIES[favourite])}"
    )
    assert text == STORIES[favourite]
    assert len(upstream.calls) == 5


def test_the_judge_sees_all_of_them_shuffled_and_is_asked_for_consistency() -> None:
    _, upstream = played(STORIES, lambda _: "Best candidate: 1")
    judge = upstream.calls[-1]
    assert judge.body["messages"][-1]["content"].startswith("What is 17 * 23?")
    places = [place(judge, story) for story in STORIES]
    assert sorted(places) == [1, 2, 3, 4]
    assert places != [1, 2, 3, 4]
    assert "agree" in prompt(judge)


@pytest.mark.parametrize(
    "said",
    [
        ["The answer is 7.", "So \\boxed{7}", "7"],
        ["答案是 7。", "La respuesta es 7."],
        ["```python\nprint(7)\n```"] * 2,
        [STORIES[0]] * 3,
    ],
    ids=["wordings", "languages", "code", "identical"],
)
def test_no_judge_is_asked_where_all_agree(said: list[str]) -> None:
    text, upstream = played(said, lambda _: pytest.fail("asked"))
    assert text in said
    assert len(upstream.calls) == len(said)


@pytest.mark.parametrize(
    "babble",
    ["All are nice.", "Best candidate: 17", "Best candidate: NaN", completion(None)],
)
def test_a_judge_that_names_none_leaves_the_vote(babble: Any) -> None:
    said = ["\\boxed{1}", "\\boxed{2}", "Hence it is \\boxed{2}"]
    assert played(said, lambda _: babble)[0] == "\\boxed{2}"


def test_a_judge_that_fails_leaves_the_vote() -> None:
    said = ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]
    assert played(said, lambda _: UpstreamError("down"))[0] == "\\boxed{2}"


def test_failed_samples_are_drawn_once_more_and_no_error_is_an_answer() -> None:
    said = [UpstreamError("down"), completion(None), "\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]
    text, upstream = played(said, lambda _: "none", samples=3)
    assert text == "\\boxed{2}"
    # Three, two in place of those lost, and the judge.
    assert len(upstream.calls) == 6
    assert all("down" not in prompt(call) for call in upstream.calls)


def test_a_truncated_sample_is_no_candidate() -> None:
    cut = completion("x", choices=[{"message": {"content": "Once up"}, "finish_reason": "length"}])
    _, upstream = played([cut, *STORIES[:2]], lambda _: "Best candidate: 1")
    assert all("Once up" not in prompt(call) for call in upstream.calls if judging(call))


def test_without_any_sample_it_is_an_error() -> None:
    with pytest.raises(UpstreamError):
        played([UpstreamError("down")] * 2, lambda _: "Best candidate: 1")


def test_the_judge_is_the_ensemble_s() -> None:
    members = (Member("anna"), Member("bela"), Member("dora", "judge"))
    _, upstream = played(STORIES, lambda _: "Best candidate: 1", *members)
    assert upstream.models_called == ["anna", "bela", "anna", "bela", "dora"]


def test_the_budget_keeps_a_call_for_the_judge(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.0, distractors=(1.0,) * 50)
    answer = proxy.ask("usc-sim", optillm_budget={"max_calls": 8}).json
    assert answer["optillm"]["exhausted"] is None
    assert [call.role for call in sim.log.records] == ["solver"] * 7 + ["selector"]


def test_at_the_deadline_a_sample_is_the_answer(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.0, distractors=(1.0,) * 50, faults=(Fault("hang", role="selector"),))
    answer = proxy.ask("usc-sim", optillm_budget={"max_seconds": 1.5}).json
    assert answer["optillm"]["exhausted"] == "deadline"
    samples = {call.content for call in sim.log.records if call.role == "solver"}
    assert answer["choices"][0]["message"]["content"] in samples
    assert eventually(lambda: sim.log.inflight == 0)


def test_a_conversation_too_long_for_half_of_the_calls(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault(400, probability=0.5),), seed=3)
    assert "391" in proxy.text("usc-sim")


def test_it_streams_and_feeds_and_branches(proxy: InProcess, sim: SimulatorThread) -> None:
    assert content_of(proxy.stream("usc-sim")).endswith("\\boxed{391}.")
    sim.reset()
    assert "391" in proxy.text("usc&none-sim", optillm_options={"usc.samples": 3})
    assert "<draft>" in str((sim.log.records[-1].body or {})["messages"])
    assert len(proxy.ask("usc|none-sim").json["choices"]) == 2
