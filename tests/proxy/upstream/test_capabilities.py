"""What an upstream refuses of what we add is left out from then on, model by model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of

from optictl.simulator import SimulatorThread
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.upstream.capabilities import Capabilities

BODY = {"messages": [], "stream_options": {"include_usage": True}}


def with_options(sim: SimulatorThread) -> list[bool]:
    """For each call: did it bring ``stream_options``?"""
    return ["stream_options" in (call.body or {}) for call in sim.log.records]


class TestStreamOptions:
    @pytest.mark.parametrize("model", ["sim", "re2-sim", "cot_reflection-sim"])
    def test_a_refusal_is_no_fault_of_the_clients_and_remembered(
        self, proxy: InProcess, sim: SimulatorThread, model: str
    ) -> None:
        sim.behave(stream_options="refused")
        for _ in range(3):
            chunks = proxy.stream(model)
            assert content_of(chunks)
            assert chunks[-2]["optillm"]["calls"] == 1
            assert chunks[-2]["optillm"]["unreported_calls"] == 1
        assert with_options(sim) == [True, False, False, False]

    def test_each_model_is_asked_for_itself(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(model="old", stream_options="refused")
        for model in ("old", "new", "old", "new"):
            proxy.stream(f"re2-{model}")
        seen = list(zip([call.model for call in sim.log.records], with_options(sim), strict=True))
        assert seen == [
            ("old", True),
            ("old", False),
            ("new", True),
            ("old", False),
            ("new", True),
        ]

    def test_calls_that_are_refused_together_all_go_again(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(stream_options="refused")
        proxy = make_proxy(upstream_cancel="stream")
        answer = proxy.ask("moa-sim").json
        assert answer["optillm"]["calls"] == 5
        assert answer["optillm"]["skipped"] == []

    def test_requests_that_are_refused_together_too(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(stream_options="refused")

        def ask(_: int) -> list[Any]:
            client = InProcess(proxy.app)
            return client.stream("sim")

        with ThreadPoolExecutor(4) as threads:
            for chunks in threads.map(ask, range(4)):
                assert chunks[-1] == "[DONE]"

    def test_what_the_client_asked_for_is_left_out_like_our_own(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(stream_options="refused")
        chunks = proxy.stream("sim", stream_options={"include_usage": True})
        assert content_of(chunks)
        assert chunks[-2]["usage"]["total_tokens"] == 0


class TestLearning:
    def test_another_refusal_teaches_nothing(self) -> None:
        capabilities = Capabilities()
        refused = UpstreamRejected("'temperature' is unsupported", status=400, param="temperature")
        assert not capabilities.learn("m", BODY, refused)
        assert capabilities.adapt("m", BODY) == BODY

    def test_an_outage_teaches_nothing(self) -> None:
        capabilities = Capabilities()
        assert not capabilities.learn("m", BODY, UpstreamError("stream_options: crashed"))
        assert capabilities.adapt("m", BODY) == BODY

    def test_a_member_that_was_not_sent_is_not_to_blame(self) -> None:
        capabilities = Capabilities()
        refused = UpstreamRejected("stream_options?", status=400)
        assert not capabilities.learn("m", {"messages": []}, refused)

    @pytest.mark.parametrize("status", [400, 422])
    def test_a_refusal_by_name_does(self, status: int) -> None:
        capabilities = Capabilities()
        refused = UpstreamRejected("Extra inputs: stream_options", status=status)
        assert capabilities.learn("m", BODY, refused)
        assert capabilities.adapt("m", BODY) == {"messages": []}
        assert capabilities.adapt("other", BODY) == BODY
