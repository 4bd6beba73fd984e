"""DeepConf: confidence by groups of tokens, traces cancelled in mid-stream, weighted votes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import QUESTION, InProcess, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Call, Fault, SimulatorThread
from proxy.confidence import GroupConfidence, lowest_group, percentile, token_confidences
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.upstream import port
from proxy.upstream.port import Json

NEVER = UpstreamError("down")
SPLIT: dict[str, Any] = {"probability": 0.5, "distractors": (1.0,) * 9, "tokens": 200}


def entries(confidences: Sequence[float]) -> Json:
    """Log-probabilities of tokens that are so confident."""
    return {
        "content": [
            {"token": "x", "logprob": -0.1, "top_logprobs": [{"logprob": 0.0}, {"logprob": -2 * c}]}
            for c in confidences
        ]
    }


class TestConfidence:
    def test_a_tokens_is_the_mean_of_its_candidates(self) -> None:
        assert list(token_confidences(entries([1.0, 2.5]))) == [1.0, 2.5]

    @pytest.mark.parametrize(
        "logprobs",
        [
            None,
            {},
            {"content": None},
            {"content": [{"token": "x", "logprob": -1.0}]},
            {"content": [{"token": "x", "top_logprobs": [{"logprob": -1.0}]}]},
            {"content": [{"token": "x", "top_logprobs": [{"logprob": None}, {"logprob": "nan"}]}]},
        ],
    )
    def test_what_cannot_be_told_is_left_out(self, logprobs: Any) -> None:
        assert list(token_confidences(logprobs)) == []

    def test_a_group_counts_once_it_is_full(self) -> None:
        group = GroupConfidence(3)
        assert [group.add(c) for c in (3.0, 3.0, 0.0, 0.0, 9.0)] == [None, None, 2.0, 1.0, 3.0]
        assert group.lowest == 1.0

    def test_a_short_trace_is_a_group_by_itself(self) -> None:
        assert lowest_group([2.0, 4.0], window=10) == 3.0
        assert lowest_group([], window=10) is None

    @pytest.mark.parametrize(
        ("share", "expected"), [(0.0, 1.0), (1.0, 5.0), (0.5, 3.0), (0.9, 4.6), (0.1, 1.4)]
    )
    def test_percentiles_are_interpolated(self, share: float, expected: float) -> None:
        assert percentile([5.0, 1.0, 3.0, 2.0, 4.0], share) == pytest.approx(expected)


class Traces(FakeUpstream):
    """``trace(number)`` is an answer and its tokens' confidences; None fails."""

    def __init__(self, trace: Callable[[int], tuple[str, Sequence[float]] | None]) -> None:
        super().__init__(self._answer)
        self._trace = trace
        self.cut_after: dict[int, int] = {}

    def _answer(self, call: port.Call) -> Any:
        found = self._trace(len(self.calls))
        if found is None:
            return NEVER
        answer = completion(f"So \\boxed{{{found[0]}}}.")
        answer["choices"][0]["logprobs"] = entries(found[1]) if found[1] else None
        return answer

    @asynccontextmanager
    async def stream(self, call: port.Call) -> AsyncIterator[AsyncIterator[Sequence[Json]]]:
        number = len(self.calls) + 1
        answer = await self.complete(call)
        choice = answer["choices"][0]

        async def chunks() -> AsyncIterator[Sequence[Json]]:
            said, told = choice["message"]["content"], (choice["logprobs"] or {}).get("content", [])
            for place, entry in enumerate(told):
                self.cut_after[number] = place + 1
                await asyncio.sleep(0)
                text = said if place == len(told) - 1 else ""
                delta = {"delta": {"content": text}, "logprobs": {"content": [entry]}}
                yield [{"choices": [{"index": 0, **delta}]}]
            if not told:
                yield [{"choices": [{"index": 0, "delta": {"content": said}}]}]
            yield [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]

        yield chunks()

    def play(self, *members: Member, params: Any = None, **options: Any) -> Driver:
        async def run() -> Driver:
            driver = Driver(self, *members, params=params)
            await driver.play("deepconf", **options)
            assert self.running == 0
            return driver

        return asyncio.run(run())


class TestVote:
    def test_confidence_outweighs_numbers(self) -> None:
        """Three unsure ones against one that is sure."""
        traces = Traces(lambda n: ("42", [9.0] * 8) if n == 4 else ("41", [1.0] * 8))
        assert traces.play(warmup=4, samples=4).text == "So \\boxed{42}."

    def test_weights_are_summed_not_averaged(self) -> None:
        """OptiLLM's takes the answer with the highest mean: one sure trace beats nine."""
        traces = Traces(lambda n: ("41", [15.5] * 8) if n == 1 else ("42", [15.0] * 8))
        assert traces.play(warmup=10, samples=10).text == "So \\boxed{42}."

    def test_a_single_doubtful_passage_counts(self) -> None:
        dip = [9.0] * 12 + [0.0] * 4
        traces = Traces(lambda n: ("41", dip) if n < 4 else ("42", [4.0] * 16))
        assert traces.play(warmup=4, samples=4).text == "So \\boxed{42}."

    def test_a_consensus_after_the_warm_up_ends_it(self) -> None:
        traces = Traces(lambda n: ("42", [3.0] * 8))
        driver = traces.play(warmup=4, samples=12)
        assert (len(traces.calls), driver.run.ledger.rounds) == (4, 1)

    @pytest.mark.parametrize("answer", ["x = 2", "Köln", "四十二"])
    def test_of_answers_of_any_kind(self, answer: str) -> None:
        traces = Traces(lambda n: (answer, [5.0] * 8) if n % 2 else ("7", [1.0] * 8))
        assert answer in traces.play(warmup=4, samples=4).text


class TestCancelling:
    def test_a_trace_is_left_in_the_middle_once_it_is_below_the_threshold(self) -> None:
        sinking = [9.0] * 6 + [0.0] * 30

        def trace(number: int) -> tuple[str, Sequence[float]]:
            return (str(number), [5.0] * 8) if number <= 4 else ("99", sinking)

        traces = Traces(trace)
        driver = traces.play(warmup=4, samples=6)
        assert set(traces.cut_after) == {5, 6}
        assert all(6 < tokens < 36 for tokens in traces.cut_after.values())
        assert "99" not in driver.text

    def test_high_goes_on_where_low_does_not(self) -> None:
        def finished(variant: str) -> int:
            def trace(number: int) -> tuple[str, Sequence[float]]:
                return str(number), [float(number)] * 8 if number <= 5 else [3.0] * 8

            traces = Traces(trace)
            traces.play(warmup=5, samples=7, variant=variant)
            return sum(tokens == 8 for tokens in traces.cut_after.values())

        assert (finished("low"), finished("high")) == (0, 2)

    def test_at_the_upstream_connections_are_closed_before_the_last_word(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**SPLIT, chunk_interval=0.02)
        optillm = proxy.ask("deepconf-sim").json["optillm"]
        assert eventually(lambda: sim.log.inflight == 0)
        cut = [call for call in sim.log.records if call.stream and call.peer_left]
        assert cut
        assert sim.log.dropped == len(cut)
        assert all((call.body or {})["logprobs"] for call in sim.log.records)
        assert (optillm["calls"], optillm["rounds"]) == (16, 2)


class TestWithoutLogprobs:
    def test_it_is_a_plain_vote_and_that_is_noted(self) -> None:
        answers = iter(["1", "2", "3", "4", "42", "42", "42", "42"])
        traces = Traces(lambda n: (next(answers), []))
        driver = traces.play(warmup=4, samples=8)
        assert driver.text == "So \\boxed{42}."
        assert len(traces.calls) == 8

    def test_so_it_is_where_some_of_the_warm_up_have_none(self) -> None:
        traces = Traces(lambda n: ("41", [99.0] * 8) if n == 1 else ("42", []))
        assert traces.play(warmup=3, samples=3).text == "So \\boxed{42}."


class TestFaults:
    def test_what_failed_in_the_warm_up_is_drawn_again_once(self) -> None:
        traces = Traces(lambda n: None if n < 3 else (str(n), [1.0] * 8))
        traces.play(warmup=4, samples=4)
        assert len(traces.calls) == 6

    def test_streams_that_fail_are_left_out(self) -> None:
        traces = Traces(lambda n: (str(n % 2), [float(n)] * 8) if n <= 4 else None)
        assert traces.play(warmup=4, samples=8).text == "So \\boxed{0}."

    def test_an_error_only_where_nothing_is_left(self) -> None:
        with pytest.raises(UpstreamError):
            Traces(lambda n: None).play()

    @pytest.mark.parametrize("kind", ["null_content", "stream_cut", "stream_error", "length"])
    def test_of_the_upstream(self, proxy: InProcess, sim: SimulatorThread, kind: str) -> None:
        sim.behave(faults=(Fault(kind, probability=0.4),), seed=3)
        assert "391" in proxy.text("deepconf-sim")

    def test_a_conversation_that_is_too_long_for_half_of_the_calls(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(400, probability=0.5),))
        assert "391" in proxy.text("deepconf-sim")

    def test_a_deadline_returns_the_vote_so_far(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**SPLIT, faults=(Fault("hang", times=1),))
        answer = proxy.ask("deepconf-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"

    @pytest.mark.parametrize("most", [8, 9])
    def test_so_does_a_budget(self, proxy: InProcess, sim: SimulatorThread, most: int) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50)
        answer = proxy.ask("deepconf-sim", optillm_budget={"max_calls": most}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "max_calls"
        assert sim.log.choices == most


class TestTheClient:
    def test_sees_log_probabilities_only_where_it_asked(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        assert proxy.ask("deepconf-sim").json["choices"][0].get("logprobs") is None
        asked = proxy.ask("deepconf-sim", logprobs=True).json["choices"][0]
        assert asked["logprobs"]["content"]

    def test_has_its_messages_sent_as_they_are(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**SPLIT)
        messages = [
            {"role": "system", "content": "Sei höflich."},
            {"role": "user", "content": QUESTION},
        ]
        proxy.post(json={"model": "deepconf-sim", "messages": messages, "temperature": 0.9})
        sent: list[Call] = sim.log.records
        assert len(sent) == 16
        assert all((call.body or {})["messages"] == messages for call in sent)
        assert all((call.body or {})["temperature"] == 0.9 for call in sent)

    def test_can_pipe_it(self, proxy: InProcess, sim: SimulatorThread) -> None:
        assert proxy.ask("deepconf&none-sim").json["optillm"]["calls"] == 9
        assert proxy.ask("none&deepconf-sim").json["optillm"]["calls"] == 9

    def test_may_use_the_peers_names(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(probability=0.0, distractors=(1.0,) * 50)
        members = {"warmup_samples": 4, "max_traces": 6}
        assert proxy.ask("deepconf-sim", **members).json["optillm"]["calls"] == 6


def test_an_ensembles_proposers_take_turns() -> None:
    traces = Traces(lambda n: (str(n), [float(n)] * 8))
    traces.play(Member("a", "proposer"), Member("b", "proposer"), warmup=4, samples=8)
    assert sorted(traces.models_called) == ["a"] * 4 + ["b"] * 4
