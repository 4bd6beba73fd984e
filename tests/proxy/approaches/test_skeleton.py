"""Skeleton of thought: points side by side, sent in order, and none where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import QUESTION, InProcess, content_of, eventually
from driving import Driver, FakeUpstream, Live, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.upstream.port import Call

OUTLINE = "1. First things\n2. Second things\n3. Third things"
NEVER = UpstreamError("down")


def prompt(call: Call) -> str:
    text: str = call.body["messages"][-1]["content"]
    return text


def part(call: Call) -> int:
    """Which point a call writes; 0 for the outline, -1 for a direct answer."""
    text = prompt(call)
    if "Outline an answer" in text:
        return 0
    return int(text.partition("Write part ")[2][0]) if "Write part " in text else -1


class Model:
    """``respond`` to each point, outline and direct answer, or None for the usual words."""

    def __init__(
        self, respond: Callable[[int, int], Any] = lambda *_: None, outline: Any = OUTLINE
    ) -> None:
        self.seen: dict[int, int] = {}
        self._respond = respond
        self._outline = outline
        self.upstream = FakeUpstream(self._say)

    def _say(self, call: Call) -> Any:
        number = part(call)
        attempt = self.seen[number] = self.seen.get(number, 0) + 1
        said = self._respond(number, attempt)
        if said is not None:
            return said
        return {0: self._outline, -1: "Directly."}.get(number, f"Text {number}.")

    def play(self, *members: Member, params: Any = None, outlet: Any = None) -> Driver:
        async def run() -> Driver:
            driver = Driver(self.upstream, *members, params=params, outlet=outlet)
            self.ended = await driver.play("skeleton")
            assert self.upstream.running == 0
            return driver

        return asyncio.run(run())


ANSWER = (
    "**1. First things**\n\nText 1.\n\n**2. Second things**\n\nText 2.\n\n"
    "**3. Third things**\n\nText 3."
)


class TestPoints:
    def test_all_are_written_side_by_side_and_put_together_in_order(self) -> None:
        model = Model()
        driver = model.play()
        assert driver.text == ANSWER
        assert (len(model.upstream.calls), driver.run.ledger.rounds) == (4, 2)

    def test_each_is_sent_as_soon_as_it_and_all_before_it_are_there(self) -> None:
        outlet = Live()
        seen: list[str] = []

        async def slowly(number: int) -> str:
            # The second waits until the first has been sent, the first for the third.
            while number == 2 and "Text 1." not in outlet.text:
                await asyncio.sleep(0)
            while number == 1 and not model.seen.get(3):
                await asyncio.sleep(0)
            seen.append(outlet.text)
            return f"Text {number}."

        model = Model(lambda number, _: slowly(number) if number > 0 else None)
        assert model.play(outlet=outlet).text == ANSWER
        assert "**1. First things**\n\nText 1." in seen

    def test_what_a_model_thinks_aloud_is_not_between_them(self) -> None:
        model = Model(lambda number, _: "<think>hm</think>Text." if number > 0 else None)
        assert "hm" not in model.play().text

    @pytest.mark.parametrize(
        ("outline", "points"),
        [
            ("1) Eins\n2) Zwei", ["Eins", "Zwei"]),
            ("Sure:\n\n**1. One**\n**2. Two**\n   - a detail", ["One", "Two"]),
            ("1、第一\n2、第二", ["第一", "第二"]),
            ("1. Same\n2. Same\n3. Other", ["Same", "Other"]),
        ],
    )
    def test_of_outlines_in_many_forms(self, outline: str, points: list[str]) -> None:
        text = Model(outline=outline).play().text
        assert all(f"**{n}. {point}**" in text for n, point in enumerate(points, start=1))
        assert f"**{len(points) + 1}." not in text

    @pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
    def test_the_clients_limit_is_that_of_all_together(self, limit: str) -> None:
        model = Model()
        model.play(params={limit: 300, "logprobs": True})
        bodies = [call.body for call in model.upstream.calls if part(call) > 0]
        assert all(body[limit] == 100 and "logprobs" not in body for body in bodies)


class TestDirectly:
    @pytest.mark.parametrize("outline", ["This is a calculation.", "1. Only one", NEVER, ""])
    def test_where_there_are_no_points(self, outline: Any) -> None:
        model = Model(outline=outline)
        driver = model.play()
        assert driver.text == "Directly."
        assert len(model.upstream.calls) == 2

    def test_that_streams(self) -> None:
        outlet = Live()
        Model(outline="A proof.").play(outlet=outlet)
        assert len(outlet.deltas) > 3


class TestFaults:
    @pytest.mark.parametrize("fault", [NEVER, completion(None), ""])
    def test_a_point_that_fails_is_written_once_more(self, fault: Any) -> None:
        model = Model(lambda number, attempt: fault if (number, attempt) == (2, 1) else None)
        assert model.play().text == ANSWER
        assert model.ended.finish_reason == "stop"

    def test_one_that_cannot_be_written_is_missing_and_that_is_told(self) -> None:
        model = Model(lambda number, _: NEVER if number == 2 else None)
        text = model.play().text
        assert text == ANSWER.replace("**2. Second things**\n\nText 2.\n\n", "")
        assert model.ended.finish_reason == "length"

    def test_one_that_is_cut_short_is_told_of(self) -> None:
        cut = completion("Text 2")
        cut["choices"][0]["finish_reason"] = "length"
        model = Model(lambda number, _: cut if number == 2 else None)
        assert "Text 2\n\n" in model.play().text
        assert model.ended.finish_reason == "length"

    def test_an_error_only_where_nothing_is_left(self) -> None:
        with pytest.raises(UpstreamError):
            Model(lambda *_: NEVER).play()


class TestAtTheSimulator:
    def test_it_takes_what_it_declares(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(latency=0.2)
        optillm = proxy.ask("skeleton-sim", optillm_options={"points": 5}).json["optillm"]
        assert (optillm["calls"], optillm["rounds"], sim.log.peak) == (6, 2, 5)
        assert sim.log.rounds == 2

    def test_in_a_stream_the_text_is_the_same(self, proxy: InProcess, sim: SimulatorThread) -> None:
        chunks = proxy.stream("skeleton-sim")
        text = content_of(chunks)
        assert [text.count(f"**{number}. Point") for number in range(1, 10)] == [1] * 8 + [0]
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"

    def test_the_clients_instructions_and_history_are_in_front_of_every_call(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        messages = [
            {"role": "system", "content": "Sei höflich."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": QUESTION},
        ]
        assert proxy.post(json={"model": "skeleton-sim", "messages": messages}).status_code == 200
        for call in sim.log.records:
            sent = (call.body or {})["messages"]
            assert sent[:3] == messages[:3]
            assert sent[3]["content"].startswith(QUESTION)

    def test_a_conversation_that_is_too_long_for_half_of_the_calls(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(400, role="solver", probability=0.5),))
        assert "391" in proxy.text("skeleton-sim")

    def test_a_deadline_ends_behind_what_has_been_sent(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("hang", role="solver", times=1, probability=0.3),), seed=1)
        answer = proxy.ask("skeleton-sim", optillm_budget={"max_seconds": 2.0}).json
        assert answer["choices"][0]["message"]["content"].count("**") == 14
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)

    def test_a_budget_too(self, proxy: InProcess, sim: SimulatorThread) -> None:
        answer = proxy.ask("skeleton-sim", optillm_budget={"max_calls": 3}).json
        assert "**2. " in answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["optillm"]["exhausted"] == "max_calls"

    def test_it_hands_its_answer_on_and_takes_one(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        assert proxy.ask("skeleton&none-sim").json["optillm"]["calls"] == 10
        sim.reset()
        assert proxy.ask("none&skeleton-sim").json["optillm"]["calls"] == 10
        last = [(call.body or {})["messages"][-1]["content"] for call in sim.log.records[1:]]
        assert all("<draft>" in text for text in last)


def test_an_ensembles_members_play_their_parts() -> None:
    model = Model()
    model.play(Member("a", "proposer"), Member("b", "proposer"), Member("h", "helper"))
    assert model.upstream.models_called[0] == "h"
    assert set(model.upstream.models_called[1:]) == {"a", "b"}
