"""``/health``, ``/health/live`` and ``/health/ready``: never behind a chat."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response, request

from proxy.board import Board
from proxy.edge.admission import Admission
from proxy.edge.loop import EngineThread
from proxy.edge.respond import Exchange, json_response
from proxy.run.engine import Engine
from proxy.settings import Settings

_WAIT = 6.0
_FRESH = 1.0


class HealthViews:
    """What a supervisor and a gateway ask."""

    def __init__(
        self, settings: Settings, engine: EngineThread, admission: Admission, board: Board
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._admission = admission
        self._board = board

    def live(self) -> Response:
        """200 while this worker's loop turns."""
        exchange = Exchange.of(request.environ)
        if self._engine.alive:
            return json_response(b'{"status":"ok"}', exchange)
        return json_response(b'{"status":"stuck"}', exchange, 503)

    def ready(self) -> Response:
        """200 while the engine runs and the upstream answers; else 503 with the reason.

        ``reload`` says what became of the last one: null, or that and why it was refused;
        ``providers`` how each of them is; ``degraded`` whether every request is answered by
        ``none``; ``router`` whether there is a classifier (loading, ready or absent), with
        ``router_why``; ``version`` that of what serves.
        """
        exchange = Exchange.of(request.environ)
        reason = self._trouble()
        router = self._engine.classifier.state
        refusal = self._board.refusal
        body = {
            "status": "ok" if reason is None else "not ready",
            "reason": reason,
            "reload": f"refused, the previous configuration serves: {refusal}" if refusal else None,
            "providers": self._providers(),
            "degraded": self._settings.degraded,
            "router": router.phase,
            "router_why": router.why or None,
            "version": self._settings.version,
        }
        return json_response(orjson.dumps(body), exchange, 200 if reason is None else 503)

    def _providers(self) -> list[dict[str, Any]]:
        """How each provider is, as this worker has seen it; none where its loop does not answer."""
        if not self._engine.alive:
            return []
        try:
            reports: list[dict[str, Any]] = self._engine.ask(_reports, _WAIT)
        except TimeoutError:
            return []
        return reports

    def _trouble(self) -> str | None:
        if self._admission.closed:
            return "shutting down"
        if not self._engine.alive:
            return "the event loop is stuck"
        try:
            self._engine.ask(_refresh, _WAIT)
        except TimeoutError:
            return "the upstream does not answer"
        trouble = self._engine.engine.catalog.trouble
        return None if trouble is None else trouble.message


async def _reports(engine: Engine) -> list[dict[str, Any]]:
    return [report for pool in engine.pools for report in pool.report()]


async def _refresh(engine: Engine) -> None:
    await engine.catalog.refresh(max_age=_FRESH)
