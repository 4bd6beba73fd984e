"""What a provider refuses is learned from its own words, and done without from then on."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of
from hypothesis import given
from hypothesis import strategies as st
from refused_words import (
    ASSISTANT,
    DEVELOPER,
    OTHERS,
    SYSTEM,
    USER,
    VALUES,
    WORDS,
    body,
    rejected,
)

from optictl.simulator import SimulatorThread
from proxy.errors import ChoicesRefused, UpstreamError, UpstreamRejected
from proxy.upstream.capabilities import Capabilities
from proxy.upstream.port import Call, Json


def with_options(sim: SimulatorThread) -> list[bool]:
    """For each call: did it bring ``stream_options``?"""
    return ["stream_options" in (call.body or {}) for call in sim.log.records]


class TestStreamOptions:
    @pytest.mark.parametrize("model", ["sim", "re2-sim", "cot_reflection-sim"])
    def test_a_refusal_is_no_fault_of_the_clients_and_remembered(
        self, proxy: InProcess, sim: SimulatorThread, model: str
    ) -> None:
        sim.behave(stream_options="refused")
        # The call that was refused was sent too.
        for calls in (2, 1, 1):
            chunks = proxy.stream(model)
            assert content_of(chunks)
            assert chunks[-2]["optillm"]["calls"] == calls
            assert chunks[-2]["optillm"]["unreported_calls"] == calls
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
        # The three proposers were refused together.
        assert answer["optillm"]["calls"] == sim.log.calls == 5 + 3
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


def call(*ours: str) -> Call:
    return Call("m", {}, ours=frozenset(ours))


def knowing(*features: str) -> Capabilities:
    """What has learned that model ``m`` does none of ``features``."""
    capabilities = Capabilities()
    for feature in features:
        if feature in ("system", "developer"):
            said = f"'messages[0].role' does not support '{feature}' with this model."
            sent = body(messages=[{"role": feature, "content": "x"}, USER])
        else:
            said, sent = f"'{feature}' is not supported.", body(feature)
        assert capabilities.learn(call(feature), sent, rejected(said))
        assert capabilities.refuses("m", feature)
    return capabilities


class TestWords:
    @pytest.mark.parametrize(("error", "sent", "features"), WORDS)
    def test_that_refuse_a_feature(
        self, error: UpstreamRejected, sent: Json, features: set[str]
    ) -> None:
        capabilities = Capabilities()
        ours = call(*VALUES)
        assert capabilities.learn(ours, sent, error)
        every = {*VALUES, "system", "developer"} - {"top_logprobs"}
        assert {f for f in every if capabilities.refuses("m", f)} == features
        adapted = capabilities.adapt(ours, sent).body
        assert adapted != sent
        # Sent without, the same refusal is about something that we cannot mend.
        assert not capabilities.learn(ours, adapted, error)
        assert capabilities.adapt(ours, adapted).body == adapted

    @pytest.mark.parametrize(("error", "sent"), OTHERS)
    def test_that_do_not(self, error: UpstreamRejected, sent: Json) -> None:
        capabilities = Capabilities()
        ours = call(*VALUES)
        assert not capabilities.learn(ours, sent, error)
        assert capabilities.adapt(ours, sent).body is sent

    def test_of_a_combination_that_the_client_has_chosen(self) -> None:
        """llama.cpp: github.com/am17an/llama.cpp/issues/35."""
        refused = rejected("logprobs is not supported with tools + stream")
        sent = body("stream", "logprobs", tools=[{}])
        assert not Capabilities().learn(call(), sent, refused)
        assert Capabilities().learn(call("logprobs"), sent, refused)
        # It may also be the name of the model's sort.
        assert Capabilities().learn(call(), body("logprobs"), refused)

    @given(st.text(), st.sampled_from([None, "n", "messages[0].role", "body.n", "x", "["]))
    def test_of_any_kind_do_no_harm(self, said: str, param: str | None) -> None:
        capabilities = Capabilities()
        sent = body(*VALUES, messages=[SYSTEM, DEVELOPER, USER])
        before = copy.deepcopy(sent)
        for text in (said, f"{said} is not supported", f"'n' {said} unsupported"):
            refused = rejected(text, param=param)
            while capabilities.learn(call(*VALUES), sent, refused):
                adapted = capabilities.adapt(call(*VALUES), sent).body
                assert adapted != sent
                sent = adapted
        assert before == body(*VALUES, messages=[SYSTEM, DEVELOPER, USER])


class TestLearning:
    @pytest.mark.parametrize(
        "error",
        [
            UpstreamError("'n' is not supported"),
            rejected("'n' is not supported", status=413),
        ],
    )
    def test_an_outage_teaches_nothing(self, error: UpstreamError) -> None:
        capabilities = Capabilities()
        assert not capabilities.learn(call(), body("n"), error)
        assert not capabilities.refuses("m", "n")

    def test_what_was_not_sent_is_not_to_blame(self) -> None:
        refused = rejected("'stream_options' is not supported")
        assert not Capabilities().learn(call(), body("stream"), refused)

    def test_each_model_is_learned_of_for_itself(self) -> None:
        capabilities = knowing("stream_options")
        other = {**body("stream_options"), "model": "other"}
        assert not capabilities.refuses("other", "stream_options")
        assert capabilities.adapt(call(), other).body is other

    def test_calls_that_were_under_way_together_all_go_again(self) -> None:
        capabilities = Capabilities()
        refused = rejected("Unsupported parameter: 'max_tokens'")
        for _ in range(3):
            assert capabilities.learn(call(), body("max_tokens"), refused)
        renamed = capabilities.adapt(call(), body("max_tokens")).body
        assert renamed == body(max_completion_tokens=64)
        assert not capabilities.learn(call(), renamed, refused)

    def test_one_thing_after_another(self) -> None:
        capabilities = Capabilities()
        sent = body("n", "max_tokens", messages=[DEVELOPER, USER])
        for said in (
            "'max_tokens' is not supported.",
            "'messages[0].role' does not support 'developer' with this model.",
            "'messages[0].role' does not support 'system' with this model.",
            "'n' is not supported.",
        ):
            adapted = capabilities.adapt(call("n"), sent).body
            assert capabilities.learn(call("n"), adapted, rejected(said))
        text = f"{DEVELOPER['content']}\n\n{USER['content']}"
        assert capabilities.adapt(call("n"), sent).body == body(
            messages=[{"role": "user", "content": text}], max_completion_tokens=64
        )

    def test_a_provider_that_knows_neither_name_of_a_limit_is_not_asked_for_ever(self) -> None:
        capabilities = knowing("max_tokens")
        sent = capabilities.adapt(call(), body("max_tokens")).body
        refused = rejected("'max_completion_tokens' is not supported")
        assert not capabilities.learn(call(), sent, refused)
        assert capabilities.adapt(call(), body("max_tokens")).body == sent

    def test_endless_models_are_not_remembered(self) -> None:
        capabilities = Capabilities()
        refused = rejected("'n' is not supported")
        for i in range(1500):
            assert capabilities.learn(call("n"), {**body("n"), "model": f"m{i}"}, refused)
        assert not capabilities.refuses("m0", "n")
        assert capabilities.refuses("m1499", "n")
        assert sum(capabilities.refuses(f"m{i}", "n") for i in range(1500)) <= 1000


class TestWhatTheClientHasSet:
    @pytest.mark.parametrize("member", ["temperature", "seed", "frequency_penalty"])
    def test_is_the_client_s_to_mend(self, member: str) -> None:
        capabilities = Capabilities()
        refused = rejected(f"'{member}' is not supported", param=member)
        assert not capabilities.learn(call(), body(member), refused)
        assert capabilities.adapt(call(), body(member)).body == body(member)

    def test_is_kept_although_ours_is_left_out(self) -> None:
        capabilities = knowing("temperature")
        assert capabilities.adapt(call("temperature"), body("temperature")).body == body()
        assert capabilities.adapt(call(), body("temperature")).body == body("temperature")

    def test_several_choices_are_refused_from_then_on(self) -> None:
        capabilities = Capabilities()
        assert capabilities.learn(call(), body("n"), rejected("'n' is not supported"))
        with pytest.raises(ChoicesRefused, match="one choice a call for model 'm', not n=2"):
            capabilities.adapt(call(), body("n"))
        assert capabilities.adapt(call("n"), body("n")).body == body()

    @pytest.mark.parametrize("n", [1, None])
    def test_one_choice_is_what_it_gives_anyway(self, n: int | None) -> None:
        assert knowing("n").adapt(call(), body(n=n)).body == body()

    def test_logprobs_are_left_out_and_missed(self) -> None:
        capabilities = knowing("logprobs")
        adapted = capabilities.adapt(call(), body("logprobs", "top_logprobs", "seed"))
        assert adapted.body == body("seed")
        assert adapted.notes == ("logprobs, top_logprobs: this provider does not support it",)

    def test_logprobs_that_nobody_asked_for_are_not_missed(self) -> None:
        capabilities = knowing("logprobs")
        assert capabilities.adapt(call(), body(logprobs=False)).notes == ()
        ours = capabilities.adapt(call("logprobs", "top_logprobs"), body("logprobs"))
        assert (ours.body, ours.notes) == (body(), ())

    @pytest.mark.parametrize(
        ("known", "sent"),
        [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")],
    )
    def test_a_limit_goes_by_the_name_that_is_known(self, known: str, sent: str) -> None:
        adapted = knowing(sent).adapt(call(), body(sent))
        assert (adapted.body, adapted.notes) == (body(known), ())

    def test_of_two_limits_the_one_that_is_known_stays(self) -> None:
        sent = body(max_tokens=1, max_completion_tokens=2)
        assert knowing("max_tokens").adapt(call(), sent).body == body(max_completion_tokens=2)

    def test_a_stream_becomes_a_body(self) -> None:
        adapted = knowing("stream").adapt(call(), body("stream", "stream_options", "seed"))
        assert (adapted.body, adapted.notes) == (body("seed"), ())


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


class TestInstructions:
    @pytest.mark.parametrize(
        ("messages", "expected"),
        [
            ([SYSTEM, USER], [("user", "Be brief.\n\nHow tall is K2?")]),
            (
                [SYSTEM, DEVELOPER, USER, ASSISTANT, USER],
                [
                    ("user", "Be brief.\n\nUse SI units.\n\nHow tall is K2?"),
                    ("assistant", "8611 m."),
                    ("user", "How tall is K2?"),
                ],
            ),
            (
                [USER, ASSISTANT, SYSTEM, USER],
                [
                    ("user", "Be brief.\n\nHow tall is K2?"),
                    ("assistant", "8611 m."),
                    ("user", "How tall is K2?"),
                ],
            ),
            ([SYSTEM], [("user", "Be brief.")]),
            ([SYSTEM, ASSISTANT], [("user", "Be brief."), ("assistant", "8611 m.")]),
            (
                [SYSTEM, {"role": "user", "content": [IMAGE, part("What?")]}],
                [("user", [part("Be brief.\n\n"), IMAGE, part("What?")])],
            ),
            (
                [{"role": "system", "content": [part("A"), part("B")]}, DEVELOPER, USER],
                [
                    (
                        "user",
                        [
                            part("A"),
                            part("B\n\n"),
                            part("Use SI units.\n\n"),
                            part("How tall is K2?"),
                        ],
                    )
                ],
            ),
        ],
    )
    def test_begin_the_first_user_turn(self, messages: list[Any], expected: list[Any]) -> None:
        capabilities = knowing("system")
        before = copy.deepcopy(messages)
        adapted = capabilities.adapt(call(), body(messages=messages))
        assert [(m["role"], m["content"]) for m in adapted.body["messages"]] == expected
        assert adapted.notes == (
            "system messages: this provider does not support them; "
            "they were put in front of the first user message",
        )
        assert messages == before

    def test_of_ours_are_not_noted(self) -> None:
        ours = knowing("system").adapt(call("messages"), body(messages=[SYSTEM, USER]))
        assert ours.notes == ()

    def test_that_are_not_there_change_nothing(self) -> None:
        adapted = knowing("system").adapt(call(), body(messages=[USER]))
        assert (adapted.body, adapted.notes) == (body(), ())

    def test_of_a_developer_become_the_system_s(self) -> None:
        adapted = knowing("developer").adapt(call(), body(messages=[SYSTEM, DEVELOPER, USER]))
        said = {**DEVELOPER, "role": "system"}
        assert adapted.body == body(messages=[SYSTEM, said, USER])
        assert adapted.notes == ()

    def test_what_else_a_turn_carries_stays(self) -> None:
        turn = {**USER, "name": "ann"}
        adapted = knowing("system").adapt(call(), body(messages=[SYSTEM, turn]))
        assert adapted.body["messages"][0]["name"] == "ann"
