"""Simulated providers: what each refuses is understood, and what it does without is learned."""

from __future__ import annotations

from typing import Any, get_args

import httpx
import pytest
from wires import ANSWER, FILTERED, KEY, TOKEN, Kind, ProviderWire

from proxy.errors import (
    ModelNotFound,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
)
from proxy.settings import Secret
from proxy.upstream import azure
from proxy.upstream.capabilities import Capabilities
from proxy.upstream.port import Call, Json
from proxy.upstream.refusals import refusal
from proxy.wire.sse import Decoder

KINDS: tuple[Kind, ...] = get_args(Kind)
VERSION = azure.API_VERSION


def post(wire: ProviderWire, body: Json, headers: dict[str, str] | None = None) -> httpx.Response:
    if wire.kind == "azure":
        url = azure.chat_url(wire.base_url, body["model"], VERSION)
        own = azure.headers(Secret(KEY))
    else:
        url, own = f"{wire.base_url}/chat/completions", {"Authorization": f"Bearer {KEY}"}
    return httpx.post(url, json=body, headers=own if headers is None else headers, timeout=30)


def error_of(response: httpx.Response) -> UpstreamError:
    assert response.status_code != 200
    return refusal(response.status_code, response.headers, response.content, str)


def body(messages: list[Any] | None = None, **members: Any) -> Json:
    asked = [{"role": "user", "content": "What is 17 * 23?"}] if messages is None else messages
    return {"model": "m", "messages": asked, **members}


def answered(wire: ProviderWire, call: Call, sent: Json) -> tuple[Json, tuple[str, ...], int]:
    """The answer, its notes and how often it was asked for, as a pool would."""
    capabilities = Capabilities()
    for attempt in range(1, 10):
        adapted = capabilities.adapt(call, sent)
        response = post(wire, adapted.body)
        if response.status_code == 200:
            return response.json(), adapted.notes, attempt
        assert capabilities.learn(call, adapted.body, error_of(response)), response.text
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("kind", KINDS)
class TestEach:
    def test_answers(self, kind: Kind) -> None:
        with ProviderWire(kind) as wire:
            answer = post(wire, body()).json()
        assert answer["choices"][0]["message"]["content"] == ANSWER
        assert answer["usage"]["total_tokens"] == 16

    def test_streams(self, kind: Kind) -> None:
        with ProviderWire(kind) as wire:
            response = post(wire, body(stream=True, stream_options={"include_usage": True}))
        *payloads, last = Decoder().feed(response.content)
        chunks = [httpx.Response(200, content=payload).json() for payload in payloads]
        assert last == b"[DONE]"
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
        assert chunks[-1]["usage"]["total_tokens"] == 16

    def test_lists_its_models(self, kind: Kind) -> None:
        with ProviderWire(kind, models=("a", "b")) as wire:
            url = f"{wire.base_url}/models"
            headers = {"Authorization": f"Bearer {KEY}"}
            if kind == "azure":
                url = azure.models_url(wire.base_url, VERSION)
                headers = azure.headers(Secret(KEY))
            entries = httpx.get(url, headers=headers).json()["data"]
        assert [entry["id"] for entry in entries] == ["a", "b"]

    def test_refuses_a_wrong_key(self, kind: Kind) -> None:
        with ProviderWire(kind) as wire:
            error = error_of(post(wire, body(), {"Authorization": "Bearer wrong"}))
        assert type(error) is UpstreamAuth

    def test_does_not_have_a_model(self, kind: Kind) -> None:
        with ProviderWire(kind) as wire:
            error = error_of(post(wire, {**body(), "model": "nosuch"}))
        assert type(error) is ModelNotFound

    def test_limits_the_rate(self, kind: Kind) -> None:
        with ProviderWire(kind, limited=7) as wire:
            error = error_of(post(wire, body()))
        assert type(error) is UpstreamRateLimited
        assert error.retry_after == 7
        assert error.message != "HTTP 429"

    def test_tells_what_it_was_asked(self, kind: Kind) -> None:
        with ProviderWire(kind) as wire:
            post(wire, body(temperature=0.5))
        (received,) = wire.requests
        assert received.body == body(temperature=0.5)
        assert received.path.endswith("/chat/completions")
        assert received.query == ({"api-version": VERSION} if kind == "azure" else {})


class TestShapes:
    """Error bodies with nothing around them, or otherwise than OpenAI's."""

    @pytest.mark.parametrize(
        ("received", "message", "code", "param"),
        [
            # Cerebras: github.com/egoist/chatwise-releases/issues/1442
            (
                b'{"message":"property \'body.seed\' is unsupported","param":"validation_error",'
                b'"type":"invalid_request_error","code":"wrong_api_format"}',
                "property 'body.seed' is unsupported",
                "wrong_api_format",
                "validation_error",
            ),
            # vLLM: github.com/vllm-project/vllm/pull/2964
            (
                b'{"object":"error","message":"System role not supported",'
                b'"type":"BadRequestError","param":null,"code":400}',
                "System role not supported",
                "upstream_rejected",
                None,
            ),
            # Mistral: github.com/editor-code-assistant/eca/issues/231
            (
                b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body",'
                b'"max_completion_tokens"],"msg":"Extra inputs are not permitted","input":32000}]},'
                b'"type":"invalid_request_error","param":null,"code":null}',
                "{'detail': [{'type': 'extra_forbidden', 'loc': ['body', 'max_completion_tokens'], "
                "'msg': 'Extra inputs are not permitted', 'input': 32000}]}",
                "upstream_rejected",
                None,
            ),
            # DeepSeek: github.com/vibrantlabsai/ragas/issues/1072
            (
                b'{"detail":"Invalid n value (currently only n = 1 is supported)"}',
                "Invalid n value (currently only n = 1 is supported)",
                "upstream_rejected",
                None,
            ),
            # Gemini: github.com/Vali-98/ChatterUI/issues/227
            (
                b'[{"error":{"code":400,"message":"Unknown name \\"seed\\": Cannot find field.",'
                b'"status":"INVALID_ARGUMENT"}}]',
                'Unknown name "seed": Cannot find field.',
                "upstream_rejected",
                None,
            ),
            (b"[]", "HTTP 400", "upstream_rejected", None),
            (b"[7]", "HTTP 400", "upstream_rejected", None),
        ],
    )
    def test_are_read(self, received: bytes, message: str, code: str, param: str | None) -> None:
        error = refusal(400, {}, received, str)
        assert (error.message, error.code, error.param) == (message, code, param)


class TestAzure:
    def test_needs_a_version(self) -> None:
        with ProviderWire("azure") as wire:
            url = f"{wire.base_url}/openai/deployments/m/chat/completions"
            error = error_of(httpx.post(url, json=body(), headers={"api-key": KEY}))
        assert "Resource not found" in error.message

    def test_takes_a_token(self) -> None:
        with ProviderWire("azure") as wire:
            assert post(wire, body(), {"Authorization": f"Bearer {TOKEN}"}).status_code == 200

    def test_filters_a_prompt(self) -> None:
        with ProviderWire("azure") as wire:
            sent = body([{"role": "user", "content": FILTERED}], temperature=0)
            error = error_of(post(wire, sent))
        assert type(error) is UpstreamRejected
        assert (error.http_status(), error.code, error.param) == (400, "content_filter", "prompt")
        assert not Capabilities().learn(Call("m", {}), sent, error)


class TestWhatItDoesNotDo:
    @pytest.mark.parametrize("kind", ["openai", "azure", "cerebras"])
    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"stream_options": {"include_usage": True}}, {}),
            ({"temperature": 0.7, "seed": 1}, {}),
            ({"n": 3}, {}),
            ({"max_tokens": 5}, {"max_completion_tokens": 5}),
            ({"max_completion_tokens": 5}, {"max_tokens": 5}),
            ({"logprobs": True, "top_logprobs": 2}, {}),
        ],
    )
    def test_is_done_without(self, kind: Kind, members: Json, expected: Json) -> None:
        ours = Call("m", {}, ours=frozenset(members))
        with ProviderWire(kind, unsupported=frozenset(members)) as wire:
            answer, notes, _ = answered(wire, ours, body(**members))
        assert answer["choices"][0]["message"]["content"] == ANSWER
        assert notes == ()
        assert wire.bodies[-1] == body(**expected)

    @pytest.mark.parametrize("kind", ["openai", "azure"])
    def test_a_reasoning_model(self, kind: Kind) -> None:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        refused = frozenset({"role:system", "max_tokens", "temperature", "n", "logprobs"})
        sent = body(messages, max_tokens=9, temperature=0.7, n=2, logprobs=True)
        with ProviderWire(kind, unsupported=refused) as wire:
            _, notes, attempts = answered(
                wire, Call("m", {}, ours=frozenset({"temperature", "n"})), sent
            )
        assert attempts == 6
        assert [note.partition(":")[0] for note in notes] == ["logprobs", "system messages"]
        turn = {"role": "user", "content": "Be brief.\n\nHi"}
        assert wire.bodies[-1] == body([turn], max_completion_tokens=9)

    @pytest.mark.parametrize("kind", ["openai", "azure", "cerebras", "zai"])
    def test_a_developer_s_role(self, kind: Kind) -> None:
        said = {"role": "developer", "content": "Be brief."}
        asked = {"role": "user", "content": "Hi"}
        with ProviderWire(kind, unsupported=frozenset({"role:developer"})) as wire:
            _, notes, attempts = answered(wire, Call("m", {}), body([said, asked]))
        assert (attempts, notes) == (2, ())
        assert wire.bodies[-1] == body([{**said, "role": "system"}, asked])

    def test_a_member_of_the_client_s(self) -> None:
        with ProviderWire("cerebras", unsupported=frozenset({"logit_bias"})) as wire:
            sent = body(logit_bias={"1": 2})
            error = error_of(post(wire, sent))
        assert "'body.logit_bias' is unsupported" in error.message
        assert error.code == "wrong_api_format"
        assert not Capabilities().learn(Call("m", {}), sent, error)

    def test_choices_that_z_ai_leaves_out_in_silence(self) -> None:
        with ProviderWire("zai") as wire:
            answer, _, attempts = answered(wire, Call("m", {}), body(n=3))
        assert (len(answer["choices"]), attempts) == (1, 1)

    def test_z_ai_does_not_say_which(self) -> None:
        with ProviderWire("zai", unsupported=frozenset({"logprobs"})) as wire:
            sent = body(logprobs=True)
            error = error_of(post(wire, sent))
        assert type(error) is UpstreamRejected
        assert not Capabilities().learn(Call("m", {}), sent, error)
