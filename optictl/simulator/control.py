"""The simulator over HTTP: its log, how it behaves, and the gold answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from optictl.simulator.ask import RefusedError
from optictl.simulator.behaviour import Behaviour
from optictl.simulator.log import CallLog
from optictl.simulator.questions import distractor, gold
from optictl.simulator.service import Service

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def routes(service: Service) -> dict[tuple[str, str], Handler]:
    """All that is served, by method and path."""
    adapter = TypeAdapter(Behaviour)

    async def calls(request: web.BaseRequest) -> web.StreamResponse:
        return _json(summary(service.log, bodies=request.query.get("bodies") == "1"))

    async def forget(request: web.BaseRequest) -> web.StreamResponse:
        service.reset()
        return web.Response(status=204)

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        changes, model = _changes(await request.read())
        merged = asdict(service.behaviour(model)) | changes
        try:
            wanted = adapter.validate_python(merged)
        except ValidationError as error:
            wrong = (f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
            raise RefusedError("; ".join(wrong)) from error
        checked = {name: getattr(wanted, name) for name in changes}
        return _json(asdict(service.behave(checked, model)))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        question = request.query.get("question", "")
        wrong = range(len(service.behaviour().distractors))
        distractors = [distractor(question, i) for i in wrong]
        return _json({"gold": gold(question), "distractors": distractors})

    return {
        ("POST", "/v1/chat/completions"): service.chat,
        ("POST", "/chat/completions"): service.chat,
        ("GET", "/v1/models"): service.list_models,
        ("GET", "/models"): service.list_models,
        ("GET", "/health"): service.health,
        ("GET", "/sim/calls"): calls,
        ("DELETE", "/sim/calls"): forget,
        ("PUT", "/sim/behaviour"): behave,
        ("GET", "/sim/gold"): answer,
    }


def summary(log: CallLog, *, bodies: bool) -> dict[str, Any]:
    """The log's counts and its records; times in seconds of `time.monotonic`."""
    records = [asdict(call) for call in log.records]
    for record in records:
        if not bodies:
            del record["body"], record["headers"], record["content"]
    return {
        "calls": log.calls,
        "choices": log.choices,
        "peak": log.peak,
        "inflight": log.inflight,
        "dropped": log.dropped,
        "rounds": log.rounds,
        "records": records,
    }


def _changes(raw: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        changes = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RefusedError(f"The body is not JSON: {error}") from error
    if not isinstance(changes, dict):
        raise RefusedError("The body is not a JSON object.")
    model = changes.pop("model", None)
    known = {field.name for field in fields(Behaviour)}
    if unknown := changes.keys() - known:
        raise RefusedError(f"Unknown fields: {', '.join(sorted(unknown))}.")
    return changes, model


def _json(data: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(data), content_type="application/json")
