"""Cascade: cheap samples that agree are the answer, else the strong member has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import SPLIT, InProcess, content_of, eventually
from driving import Driver, FakeUpstream, Live, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.upstream.port import Call

CHEAP, STRONG = Member("cheap", "proposer"), Member("strong", "aggregator")


def played(
    cheap: Sequence[Any], strong: Any = "\\boxed{9}", **options: Any
) -> tuple[str, FakeUpstream]:
    """What the client gets where the cheap member says these and no more, and the calls."""
    said = iter(cheap)
    down = UpstreamError("down")

    async def run() -> tuple[str, FakeUpstream]:
        upstream = FakeUpstream(lambda call: strong if call.model == "strong" else next(said, down))
        driver = Driver(upstream, CHEAP, STRONG)
        await driver.play("cascade", samples=len(cheap), **options)
        return driver.text, upstream

    return asyncio.run(run())


def prompt(call: Call) -> str:
    return str(call.body["messages"][-1]["content"])


class TestAgreement:
    def test_is_the_answer_without_a_call_of_the_strong_member(self) -> None:
        text, upstream = played(["So it is 42: \\boxed{42}", "\\boxed{42.0}", "The answer is 42."])
        assert "42" in text
        assert upstream.models_called == ["cheap"] * 3

    @pytest.mark.parametrize(
        "dissent",
        [
            "\\boxed{41}",
            completion(None),
            UpstreamError("down"),
            completion(
                "x",
                choices=[{"message": {"content": "\\boxed{42}"}, "finish_reason": "length"}],
            ),
            "Nobody can know that. " * 10,
        ],
        ids=["another answer", "null", "failed", "truncated", "no answer"],
    )
    def test_is_that_of_all(self, dissent: Any) -> None:
        text, upstream = played(["\\boxed{42}", "\\boxed{42}", dissent])
        assert text == "\\boxed{9}"
        assert upstream.models_called == ["cheap"] * 3 + ["strong"]

    def test_is_not_waited_for_longer_than_one_round(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        assert proxy.ask("cascade-sim").json["optillm"]["rounds"] == 1


class TestEscalation:
    def test_the_strong_member_sees_what_the_cheap_one_said(self) -> None:
        cheap = ["\\boxed{1}", "\\boxed{2}"]
        _, upstream = played(cheap)
        assert all(text in prompt(upstream.calls[-1]) for text in cheap)

    def test_or_only_the_question(self) -> None:
        _, upstream = played(["\\boxed{1}", "\\boxed{2}"], escalate="none")
        assert upstream.models_called == ["cheap", "cheap", "strong"]
        assert prompt(upstream.calls[-1]) == prompt(upstream.calls[0])

    def test_a_chat_too_long_for_the_cheap_member_goes_to_the_strong_one(self) -> None:
        text, upstream = played([UpstreamRejected("Too long.", status=400)] * 3)
        assert text == "\\boxed{9}"
        assert "<candidate" not in prompt(upstream.calls[-1])

    def test_a_strong_member_that_is_down_leaves_a_cheap_answer(self) -> None:
        text, _ = played(["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"], UpstreamError("down"))
        assert text == "\\boxed{2}"

    def test_where_all_are_down_it_is_an_error(self) -> None:
        with pytest.raises(UpstreamError):
            played([UpstreamRejected("Too long.", status=400)] * 3, UpstreamError("down"))

    def test_no_sample_is_drawn_twice(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**SPLIT)
        optillm = proxy.ask("cascade-sim").json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (4, 2)
        assert [call.role for call in sim.log.records] == ["solver"] * 3 + ["aggregator"]

    def test_it_streams(self) -> None:
        said = iter(["\\boxed{1}", "\\boxed{2}", "word by word"])

        async def run() -> None:
            upstream = FakeUpstream(lambda _: next(said), cut=lambda text: text.partition(" "))
            driver = Driver(upstream, outlet=Live())
            await driver.play("cascade", samples=2)
            assert driver.text == "word by word"
            assert isinstance(driver.outlet, Live)
            assert len([delta for delta in driver.outlet.deltas if delta.get("content")]) == 3

        asyncio.run(run())


class TestLimits:
    def test_the_budget_keeps_one_call_for_the_strong_member(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**SPLIT)
        answer = proxy.ask("cascade-sim", optillm_budget={"max_calls": 3}).json
        assert [call.role for call in sim.log.records] == ["solver"] * 2 + ["aggregator"]
        assert answer["optillm"]["exhausted"] is None

    def test_at_the_deadline_a_cheap_answer_is_the_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**SPLIT, faults=(Fault("hang", role="aggregator"),))
        answer = proxy.ask("cascade-sim", optillm_budget={"max_seconds": 1.5}).json
        assert answer["optillm"]["exhausted"] == "deadline"
        solvers = {call.content for call in sim.log.records if call.role == "solver"}
        assert answer["choices"][0]["message"]["content"] in solvers
        assert eventually(lambda: sim.log.inflight == 0)

    def test_a_conversation_too_long_for_half_of_the_calls(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(400, probability=0.5, role="solver"),), seed=3)
        assert "391" in proxy.text("cascade-sim", optillm_options={"samples": 8})

    @pytest.mark.parametrize("n", ["honoured", "ignored", "refused"])
    def test_whatever_becomes_of_n(self, proxy: InProcess, sim: SimulatorThread, n: Any) -> None:
        sim.behave(n=n)
        assert len(proxy.ask("cascade-sim", n=2).json["choices"]) == 2


def test_it_feeds_and_branches(proxy: InProcess, sim: SimulatorThread) -> None:
    assert "391" in proxy.text("cascade&none-sim")
    assert "<draft>" in str((sim.log.records[-1].body or {})["messages"])
    assert len(proxy.ask("cascade|none-sim").json["choices"]) == 2
    assert content_of(proxy.stream("cascade-sim")).endswith("\\boxed{391}.")


@pytest.mark.parametrize(
    "said",
    [
        ["答案是 42。", "**答案：42**"],
        ["Die Antwort ist 42.", "La respuesta es 42."],
        ["```python\nprint(1)\n```", "```python\nprint(1)\n```"],
    ],
)
def test_they_agree_in_any_language_and_in_code(said: list[str]) -> None:
    assert played(said)[0] == min(said, key=len)


def cost(sim: SimulatorThread, proxy: InProcess, question: str) -> tuple[bool, bool]:
    """Whether the cheap ones agreed, and whether the answer is right."""
    before = sim.log.calls
    text = proxy.text("cascade-sim", question)
    return sim.log.calls - before == 3, text.endswith(f"\\boxed{{{total(question)}}}.")


def total(question: str) -> int:
    left, right = question.removeprefix("What is ").removesuffix("?").split(" + ")
    return int(left) + int(right)


def test_agreement_and_accuracy_are_what_theory_predicts(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    """P(agree) = p^m + Σ q_j^m; of the rest the aggregator, here the plurality, has its share."""
    p, wrong, m, n = 0.7, (0.2, 0.1), 3, 150
    sim.behave(probability=p, distractors=(2, 1), tokens=4, seed=11)
    seen = [cost(sim, proxy, f"What is {17 + i} + {300 - i}?") for i in range(n)]
    agree = p**m + sum(q**m for q in wrong)
    error = (agree * (1 - agree) / n) ** 0.5
    assert abs(sum(agreed for agreed, _ in seen) / n - agree) <= 4 * error
    right = [correct for agreed, correct in seen if agreed]
    among = p**m / agree
    assert abs(sum(right) / len(right) - among) <= 4 * (among * (1 - among) / len(right)) ** 0.5
