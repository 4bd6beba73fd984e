"""Best of n: each candidate rated on its own, as it lands, by a judge that may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import QUESTION, InProcess
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.errors import UpstreamError
from proxy.upstream.port import Call, Json

SYSTEM = {"role": "system", "content": "Answer in {braces} like a pirate."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def judged(sim: SimulatorThread) -> list[list[dict[str, Any]]]:
    """The messages of each call to the judge."""
    found = [(call.body or {})["messages"] for call in sim.log.records if call.role == "judge"]
    assert found
    return found


def candidates(sim: SimulatorThread) -> list[str]:
    return [str(call.content) for call in sim.log.records if call.role == "solver"]


class TestWhatTheJudgeIsAsked:
    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_one_system_message_and_that_in_front(
        self, proxy: InProcess, sim: SimulatorThread, role: str
    ) -> None:
        messages = [
            {**SYSTEM, "role": role},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Ahoy!"},
            {"role": "user", "content": QUESTION},
        ]
        response = proxy.post(json={"model": "bon-sim", "messages": messages})
        assert response.status_code == 200
        for asked in judged(sim):
            assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
            # The judge must know by what rules the candidate was written.
            assert SYSTEM["content"] in asked[0]["content"]
            assert asked[0]["content"] != SYSTEM["content"]
            assert asked[1:3] == messages[1:3]

    def test_one_there_is_even_where_the_client_sends_none(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("bon-sim")
        for asked in judged(sim):
            assert [m["role"] for m in asked] == ["system", "user"]

    def test_the_question_a_whole_candidate_and_how_to_end(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=1500)
        proxy.ask("bon-sim")
        asked = [messages[-1]["content"] for messages in judged(sim)]
        for text in asked:
            assert text.startswith(QUESTION)
            assert text.endswith("\nScore: [0-10]")
        shown = [c for c in candidates(sim) if any(c in text for text in asked)]
        assert len(set(shown)) == 3
        assert all(sum(c in text for c in shown) == 1 for text in asked)

    def test_pictures_come_along(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask("bon-sim", [PICTURE, {"type": "text", "text": QUESTION}])
        for asked in judged(sim):
            assert asked[-1]["content"][:2] == [PICTURE, {"type": "text", "text": QUESTION}]

    def test_the_candidates_see_nothing_of_all_this(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("bon-sim")
        solvers = [c.body or {} for c in sim.log.records if c.role == "solver"]
        assert all(b["messages"] == [{"role": "user", "content": QUESTION}] for b in solvers)


class TestWhoWins:
    def test_the_wording_that_the_judge_prefers(self) -> None:
        answers = iter(["It is red.", "It is blue.", "It is green."])

        def rate(candidate: str) -> str:
            return "Lovely. Score: 9" if "blue" in candidate else "Score: 3"

        assert best_of(answers, rate) == "It is blue."

    @pytest.mark.parametrize("verdict", ["8/10", "Rating: 8", "**8**", "<think>3</think>Score: 8"])
    def test_however_the_judge_puts_it(self, verdict: str) -> None:
        answers = iter(["bad", "good"])
        said = best_of(answers, lambda c: verdict if "good" in c else "Score: 7.5", samples=2)
        assert said == "good"

    def test_the_earlier_of_equals(self) -> None:
        assert best_of(iter("abc"), lambda _: "Score: 5") == "a"

    def test_a_complete_answer_before_a_truncated_one(self) -> None:
        answers = iter([completion_of("cut", "length"), "whole"])
        said = best_of(answers, lambda c: "Score: 10" if "cut" in c else "Score: 1", samples=2)
        assert said == "whole"

    def test_the_best_truncated_one_where_all_are(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("length", role="solver"),))
        choice = proxy.ask("bon-sim").json["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] in candidates(sim)

    def test_a_rated_answer_before_one_that_nobody_rated(self) -> None:
        def rate(candidate: str) -> Any:
            return UpstreamError("down") if "first" in candidate else "Score: 0"

        assert best_of(iter(["first", "second"]), rate, samples=2) == "second"

    @pytest.mark.parametrize("verdict", [UpstreamError("down"), "No idea.", ""])
    def test_a_judge_that_never_rates_costs_no_candidate(self, verdict: Any) -> None:
        assert best_of(iter("abc"), lambda _: verdict) == "a"

    def test_alone_it_is_rated_and_returned(self) -> None:
        assert best_of(iter("a"), lambda _: "Score: 0", samples=1) == "a"


class TestPipelining:
    def test_each_is_rated_as_it_lands(self) -> None:
        """The first candidate's rating is asked for while the others are still being written."""

        async def run() -> None:
            slow, rated = asyncio.Event(), asyncio.Event()
            written = 0

            async def respond(call: Call) -> str:
                nonlocal written
                if is_judge(call):
                    rated.set()
                    return "Score: 5"
                written += 1
                if written > 1:
                    await slow.wait()
                return f"answer {written}"

            driver = Driver(FakeUpstream(respond))
            playing = asyncio.create_task(driver.play("bon"))
            async with asyncio.timeout(30):
                await rated.wait()
                slow.set()
                await playing
            assert driver.run.ledger.rounds == 2

        asyncio.run(run())

    def test_ratings_overlap_with_samples_at_the_upstream(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=0.1, sigma=1.0)
        proxy.ask("bon-sim", optillm_options={"samples": 6})
        starts = [call.start for call in sim.log.records if call.role == "judge"]
        ends = [call.end or 0.0 for call in sim.log.records if call.role == "solver"]
        assert min(starts) < max(ends)


class TestFailedCandidates:
    @pytest.mark.parametrize("lost", [UpstreamError("down"), completion(None)])
    def test_are_drawn_once_more(self, lost: Any) -> None:
        def rate(shown: str) -> str:
            return "Score: 9" if "Three" in shown else "Score: 5"

        assert best_of(iter([lost, "One.", "Two.", "Three."]), rate) == "Three."
        # Nothing is behind these: another attempt would raise.
        assert best_of(iter([lost, "One.", "Two.", lost]), rate) == "One."

    def test_all_of_them_are_an_error(self) -> None:
        with pytest.raises(UpstreamError):
            best_of(iter([UpstreamError("down")] * 3), lambda _: "Score: 5")


class TestTimeAndBudget:
    def test_an_unrated_candidate_is_better_than_no_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("hang", role="judge"),))
        answer = proxy.ask("bon-sim", optillm_budget={"max_seconds": 1.5}).json
        assert answer["choices"][0]["message"]["content"] in candidates(sim)
        assert answer["optillm"]["exhausted"] == "deadline"

    def test_the_best_rated_so_far_is_kept(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(faults=(Fault("hang", role="solver", times=1),))
        answer = proxy.ask("bon-sim", optillm_budget={"max_seconds": 1.5}).json
        assert answer["choices"][0]["message"]["content"] in candidates(sim)

    def test_ratings_that_cannot_be_paid_for_are_left_out_and_that_is_told(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        answer = proxy.ask("bon-sim", optillm_budget={"max_total_tokens": 1}).json
        assert answer["choices"][0]["message"]["content"] in candidates(sim)
        assert answer["optillm"]["exhausted"] == "max_total_tokens"
        assert all(call.role == "solver" for call in sim.log.records)


def test_the_peers_name_for_its_option(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("bon-sim", best_of_n=2).json["optillm"]["calls"] == 4
    assert "best_of_n" not in (sim.log.records[0].body or {})


def is_judge(call: Call) -> bool:
    return str(call.body["messages"][-1]["content"]).endswith("Score: [0-10]")


def completion_of(text: str, finish_reason: str) -> Json:
    message = {"role": "assistant", "content": text}
    return completion(text, choices=[{"message": message, "finish_reason": finish_reason}])


def best_of(answers: Iterator[Any], rate: Callable[[str], Any], samples: int = 3) -> str:
    """What bon returns, given the candidates in order and a judge."""

    def respond(call: Call) -> Any:
        if not is_judge(call):
            return next(answers)
        shown = call.body["messages"][-1]["content"]
        return rate(shown.partition("<candidate>")[2].partition("</candidate>")[0])

    async def run() -> str:
        driver = Driver(FakeUpstream(respond))
        await driver.play("bon", samples=samples)
        return driver.text

    return asyncio.run(run())
