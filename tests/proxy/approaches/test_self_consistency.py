"""Self-consistency: a vote on answers, ended as soon as it is decided, never changed by that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from conftest import InProcess, content_of, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.answers import extract, normalise
from proxy.errors import UpstreamError
from proxy.upstream.port import Call
from proxy.voting import Tally, beta_stop, decided, dirichlet_stop


def vote(
    said: Sequence[Any], *, computed: bool = False, **options: Any
) -> tuple[str, FakeUpstream]:
    """What the client gets of these samples, which land in this order; behind them all fail.

    ``computed``: what compares formulas has been started, which may take longer than it is given.
    """
    answers: Iterator[Any] = iter(said)

    async def run() -> tuple[str, FakeUpstream]:
        driver = Driver(FakeUpstream(lambda _: next(answers, UpstreamError("no more"))))
        try:
            if computed:
                calculator = driver.run.services.calculator
                assert await calculator.equivalent("x+x", "2x", timeout=60.0)
            await driver.play("self_consistency", **{"samples": len(said), **options})
        finally:
            await driver.run.services.calculator.close()
        return driver.text, driver.upstream

    return asyncio.run(run())


def elected(said: Sequence[Any]) -> str:
    return vote(said)[0]


def waves(upstream: FakeUpstream) -> list[int]:
    """How many samples were drawn at once."""
    return list(Counter(call.stage for call in upstream.calls).values())


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
        assert vote(samples, computed=True)[0] == "Expanded it is \\boxed{x^2+x}."

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


class TestFailedSamples:
    @pytest.mark.parametrize("lost", [UpstreamError("down"), completion(None)])
    def test_are_drawn_once_more(self, lost: Any) -> None:
        text, upstream = vote([lost, "\\boxed{1}", "\\boxed{2}", "\\boxed{2}"], samples=3)
        assert (text, waves(upstream)) == ("\\boxed{2}", [3, 1])

    def test_once_and_no_more(self) -> None:
        down = UpstreamError("down")
        text, upstream = vote([down, "\\boxed{1}", "\\boxed{2}", down, "\\boxed{2}"], samples=3)
        assert (text, waves(upstream)) == ("\\boxed{1}", [3, 1])

    def test_are_not_missed_where_the_vote_is_decided(self) -> None:
        said = [UpstreamError("down"), "\\boxed{1}", "\\boxed{1}"]
        assert waves(vote(said)[1]) == [3]

    def test_all_of_them_are_an_error(self) -> None:
        async def run() -> None:
            driver = Driver(FakeUpstream(lambda _: UpstreamError("down")))
            with pytest.raises(UpstreamError):
                await driver.play("self_consistency")
            assert len(driver.upstream.calls) == 5

        asyncio.run(run())

    def test_a_wave_of_them_leaves_the_answer_of_what_there_was(self) -> None:
        text, upstream = vote(["\\boxed{1}", "\\boxed{2}"] * 2, samples=8, stop="beta")
        assert (text, waves(upstream)) == ("\\boxed{1}", [4, 4])

    def test_the_seeds_of_others_are_new(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50, faults=(Fault(500, times=1),))
        optillm = proxy.ask("self_consistency-sim", seed=40).json["optillm"]
        seeds = [(call.body or {})["seed"] for call in sim.log.records]
        assert sorted(seeds)[-1] == 45
        assert len(seeds) == optillm["calls"] == 6


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
    answer = proxy.ask("self_consistency-sim", optillm_budget={"max_seconds": 1.5}).json
    assert answer["choices"][0]["message"]["content"].endswith("\\boxed{391}.")
    assert answer["optillm"]["exhausted"] == "deadline"
    assert eventually(lambda: sim.log.inflight == 0)


def test_a_json_answer_votes_by_its_field(proxy: InProcess, sim: SimulatorThread) -> None:
    said = proxy.text("self_consistency-sim", response_format={"type": "json_object"})
    assert said == '{"answer":391}'


class TestStoppingRules:
    @pytest.mark.parametrize("rule", ["beta", "dirichlet"])
    def test_four_that_agree_are_likely_enough(self, rule: str) -> None:
        text, upstream = vote(["\\boxed{7}"] * 40, stop=rule)
        assert (text, waves(upstream)) == ("\\boxed{7}", [4])

    def test_only_dirichlet_counts_all_rivals(self) -> None:
        """Six against one and one: the runner-up alone is far enough behind."""
        said = [f"\\boxed{{{answer}}}" for answer in (1, 2, 3, 1, 1, 1, 1, 1)]
        assert waves(vote(said, samples=20, stop="beta")[1]) == [4, 3, 3]
        assert len(waves(vote(said, samples=20, stop="dirichlet")[1])) > 3

    @pytest.mark.parametrize("rule", ["beta", "dirichlet"])
    @pytest.mark.parametrize("confidence", [0.9, 0.95])
    def test_they_never_stop_outside_of_their_boundary(self, rule: str, confidence: float) -> None:
        for seed in range(40):
            said = Random(seed).choices("abc", (5, 3, 2), k=16)
            _, upstream = vote(
                [f"\\boxed{{{answer}}}" for answer in said], stop=rule, confidence=confidence
            )
            assert len(upstream.calls) == _least(said, rule, confidence)

    def test_beta_at_forty_samples_costs_ten_and_is_nearly_always_right(self) -> None:
        """Exactly: of each path through its waves the odds, the cost and the answer."""
        _, upstream = vote([f"\\boxed{{{n}}}" for n in range(40)], stop="beta")
        sizes = waves(upstream)
        assert sum(sizes) == 40
        running, p = {(0, 0): 1.0}, 0.8
        right = cost = 0.0
        for size in sizes:
            cost += size * sum(running.values())
            for _ in range(size):
                following: dict[tuple[int, int], float] = {}
                for (i, j), mass in running.items():
                    for a, b, chance in ((i + 1, j, p * mass), (i, j + 1, mass - p * mass)):
                        if beta_stop(max(a, b), min(a, b)) or a + b == 40:
                            right += chance * (a > b) + chance * (a == b) / 2
                        else:
                            following[a, b] = following.get((a, b), 0.0) + chance
                running = following
        assert cost <= 10
        assert right >= 0.998

    @pytest.mark.parametrize(
        ("said", "sizes"),
        [
            ("aaaaa" + "b" * 15, [5]),
            ("aabaa" + "aaaaa" + "b" * 10, [5, 5]),
            ("abcde" + "fghij" + "klmno" + "pqrst", [5] * 4),
        ],
    )
    def test_esc_ends_with_a_unanimous_window(self, said: str, sizes: list[int]) -> None:
        text, upstream = vote([f"\\boxed{{{letter}}}" for letter in said], stop="esc")
        assert (text, waves(upstream)) == ("\\boxed{a}", sizes)

    def test_esc_takes_a_void_sample_for_dissent(self) -> None:
        said = ["\\boxed{1}", cut("\\boxed{1}"), *["\\boxed{1}"] * 6]
        assert waves(vote(said, stop="esc", window=2)[1]) == [2, 2]

    def test_off_waits_for_all(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(latency=0.02, sigma=1.0)
        options = {"stop": "off"}
        answer = proxy.ask("self_consistency-sim", optillm_options=options, optillm_trace=True)
        assert [call["outcome"] for call in answer.json["optillm"]["trace"]] == ["ok"] * 5


def _least(said: Sequence[str], rule: str, confidence: float) -> int:
    """How many of 16 are drawn where no wave begins once the rule or the vote is over."""
    tally: Tally[str] = Tally()
    for heard, ballot in enumerate(said, start=1):
        tally.add(ballot)
        first, second = map(int, tally.top_two)
        others = [int(count) for key, count in tally.counts.items() if key != tally.leader]
        enough = {
            "beta": beta_stop(first, second, confidence),
            "dirichlet": dirichlet_stop([first, *others], confidence),
        }
        if enough[rule] or decided(tally, len(said) - heard):
            break
    return next(drawn for drawn in (4, 7, 10, 16) if drawn >= heard)


def sure(text: str, *logprobs: Any) -> Any:
    """A sample whose tokens have these log-probabilities."""
    entries = [{"token": "x", "logprob": value, "top_logprobs": []} for value in logprobs]
    choice = {
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": entries},
    }
    return completion(text, choices=[choice])


class TestConfidence:
    SAID = (
        sure("\\boxed{1}", -4.0, -4.5),
        sure("\\boxed{1}", -3.9),
        sure("\\boxed{2}", -0.01, 0.0),
    )

    def test_one_that_is_sure_outvotes_two_that_guess(self) -> None:
        assert vote(self.SAID, weights="confidence")[0] == "\\boxed{2}"
        assert vote(self.SAID, weights="count")[0] == "\\boxed{1}"

    @pytest.mark.parametrize("unusable", [(), (None,), ("-1",), (float("nan"),)])
    def test_without_log_probabilities_votes_are_counted(self, unusable: Any) -> None:
        said = [sure("\\boxed{1}", *unusable), "\\boxed{2}", "\\boxed{2}"]
        assert vote(said, weights="confidence")[0] == "\\boxed{2}"

    def test_it_alone_asks_for_log_probabilities(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        for weights, asked in (("count", None), ("confidence", True)):
            sim.reset()
            options = {"weights": weights}
            answer = proxy.ask("self_consistency-sim", optillm_options=options).json
            assert {(call.body or {}).get("logprobs") for call in sim.log.records} == {asked}
            # The client has not asked for them.
            assert not answer["choices"][0].get("logprobs")

    def test_a_client_that_asks_gets_those_of_its_answer(self, proxy: InProcess) -> None:
        options = {"weights": "confidence"}
        answer = proxy.ask("self_consistency-sim", optillm_options=options, logprobs=True).json
        (choice,) = answer["choices"]
        said = "".join(entry["token"] for entry in choice["logprobs"]["content"])
        assert said == choice["message"]["content"]


@pytest.mark.parametrize(
    ("said", "winner"),
    [
        (["答案是 42。", "**答案：42**", "The answer is 41."], "答案是 42。"),
        (["La respuesta es 7.", "Die Antwort ist 7.", "8"], "La respuesta es 7."),
        (["```python\nx = 1\n```", "```python\nx = 1\n```", "\\boxed{1}"], "```python\nx = 1\n```"),
    ],
)
def test_other_languages_and_code_are_classed_too(said: list[str], winner: str) -> None:
    assert elected(said) == winner


def test_a_conversation_too_long_for_half_of_the_calls(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault(400, probability=0.5),), seed=3)
    answer = proxy.ask("self_consistency-sim", optillm_options={"samples": 8})
    assert answer.status_code == 200
    assert "391" in answer.json["choices"][0]["message"]["content"]


def test_a_spent_budget_ends_the_waves(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.0, distractors=(1.0,) * 50)
    options, budget = {"samples": 20, "stop": "beta"}, {"max_calls": 6}
    answer = proxy.ask("self_consistency-sim", optillm_options=options, optillm_budget=budget).json
    assert (answer["optillm"]["calls"], answer["optillm"]["exhausted"]) == (6, "max_calls")
    assert answer["choices"][0]["message"]["content"]
