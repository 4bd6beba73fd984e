"""Self-consistency: a vote on answers, ended as soon as it is decided, never changed by that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from conftest import InProcess, content_of, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.answers import extract, normalise
from proxy.errors import UpstreamError
from proxy.upstream.port import Call


def elected(said: Sequence[Any]) -> str:
    """What the client gets of these samples, which land in this order."""
    answers: Iterator[Any] = iter(said)

    async def run() -> str:
        driver = Driver(FakeUpstream(lambda _: next(answers)))
        try:
            await driver.play("self_consistency", samples=len(said))
        finally:
            await driver.run.services.calculator.close()
        return driver.text

    return asyncio.run(run())


def cut(text: str) -> Any:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return completion(text, choices=[choice])


class TestTheVote:
    def test_is_on_answers_not_on_wordings(self) -> None:
        said = elected(
            [
                "The answer is 41.",
                "The answer is 41.",
                "Six times seven makes \\boxed{42}.",
                "After some thought: the final answer is **42.0**",
                '{"answer": "42"}',
            ]
        )
        assert "42" in said

    def test_puts_numbers_that_are_written_differently_together(self) -> None:
        samples = ["\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{50\\%}", "\\boxed{2}", "\\boxed{2}"]
        assert elected(samples) in samples[:3]

    def test_puts_equal_expressions_together(self) -> None:
        samples = [
            "The answer is \\boxed{7}.",
            "The answer is \\boxed{7}.",
            "Expanded it is \\boxed{x^2+x}.",
            "Factored, the answer is \\boxed{x(x+1)}.",
            "Factored, the answer is \\boxed{x(x+1)}.",
        ]
        assert elected(samples) == "Expanded it is \\boxed{x^2+x}."

    def test_returns_the_shortest_of_the_winners_whole(self) -> None:
        long, short = "So many words, and then: \\boxed{4}", "Short: \\boxed{4}"
        assert elected([long, "\\boxed{5}", short, long, long]) == short

    def test_goes_to_the_first_seen_of_equals(self) -> None:
        assert elected(["\\boxed{2}", "\\boxed{1}", "\\boxed{1}", "\\boxed{2}"]) == "\\boxed{2}"

    def test_reads_what_follows_the_thinking(self) -> None:
        samples = ["<think>\\boxed{1}</think>\\boxed{2}"] * 2 + ["\\boxed{1}"]
        assert elected(samples) == samples[0]


class TestVoidSamples:
    def test_a_truncated_one_casts_no_vote(self) -> None:
        samples = [cut("\\boxed{1}"), cut("\\boxed{1}"), "\\boxed{2}", "Who knows? " * 20]
        assert elected(samples) == "\\boxed{2}"

    def test_an_empty_one_casts_no_vote(self) -> None:
        empty = completion(None)
        assert elected([empty, empty, empty, "\\boxed{2}"]) == "\\boxed{2}"

    def test_a_failed_one_casts_no_vote(self) -> None:
        samples = [UpstreamError("down"), "\\boxed{1}", UpstreamError("down"), "\\boxed{1}"]
        assert elected(samples) == "\\boxed{1}"

    def test_without_any_vote_a_complete_one_is_the_answer(self) -> None:
        story = "Once upon a time there was a proxy. " * 5
        assert elected([cut("Once upon"), story, story]) == story

    def test_a_truncated_one_is_better_than_nothing(self) -> None:
        assert elected([cut("Once upon"), completion(None)]) == "Once upon"


class TestCurtailment:
    def test_what_is_in_flight_is_cancelled_once_the_vote_is_decided(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("hang", times=2),))
        optillm = proxy.ask("self_consistency-sim", optillm_trace=True).json["optillm"]
        assert sorted(c["outcome"] for c in optillm["trace"]) == ["cancelled"] * 2 + ["ok"] * 3
        assert eventually(lambda: sim.log.inflight == 0)
        assert sim.log.dropped == 2

    def test_an_open_vote_waits_for_all(self) -> None:
        async def run() -> None:
            doors = [asyncio.Event() for _ in range(3)]
            texts = ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}"]
            number = iter(range(3))

            async def respond(call: Call) -> str:
                mine = next(number)
                await doors[mine].wait()
                return texts[mine]

            driver = Driver(FakeUpstream(respond))
            playing = asyncio.create_task(driver.play("self_consistency", samples=3))
            for door in doors[:2]:
                door.set()
            done, _ = await asyncio.wait([playing], timeout=0.1)
            assert not done
            doors[2].set()
            await playing
            assert driver.text == "\\boxed{2}"
            assert driver.upstream.cancelled == 0

        asyncio.run(run())

    def test_void_samples_shorten_it_too(self) -> None:
        """Two votes against none, and one sample left that can change nothing."""

        async def run() -> None:
            said = iter(["\\boxed{1}", cut("\\boxed{2}"), UpstreamError("down"), "\\boxed{1}"])
            started = 0

            async def respond(call: Call) -> Any:
                nonlocal started
                started += 1
                if started == 5:
                    await asyncio.Event().wait()
                return next(said)

            driver = Driver(FakeUpstream(respond))
            async with asyncio.timeout(30):
                await driver.play("self_consistency", samples=5)
            assert (driver.text, driver.upstream.cancelled) == ("\\boxed{1}", 1)

        asyncio.run(run())

    @pytest.mark.parametrize("seed", range(12))
    def test_it_elects_what_all_samples_would_have_elected(
        self, proxy: InProcess, sim: SimulatorThread, seed: int
    ) -> None:
        sim.behave(
            seed=seed, probability=0.45, distractors=(2, 1, 1), latency=0.01, sigma=1.0, tokens=4
        )
        model, options = "self_consistency-sim", {"samples": 7}
        curtailed = ballot(proxy.text(model, optillm_options=options))
        # The same dice: samples are numbered by question from the last reset.
        sim.reset()
        sim.behave(latency=0.0)
        choices = proxy.ask("sim", n=7).json["choices"]
        votes = Counter(ballot(choice["message"]["content"]) for choice in choices)
        most = max(votes.values())
        assert curtailed in {answer for answer, count in votes.items() if count == most}


def ballot(text: str) -> str:
    answer = extract(text)
    assert answer is not None
    return normalise(answer)


def test_a_stream_tells_how_many_agree(proxy: InProcess, sim: SimulatorThread) -> None:
    response = proxy.ask("self_consistency-sim", stream=True)
    raw = response.get_data(as_text=True)
    assert ": 3 of 5 samples agree\n" in raw
    assert content_of(proxy.stream("self_consistency-sim")).endswith("\\boxed{391}.")


def test_the_best_so_far_is_kept(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(faults=(Fault("hang", times=3),))
    answer = proxy.ask("self_consistency-sim", optillm_budget={"max_seconds": 0.4}).json
    assert answer["choices"][0]["message"]["content"].endswith("\\boxed{391}.")
    assert answer["optillm"]["exhausted"] == "deadline"
    assert eventually(lambda: sim.log.inflight == 0)


def test_a_json_answer_votes_by_its_field(proxy: InProcess, sim: SimulatorThread) -> None:
    said = proxy.text("self_consistency-sim", response_format={"type": "json_object"})
    assert said == '{"answer":391}'
