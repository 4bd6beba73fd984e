"""``POST /v1/chat/completions`` and ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import orjson
from flask import Response, g, request

from proxy import tasks
from proxy.chat import Reply
from proxy.edge.admission import Admission
from proxy.edge.auth import authenticate
from proxy.edge.client import ClientGone, ClientSocket, announced_length, read_body
from proxy.edge.loop import EngineThread
from proxy.edge.respond import (
    EventStream,
    Exchange,
    answered,
    client_gone,
    event_stream,
    failed,
    json_response,
)
from proxy.errors import ProxyError
from proxy.hops import HEADER, onward
from proxy.registry import Registry
from proxy.run.ledger import Ledger, complete_usage
from proxy.run.plan import make_plan
from proxy.run.scope import Caller
from proxy.settings import Settings
from proxy.telemetry.record import Telemetry
from proxy.wire.request import ChatRequest, Endpoint, parse_chat, parse_completion, parse_object
from proxy.wire.response import Envelope
from proxy.wire.sse import DONE

#: Gateways probe a handle by calling it; this model is answered without calling anything.
HEALTH_MODEL = "optictl-health"
_TASK = f"HTTP_{tasks.HEADER.upper().replace('-', '_')}"
_HOPS = f"HTTP_{HEADER.upper().replace('-', '_')}"


class ChatViews:
    """The two endpoints that answer a conversation."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        engine: EngineThread,
        admission: Admission,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._engine = engine
        self._admission = admission
        self._telemetry = telemetry

    def chat(self) -> Response:
        return self._answer("chat")

    def completion(self) -> Response:
        return self._answer("text")

    def _answer(self, endpoint: Endpoint) -> Response:
        environ = request.environ
        g.exchange = exchange = Exchange.of(environ, self._telemetry)
        try:
            exchange.tenant = tenant = authenticate(environ, self._settings.proxy_key)
            hops = onward(environ.get(_HOPS, ""), self._settings.instance)
            with ExitStack() as resources:
                slot = resources.enter_context(self._admission.slot(self._announced(environ)))
                raw = read_body(environ, self._settings.max_body)
                self._admission.settle(slot, len(raw))
                body = parse_object(raw)
                exchange.request, exchange.request_size = body, len(raw)
                parsed = parse_chat(body) if endpoint == "chat" else parse_completion(body)
                if parsed.model == HEALTH_MODEL:
                    return _healthy(parsed, exchange)
                traced = exchange.trace.parent_id or self._settings.tracing.otel
                caller = Caller(tenant, hops, exchange.trace if traced else None)
                return self._run(parsed, caller, exchange, resources)
        except ProxyError as error:
            return failed(error, exchange)
        except ClientGone:
            return client_gone(exchange)

    def _announced(self, environ: Mapping[str, Any]) -> int:
        """How large the body may become; one in chunks does not say. Beyond the limit is 413."""
        length = announced_length(environ)
        return self._settings.max_body if length is None else min(length, self._settings.max_body)

    def _run(
        self, parsed: ChatRequest, caller: Caller, exchange: Exchange, resources: ExitStack
    ) -> Response:
        client = ClientSocket(request.environ)
        exchange.model, exchange.stream = parsed.model or self._settings.model, parsed.stream
        known = self._engine.engine.catalog.names
        plan = make_plan(
            parsed,
            self._registry,
            known,
            self._settings,
            task_header=request.environ.get(_TASK, ""),
            automatic="router" if self._engine.classifier.state.phase == "ready" else None,
        )
        exchange.plan, exchange.approach, exchange.model = plan, plan.approach, plan.base
        job = self._engine.submit(plan, caller, exchange.ledger, exchange.attendance)
        resources.enter_context(job)
        first = job.take(client)
        if not isinstance(first, bytes):
            return answered(first, exchange)
        body = EventStream(first, job, client, exchange, resources.pop_all())
        return event_stream(body, exchange)


def _healthy(parsed: ChatRequest, exchange: Exchange) -> Response:
    """The local answer to a gateway's health check."""
    envelope = Envelope(parsed.endpoint, HEALTH_MODEL)
    summary = Ledger().summary("none", trace=False)
    exchange.approach, exchange.model = "health", HEALTH_MODEL
    # It is no conversation.
    exchange.request = None
    exchange.log(200)
    if parsed.stream:
        last = envelope.last([(0, "stop")], None, summary)
        text = envelope.role(0) + envelope.chunk(0, {"content": "ok"}) + last + DONE
        kind = "text/event-stream; charset=utf-8"
        return Response(text, headers=exchange.headers, content_type=kind)
    body = envelope.body([(0, Reply.of("ok"))], complete_usage({}), summary)
    return json_response(orjson.dumps(body), exchange)
