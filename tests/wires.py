"""Providers that cannot be tried for real here, simulated from their public documents.

- ``openai``: https://platform.openai.com/docs/api-reference/chat and /docs/guides/error-codes
- ``azure``: https://learn.microsoft.com/azure/ai-services/openai/reference (REST API reference),
  /azure/ai-services/openai/concepts/content-filter and /how-to/quota
- ``cerebras``: https://inference-docs.cerebras.ai/resources/openai and /support/error; its error
  object as recorded in github.com/egoist/chatwise-releases/issues/1442,
  github.com/explyt/explyt/issues/35 and github.com/nminaya/grammar-nazi-bot/issues/934
- ``zai``: https://docs.z.ai/api-reference/llm/chat-completion and /api-reference/api-code; words
  of an unknown model and role as in github.com/lidge-jun/opencodex/issues/41 and
  github.com/vastsa/PI-Desktop/issues/30
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

Kind = Literal["openai", "azure", "cerebras", "zai"]
KEY = "provider-key"
TOKEN = "entra-token"
ANSWER = "17 * 23 = 391"
#: A prompt with this in it is filtered by Azure.
FILTERED = "violence"
_USAGE = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
_PATHS = {
    "openai": "/v1/chat/completions",
    "azure": "/openai/deployments/{deployment}/chat/completions",
    "cerebras": "/v1/chat/completions",
    "zai": "/api/paas/v4/chat/completions",
}
_LISTS = {
    "openai": "/v1/models",
    "azure": "/openai/models",
    "cerebras": "/v1/models",
    "zai": "/api/paas/v4/models",
}
_BASES = {"openai": "/v1", "azure": "", "cerebras": "/v1", "zai": "/api/paas/v4"}


@dataclass(frozen=True, slots=True)
class Received:
    """A chat completion that was asked for, refused or not."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class ProviderWire:
    """A provider on a port of its own, in a thread of its own: ``with ProviderWire("azure") as w``.

    ``models`` are those that it serves, for Azure the deployments. ``unsupported`` are members
    that it refuses in its own words, and roles, as ``role:system``. ``limited`` is the Retry-After
    in seconds that it answers every call with.
    """

    kind: Kind
    models: tuple[str, ...] = ("m",)
    unsupported: frozenset[str] = frozenset()
    limited: int | None = None
    requests: list[Received] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def base_url(self) -> str:
        """What an operator would write down as ``base_url``."""
        return f"http://127.0.0.1:{self.port}{_BASES[self.kind]}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [received.body for received in self.requests]

    def __enter__(self) -> ProviderWire:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post(_PATHS[self.kind], self._chat)
        app.router.add_get(_LISTS[self.kind], self._list)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _list(self, request: web.Request) -> web.Response:
        refused = self._door(request)
        entries = [{"id": m, "object": "model", "owned_by": self.kind} for m in self.models]
        return refused or web.json_response({"object": "list", "data": entries})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(
            Received(request.path, dict(request.query), dict(request.headers), body)
        )
        refused = self._door(request) or _REFUSALS[self.kind](self, request, body)
        if refused is not None:
            return refused
        model = request.match_info.get("deployment") or body["model"]
        # Z.ai knows no n and says nothing of it.
        n = 1 if self.kind == "zai" else body.get("n") or 1
        if body.get("stream"):
            return await self._streamed(request, body, model, n)
        message = {"role": "assistant", "content": ANSWER}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(n)]
        return web.json_response(
            {**_envelope("chat.completion", model), "choices": choices, "usage": _USAGE}
        )

    async def _streamed(
        self, request: web.Request, body: dict[str, Any], model: str, n: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = _envelope("chat.completion.chunk", model)
        chunks: list[dict[str, Any]] = []
        if self.kind == "azure":
            # What its filter makes of the prompt comes first, without a choice.
            chunks.append({**head, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
        for i in range(n):
            opening = {"role": "assistant", "content": ""}
            chunks += [
                {**head, "choices": [{"index": i, "delta": delta, "finish_reason": finish}]}
                for delta, finish in [
                    (opening, None),
                    ({"content": ANSWER[:4]}, None),
                    ({"content": ANSWER[4:]}, None),
                    ({}, "stop"),
                ]
            ]
        if self.kind in ("cerebras", "zai"):
            chunks[-1]["usage"] = _USAGE
        elif (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": _USAGE})
        for chunk in chunks:
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def _door(self, request: web.Request) -> web.Response | None:
        """What is refused before a body is read: addresses, keys, rates."""
        if self.kind == "azure" and not request.query.get("api-version"):
            return _refused(404, {"error": {"code": "404", "message": "Resource not found"}})
        bearer = request.headers.get("Authorization")
        if self.kind == "azure":
            known = request.headers.get("api-key") == KEY or bearer == f"Bearer {TOKEN}"
        else:
            known = bearer == f"Bearer {KEY}"
        if not known:
            return _refused(401, _WRONG_KEY[self.kind])
        if self.limited is not None:
            headers = {"retry-after": str(self.limited)}
            return _refused(429, _LIMITED[self.kind](self.limited), headers)
        return None

    def named(self, body: dict[str, Any]) -> list[str]:
        """The members and roles of ``body`` that are not supported."""
        roles = dict.fromkeys(f"role:{message['role']}" for message in body["messages"])
        return [name for name in (*roles, *body) if name in self.unsupported]


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model}


def _refused(
    status: int, error: dict[str, Any], headers: dict[str, str] | None = None
) -> web.Response:
    return web.json_response(error, status=status, headers=headers)


def _object(
    message: str, code: str | None, param: str | None = None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": param, "code": code}


def _openai(wire: ProviderWire, _: web.Request, body: dict[str, Any]) -> web.Response | None:
    if body["model"] not in wire.models:
        said = f"The model `{body['model']}` does not exist or you do not have access to it."
        return _refused(404, {"error": _object(said, "model_not_found")})
    return _unsupported_by_openai(wire, body)


def _unsupported_by_openai(wire: ProviderWire, body: dict[str, Any]) -> web.Response | None:
    for name in wire.named(body):
        member, _, role = name.partition(":")
        if role:
            member = f"messages[{[m['role'] for m in body['messages']].index(role)}].role"
            said = f"Unsupported value: '{member}' does not support '{role}' with this model."
            error = _object(said, "unsupported_value", member)
        elif member in ("temperature", "top_p", "n", "stream"):
            value = json.dumps(body[member])
            default = "false" if member == "stream" else "1"
            said = (
                f"Unsupported value: '{member}' does not support {value} with this model. "
                f"Only the default ({default}) value is supported."
            )
            error = _object(said, "unsupported_value", member)
        else:
            said = f"Unsupported parameter: '{member}' is not supported with this model."
            if member == "max_tokens":
                said += " Use 'max_completion_tokens' instead."
            error = _object(said, "unsupported_parameter", member)
        return _refused(400, {"error": error})
    return None


def _azure(wire: ProviderWire, request: web.Request, body: dict[str, Any]) -> web.Response | None:
    if request.match_info["deployment"] not in wire.models:
        said = (
            "The API deployment for this resource does not exist. If you created the deployment "
            "within the last 5 minutes, please wait a moment and try again."
        )
        return _refused(404, {"error": {"code": "DeploymentNotFound", "message": said}})
    if FILTERED in json.dumps(body["messages"]):
        said = (
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry. To learn more about our "
            "content filtering policies please read our documentation: "
            "https://go.microsoft.com/fwlink/?linkid=2198766"
        )
        found = {"violence": {"filtered": True, "severity": "medium"}}
        inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": found}
        error = {"message": said, "type": None, "param": "prompt", "code": "content_filter"}
        return _refused(400, {"error": {**error, "status": 400, "innererror": inner}})
    # Older versions of its API do not know newer members at all.
    unknown = [n for n in wire.named(body) if n in ("stream_options", "logprobs", "top_logprobs")]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        said = f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}"
        return _refused(400, {"error": _object(said, None)})
    return _unsupported_by_openai(wire, body)


def _cerebras(wire: ProviderWire, _: web.Request, body: dict[str, Any]) -> web.Response | None:
    if body["model"] not in wire.models:
        said = f"Model {body['model']} does not exist or you do not have access to it."
        return _refused(404, _object(said, "model_not_found", "model", "not_found_error"))
    named = wire.named(body)
    for name in named:
        if name.startswith("role:"):
            said = f"Input tag '{name[5:]}' found using 'role' does not match any of the expected "
            said += "tags: 'system', 'user', 'assistant', 'tool'"
            return _refused(422, _object(said, "wrong_api_format", "validation_error"))
    if named:
        said = "\n".join(f"body.{n}: property 'body.{n}' is unsupported" for n in named)
        return _refused(400, _object(said, "wrong_api_format", "validation_error"))
    return None


def _zai(wire: ProviderWire, _: web.Request, body: dict[str, Any]) -> web.Response | None:
    if body["model"] not in wire.models:
        said = "Unknown Model, please check the model code."
        return _refused(400, {"error": {"code": "1211", "message": said}})
    if any(message["role"] == "developer" for message in body["messages"]):
        said = "Incorrect role information"
        return _refused(400, {"error": {"code": "1214", "message": said}})
    if wire.named(body):
        said = "Invalid API parameter, please check the documentation."
        return _refused(400, {"error": {"code": "1210", "message": said}})
    return None


_REFUSALS: dict[Kind, Callable[..., web.Response | None]] = {
    "openai": _openai,
    "azure": _azure,
    "cerebras": _cerebras,
    "zai": _zai,
}
_WRONG_KEY: dict[Kind, dict[str, Any]] = {
    "openai": {"error": _object("Incorrect API key provided: wrong.", "invalid_api_key")},
    "azure": {
        "error": {
            "code": "401",
            "message": "Access denied due to invalid subscription key or wrong API endpoint. Make "
            "sure to provide a valid key for an active subscription and use a correct regional "
            "API endpoint for your resource.",
        }
    },
    "cerebras": _object("Wrong API Key", "wrong_api_key", "api_key"),
    "zai": {
        "error": {
            "code": "1002",
            "message": "Authorization Token is invalid, please ensure that the Authorization Token "
            "is correctly provided.",
        }
    },
}
_LIMITED: dict[Kind, Callable[[int], dict[str, Any]]] = {
    "openai": lambda seconds: {
        "error": _object(
            f"Rate limit reached for m on requests per min (RPM): Limit 3, Used 3, Requested 1. "
            f"Please try again in {seconds}s.",
            "rate_limit_exceeded",
            kind="requests",
        )
    },
    "azure": lambda seconds: {
        "error": {
            "code": "429",
            "message": "Requests to the ChatCompletions_Create Operation under Azure OpenAI API "
            "version 2024-10-21 have exceeded token rate limit of your current OpenAI S0 pricing "
            f"tier. Please retry after {seconds} seconds.",
        }
    },
    "cerebras": lambda _: _object(
        "Requests per second limit exceeded - too many requests sent.",
        "request_quota_exceeded",
        "quota",
        "too_many_requests_error",
    ),
    "zai": lambda _: {
        "error": {
            "code": "1302",
            "message": "High concurrency usage of this API, please reduce concurrency or contact "
            "customer service to increase limits",
        }
    },
}
