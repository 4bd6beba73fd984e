"""How a request gets to the providers of proxy_config.yaml, and what they can do for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of
from wires import ANSWER, KEY, ProviderWire

from optictl.simulator import Behaviour, SimulatorThread
from proxy.settings import Secret
from proxy.upstream.config import PoolConfig, ProviderConfig


@pytest.fixture
def pooled() -> Iterator[SimulatorThread]:
    """The provider of the pool; ``sim`` is the upstream of the command line."""
    with SimulatorThread(Behaviour()) as provider:
        yield provider


def pool_of(url: str, **members: Any) -> PoolConfig:
    return PoolConfig((ProviderConfig("p", url, **members),))


@pytest.fixture
def proxy(make_proxy: MakeProxy, pooled: SimulatorThread) -> InProcess:
    return make_proxy(pool=pool_of(pooled.url))


class TestWaysIn:
    @pytest.mark.parametrize(
        ("model", "members", "calls"),
        [
            ("proxy-sim", {}, 1),
            ("proxy-moa-sim", {}, 5),
            ("bon&proxy-sim", {}, 6),
            ("proxy&bon-sim", {}, 6),
            ("bon|proxy-sim", {}, 7),
            ("proxy-bon|re2-sim", {}, 7),
            ("sim", {"optillm_approach": "proxy"}, 1),
            ("sim", {"extra_body": {"optillm_approach": "proxy"}}, 1),
            ("sim", {"optillm_approach": "proxy", "proxy_wrap": "moa"}, 5),
            ("sim", {"extra_body": {"optillm_approach": "proxy", "proxy_wrap": "moa"}}, 5),
            ("sim", {"optillm_approach": "proxy", "wrapped_approach": "bon"}, 6),
            ("sim", {"optillm_approach": "proxy", "wrap": "re2"}, 1),
            ("sim", {"proxy_wrap": "moa"}, 5),
            ("sim", {"optillm_approach": "re2&proxy"}, 1),
            ("moa-sim", {"optillm_approach": "proxy"}, 5),
            ("proxy-sim", {"optillm_approach": "moa"}, 5),
        ],
    )
    def test_the_pool_serves_every_call(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        pooled: SimulatorThread,
        model: str,
        members: dict[str, Any],
        calls: int,
    ) -> None:
        answer = proxy.ask(model, **members)
        assert answer.status_code == 200, answer.text
        assert (sim.log.choices, pooled.log.choices) == (0, calls)
        assert {call.model for call in pooled.log.records} == {"sim"}
        for call in pooled.log.records:
            sent = set(call.body or {})
            assert not sent & {"proxy_wrap", "wrapped_approach", "wrap", "optillm_approach"}

    @pytest.mark.parametrize(
        ("model", "members"),
        [
            ("sim", {}),
            ("moa-sim", {}),
            ("proxyish-sim", {}),
            ("sim", {"optillm_approach": "moa", "proxy_wrap": "re2"}),
        ],
    )
    def test_whoever_does_not_ask_for_it_gets_the_upstream_of_the_command_line(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        pooled: SimulatorThread,
        model: str,
        members: dict[str, Any],
    ) -> None:
        assert proxy.ask(model, **members).status_code == 200
        assert sim.log.calls > 0
        assert pooled.log.calls == 0

    @pytest.mark.parametrize("model", ["sim", "moa-sim", "proxy-sim"])
    @pytest.mark.parametrize("approach", ["proxy", "proxy&re2"])
    def test_as_the_default_it_serves_everybody(
        self,
        make_proxy: MakeProxy,
        sim: SimulatorThread,
        pooled: SimulatorThread,
        approach: str,
        model: str,
    ) -> None:
        proxy = make_proxy(pool=pool_of(pooled.url), approach=approach)
        assert proxy.ask(model).status_code == 200
        assert sim.log.calls == 0
        assert pooled.log.calls > 0

    def test_without_another_upstream_it_serves_everybody(
        self, make_proxy: MakeProxy, pooled: SimulatorThread
    ) -> None:
        proxy = make_proxy(base_url="", pool=pool_of(pooled.url))
        assert "391" in proxy.text("sim")
        assert "391" in proxy.text("moa-sim")

    def test_without_a_pool_the_only_upstream_serves_whoever_asks_for_one(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = make_proxy()
        assert "391" in proxy.text("proxy-moa-sim")
        assert "391" in proxy.text("sim", optillm_approach="proxy", proxy_wrap="bon")
        assert sim.log.choices == 5 + 6

    def test_a_stream_comes_from_it_too(
        self, proxy: InProcess, sim: SimulatorThread, pooled: SimulatorThread
    ) -> None:
        assert "391" in content_of(proxy.stream("proxy-moa-sim"))
        assert (sim.log.choices, pooled.log.choices) == (0, 5)

    def test_both_upstreams_models_are_listed(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        with SimulatorThread(Behaviour(), models=("router-qwen", "other")) as provider:
            pool = pool_of(provider.url, model_map={"*": "router-*", "other": "other"})
            listed = make_proxy(pool=pool).http.get("/v1/models").json["data"]
        assert sorted(entry["id"] for entry in listed) == ["other", "qwen", "sim"]


class TestModelMap:
    def test_the_provider_is_sent_its_own_name_and_the_client_sees_its_own(
        self, make_proxy: MakeProxy, pooled: SimulatorThread
    ) -> None:
        pool = pool_of(pooled.url, model_map={"gpt-4": "deployment-1", "qwen-*": "router-qwen-*"})
        proxy = make_proxy(pool=pool)
        assert proxy.ask("proxy-gpt-4").json["model"] == "gpt-4"
        assert proxy.ask("proxy-moa-qwen-3").json["model"] == "qwen-3"
        chunks = proxy.stream("proxy-gpt-4")
        assert {chunk["model"] for chunk in chunks[:-1]} == {"gpt-4"}
        asked = [call.model for call in pooled.log.records]
        assert asked == ["deployment-1", *["router-qwen-3"] * 5, "deployment-1"]


class TestWhatAProviderCannotDo:
    """Wire shapes of providers that cannot be tried for real here: simulated (tests/wires.py)."""

    @pytest.mark.parametrize("kind", ["openai", "azure", "cerebras", "zai"])
    @pytest.mark.parametrize("model", ["proxy-m", "proxy-moa-m"])
    def test_each_kind_answers(self, make_proxy: MakeProxy, kind: Any, model: str) -> None:
        with ProviderWire(kind) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            assert proxy.text(model) == ANSWER
            assert content_of(proxy.stream(model)) == ANSWER
            assert proxy.http.get("/health/ready").status_code == 200

    @pytest.mark.parametrize("stream", [False, True])
    def test_several_choices_are_several_calls(self, make_proxy: MakeProxy, stream: bool) -> None:
        with ProviderWire("openai", unsupported=frozenset({"n"})) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            for refused in (1, 0):
                wire.requests.clear()
                if stream:
                    chunks = proxy.stream("proxy-m", n=3)
                    said = [content_of(chunks, index) for index in range(3)]
                else:
                    choices = proxy.ask("proxy-m", n=3).json["choices"]
                    said = [choice["message"]["content"] for choice in choices]
                assert said == [ANSWER] * 3
                assert [body.get("n", 1) for body in wire.bodies] == [3] * refused + [1] * 3

    def test_native_samples_become_single_ones(self, make_proxy: MakeProxy) -> None:
        with ProviderWire("openai", unsupported=frozenset({"n"})) as wire:
            proxy = make_proxy(pool=self.pool(wire, n="native"))
            for first in (5, 1):
                wire.requests.clear()
                assert proxy.ask("proxy-self_consistency-m").status_code == 200
                asked = [body.get("n", 1) for body in wire.bodies]
                assert asked[0] == first
                assert set(asked[1:]) == {1}

    def test_system_messages_go_into_the_first_turn(self, make_proxy: MakeProxy) -> None:
        with ProviderWire("openai", unsupported=frozenset({"role:system"})) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            messages = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
            ]
            for calls in (2, 1):
                answer = proxy.post(json={"model": "proxy-m", "messages": messages}).json
                assert answer["optillm"]["calls"] == calls
                assert any("system" in note for note in answer["optillm"]["skipped"])
            merged = [{"role": "user", "content": "Be brief.\n\nHello"}]
            assert [body["messages"] for body in wire.bodies] == [messages, merged, merged]

    def test_logprobs_are_left_out_and_the_client_is_told(self, make_proxy: MakeProxy) -> None:
        with ProviderWire("openai", unsupported=frozenset({"logprobs"})) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            for calls in (2, 1):
                answer = proxy.ask("proxy-m", logprobs=True)
                assert answer.json["optillm"]["calls"] == calls
                assert "logprobs" in answer.headers["x-optillm-skipped"]
            assert ["logprobs" in body for body in wire.bodies] == [True, False, False]

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_a_limit_of_tokens_goes_by_its_other_name(
        self, make_proxy: MakeProxy, name: str
    ) -> None:
        with ProviderWire("openai", unsupported=frozenset({name})) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            for _ in range(2):
                assert proxy.ask("proxy-m", **{name: 100}).status_code == 200
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
            assert [body.get(other[name]) for body in wire.bodies] == [None, 100, 100]

    def test_a_stream_is_made_of_an_answer(self, make_proxy: MakeProxy) -> None:
        with ProviderWire("openai", unsupported=frozenset({"stream"})) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            for _ in range(2):
                chunks = proxy.stream("proxy-m", stream_options={"include_usage": True})
                assert content_of(chunks) == ANSWER
                assert chunks[-2]["usage"]["total_tokens"] > 0
            assert [bool(body.get("stream")) for body in wire.bodies] == [True, False, False]

    def test_what_the_client_did_wrong_is_not_taken_for_that(self, make_proxy: MakeProxy) -> None:
        with ProviderWire("openai", unsupported=frozenset({"temperature"})) as wire:
            proxy = make_proxy(pool=self.pool(wire))
            assert proxy.ask("proxy-m", temperature=0.5).status_code == 400
            assert len(wire.requests) == 1

    @staticmethod
    def pool(wire: ProviderWire, **members: Any) -> PoolConfig:
        if wire.kind == "azure":
            members.update(kind="azure", api_version="2024-10-21")
        return pool_of(wire.base_url, api_key=Secret(KEY), **members)
