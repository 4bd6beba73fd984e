"""Self-MoA: proposals of one model, and one streamed answer made of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from conftest import QUESTION, InProcess, content_of, eventually
from driving import Driver, FakeUpstream, Live, completion

from optictl.simulator import Call as Seen
from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.settings import Limits
from proxy.upstream.port import Call


def calls(sim: SimulatorThread, role: str) -> list[Seen]:
    return [call for call in sim.log.records if call.role == role]


def prompt(call: Any) -> str:
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def made_of(
    said: Sequence[Any],
    final: Any = "The one answer.",
    members: Sequence[Member] = (),
    samples: int | None = None,
    **driver: Any,
) -> Driver:
    """The driver behind a run over these proposals, in this order."""
    proposals: Iterator[Any] = iter(said)

    def respond(call: Call) -> Any:
        return final if "<candidate" in prompt(call) else next(proposals)

    async def run() -> Driver:
        driven = Driver(FakeUpstream(respond), *members, **driver)
        await driven.play("self_moa", samples=samples or len(said))
        assert driven.upstream.running == 0
        return driven

    return asyncio.run(run())


def cut(text: str) -> Any:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return completion(text, choices=[choice])


class TestProposals:
    def test_reach_the_aggregator_whole_with_the_conversation_in_front(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=1500)
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": QUESTION},
        ]
        answer = proxy.post(json={"model": "self_moa-sim", "messages": messages}).json
        (aggregator,) = calls(sim, "aggregator")
        proposals = [str(call.content) for call in calls(sim, "solver")]
        assert len(set(proposals)) == 6
        assert all(proposal in prompt(aggregator) for proposal in proposals)
        assert (aggregator.body or {})["messages"][:3] == messages[:3]
        assert prompt(aggregator).startswith(QUESTION)
        assert answer["choices"][0]["message"]["content"] == aggregator.content
        assert (answer["optillm"]["calls"], answer["optillm"]["rounds"]) == (7, 2)

    def test_are_not_shaped_as_the_answer_is(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask("self_moa-sim", max_tokens=500, seed=5)
        solvers = [call.body or {} for call in calls(sim, "solver")]
        (aggregator,) = calls(sim, "aggregator")
        assert not any("max_tokens" in body for body in solvers)
        assert sorted(body["seed"] for body in solvers) == list(range(5, 11))
        assert (aggregator.body or {})["max_tokens"] == 500

    def test_lost_ones_are_drawn_once_more(self) -> None:
        said = [UpstreamError("down"), cut("half of"), completion(None), "one"]
        driver = made_of([*said, "two", UpstreamError("down"), "three"], samples=4)
        assert len(driver.upstream.calls) == 4 + 3 + 1
        last = prompt(driver.upstream.calls[-1])
        assert [f"\n{text}\n" in last for text in ("one", "two", "three", "half of")] == [
            True,
            True,
            True,
            False,
        ]

    def test_equal_ones_stay_what_they_are(self) -> None:
        driver = made_of(["same"] * 6)
        assert prompt(driver.upstream.calls[-1]).count("\nsame\n") == 6

    def test_all_cut_short_they_are_better_than_nothing(self) -> None:
        driver = made_of([cut("half of"), cut("half too")])
        assert prompt(driver.upstream.calls[-1]).count("<candidate ") == 2
        assert len(driver.upstream.calls) == 3


class TestWhoSpeaks:
    def test_the_strongest_alone(self) -> None:
        members = (Member("anna"), Member("bela"), Member("carl", "aggregator"))
        assert set(made_of(["a", "b"], members=members).upstream.models_called) == {"carl"}

    def test_it_streams(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(chunk_chars=40)
        chunks = proxy.stream("self_moa-sim")
        (aggregator,) = calls(sim, "aggregator")
        assert aggregator.stream
        assert content_of(chunks) == aggregator.content


class TestWhereItEndsEarly:
    @pytest.mark.parametrize(
        "error", [UpstreamError("down"), UpstreamRejected("too long", status=400)]
    )
    def test_a_proposal_stands_in_for_an_aggregator_that_fails(self, error: Any) -> None:
        driver = made_of(["one", "two"], final=error)
        assert driver.text == "one"
        assert driver.run.ledger.skipped

    def test_a_proposal_stands_in_at_the_deadline(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("hang", role="aggregator"),))
        answer = proxy.ask("self_moa-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)

    def test_the_budget_pays_for_the_aggregator_first(self) -> None:
        driver = made_of(["one", "two", "three"], limits=Limits(max_calls=2))
        assert (driver.text, len(driver.upstream.calls)) == ("The one answer.", 2)
        assert driver.run.ledger.exhausted is None

    def test_where_nothing_remains_it_is_an_error(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("null_content"),))
        assert proxy.ask("self_moa-sim").status_code == 502

    def test_half_of_the_calls_refused_for_their_length(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(400, probability=0.5),))
        for _ in range(5):
            assert "boxed" in proxy.text("self_moa-sim")


@pytest.mark.parametrize("support", ["honoured", "ignored", "refused"])
def test_what_the_upstream_does_with_n(
    proxy: InProcess, sim: SimulatorThread, support: str
) -> None:
    sim.behave(n=support)
    answer = proxy.ask("self_moa-sim", n=2).json
    assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 14)


def test_inside_pipelines(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("none&self_moa-sim").json["optillm"]["calls"] == 8
    (aggregator,) = (call for call in calls(sim, "aggregator"))
    assert "<draft>" in prompt(aggregator)
    assert len(proxy.ask("self_moa|none-sim").json["choices"]) == 2


def test_another_language_and_code_pass_through() -> None:
    said = '好的：\n```rust\nfn main() { println!("{}", 42); }\n```'
    driver = made_of([said, said], final=said, outlet=Live())
    assert driver.text == said
    assert said in prompt(driver.upstream.calls[-1])
