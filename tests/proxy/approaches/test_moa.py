"""Mixture of agents: layers of proposals, a critique of all of them, one streamed answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import QUESTION, InProcess, content_of, events
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Call, Fault, SimulatorThread
from proxy.errors import UpstreamError

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def calls(sim: SimulatorThread, role: str) -> list[Call]:
    return [call for call in sim.log.records if call.role == role]


def prompt(call: Call) -> str:
    """The last user turn of a call."""
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def proposals(sim: SimulatorThread) -> list[str]:
    return [str(call.content) for call in calls(sim, "solver")]


class TestCritic:
    def test_it_sees_all_proposals_whole_and_gives_no_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=1500)
        proxy.ask("moa-sim", optillm_options={"samples": 5})
        (critic,) = calls(sim, "stage")
        assert prompt(critic).startswith(QUESTION)
        assert all(proposal in prompt(critic) for proposal in proposals(sim))
        assert prompt(critic).endswith("Do not provide the final answer.")

    def test_its_words_reach_the_aggregator_whole_however_many(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=3000)
        proxy.ask("moa-sim")
        (critic,), (aggregator,) = calls(sim, "stage"), calls(sim, "aggregator")
        assert len(str(critic.content)) > 10_000
        assert str(critic.content) in prompt(aggregator)
        assert "max_tokens" not in (critic.body or {})

    @pytest.mark.parametrize("kind", [400, 429, 500, "reset", "null_content", "malformed"])
    def test_the_answer_does_not_hang_on_it(
        self, proxy: InProcess, sim: SimulatorThread, kind: int | str
    ) -> None:
        sim.behave(faults=(Fault(kind, role="stage", retry_after=0.1),))
        answer = proxy.ask("moa-sim").json
        (aggregator,) = calls(sim, "aggregator")
        assert answer["choices"][0]["message"]["content"] == aggregator.content
        assert all(proposal in prompt(aggregator) for proposal in proposals(sim))
        assert "<critique>" not in prompt(aggregator)

    def test_it_can_be_left_out(self, proxy: InProcess, sim: SimulatorThread) -> None:
        proxy.ask("moa-sim", optillm_options={"critique": False})
        assert not calls(sim, "stage")
        (aggregator,) = calls(sim, "aggregator")
        assert "<critique>" not in prompt(aggregator)


class TestLayers:
    def test_each_layer_sees_all_answers_of_the_one_before(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("moa-sim", optillm_options={"samples": 3, "layers": 3, "critique": False})
        first = [str(call.content) for call in calls(sim, "solver")]
        later = calls(sim, "aggregator")
        layers = [later[:3], later[3:6], later[6:]]
        assert [len(layer) for layer in layers] == [3, 3, 1]
        before = first
        for layer in layers:
            for call in layer:
                assert all(answer in prompt(call) for answer in before)
            if layer is not layers[0]:
                assert not any(answer in prompt(layer[0]) for answer in first)
            before = [str(call.content) for call in layer]

    def test_the_conversation_stays_in_front_for_the_prefix_cache(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": QUESTION},
        ]
        proxy.post(json={"model": "moa-sim", "messages": messages})
        for call in sim.log.records:
            sent = (call.body or {})["messages"]
            assert sent[:3] == messages[:3]
            assert len(sent) == 4
            assert sent[3]["content"].startswith(QUESTION)

    def test_pictures_reach_every_stage(self, proxy: InProcess, sim: SimulatorThread) -> None:
        content = [PICTURE, {"type": "text", "text": QUESTION}]
        assert proxy.ask("moa-sim", content).json["optillm"]["skipped"] == []
        for call in sim.log.records:
            assert (call.body or {})["messages"][-1]["content"][:2] == content


class TestProposers:
    def test_some_may_fail(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(faults=(Fault(500, role="solver", times=2),))
        answer = proxy.ask("moa-sim", optillm_options={"samples": 4}).json
        (aggregator,) = calls(sim, "aggregator")
        said = [call.content for call in calls(sim, "solver") if call.content]
        assert len(said) == 2
        assert all(str(text) in prompt(aggregator) for text in said)
        assert answer["choices"][0]["message"]["content"] == aggregator.content

    def test_a_single_survivor_needs_no_critic(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(500, role="solver", times=2),))
        assert proxy.ask("moa-sim").status_code == 200
        assert not calls(sim, "stage")

    def test_a_truncated_proposal_is_not_shown_where_a_whole_one_is(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=200, faults=(Fault("length", role="solver", times=1),))
        proxy.ask("moa-sim")
        (aggregator,) = calls(sim, "aggregator")
        assert prompt(aggregator).count("<candidate ") == 2

    def test_truncated_ones_are_better_than_nothing(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("length", role="solver"),))
        assert proxy.ask("moa-sim").status_code == 200
        (aggregator,) = calls(sim, "aggregator")
        assert prompt(aggregator).count("<candidate ") == 3

    def test_what_they_thought_is_not_quoted(self) -> None:
        seen: list[str] = []

        def respond(call: Any) -> Any:
            text = str(call.body["messages"][-1]["content"])
            seen.append(text)
            return "<think>secret musings</think>{The} proposal."

        async def run() -> None:
            driver = Driver(FakeUpstream(respond))
            await driver.play("moa", samples=2)

        asyncio.run(run())
        assert "{The} proposal." in seen[-1]
        assert not any("secret musings" in text for text in seen)


class TestAggregator:
    def test_it_streams(self, proxy: InProcess, sim: SimulatorThread) -> None:
        """The first words reach the client while the last are still being written."""
        sim.behave(chunk_interval=0.15, chunk_chars=40, tokens=60)
        response = proxy.http.post(
            "/v1/chat/completions",
            json={
                "model": "moa-sim",
                "messages": [{"role": "user", "content": QUESTION}],
                "stream": True,
            },
            buffered=False,
        )
        still_writing = [
            sim.log.inflight
            for raw in response.iter_encoded()
            if content_of([e for e in events(raw.decode()) if e != "[DONE]"])
        ]
        assert still_writing[0] == 1
        assert len(still_writing) > 2

    def test_what_it_says_is_the_answer(self, proxy: InProcess, sim: SimulatorThread) -> None:
        answer = proxy.ask("moa-sim").json
        (aggregator,) = calls(sim, "aggregator")
        assert answer["choices"][0]["message"]["content"] == aggregator.content
        assert answer["choices"][0]["finish_reason"] == "stop"

    def test_a_majority_of_proposals_is_what_it_has_to_go_by(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(probability=0.0, distractors=(1.0,))
        said = proxy.text("moa-sim")
        assert "\\boxed{391}" not in said
        assert said.partition("boxed")[2] == proposals(sim)[0].partition("boxed")[2]

    def test_where_it_fails_a_proposal_is_the_answer(self) -> None:
        def respond(call: Any) -> Any:
            text = str(call.body["messages"][-1]["content"])
            if "<critique>" in text:
                return UpstreamError("down")
            return completion("A remark." if "Do not provide" in text else "A proposal.")

        async def run() -> None:
            driver = Driver(FakeUpstream(respond))
            await driver.play("moa")
            assert driver.text == "A proposal."
            assert driver.run.ledger.skipped == ["last stage: upstream_error"]

        asyncio.run(run())
