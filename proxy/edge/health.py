"""``/health``, ``/health/live``, ``/health/ready`` and ``/metrics``: never behind a chat."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.board import Board
from proxy.edge.admission import Admission
from proxy.edge.auth import authenticate
from proxy.edge.loop import EngineThread
from proxy.edge.respond import Exchange, failed, json_response
from proxy.errors import ProxyError
from proxy.run.engine import Engine
from proxy.settings import Settings

_WAIT = 6.0
_FRESH = 1.0


class HealthViews:
    """What a supervisor, a gateway and Prometheus ask."""

    def __init__(
        self, settings: Settings, engine: EngineThread, admission: Admission, board: Board
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._admission = admission
        self._board = board
        self._metrics = CollectorRegistry(auto_describe=False)
        self._metrics.register(_WorkerMetrics(engine, admission, board))

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
        ``none``; ``version`` that of what serves.
        """
        exchange = Exchange.of(request.environ)
        reason = self._trouble()
        refusal = self._board.refusal
        body = {
            "status": "ok" if reason is None else "not ready",
            "reason": reason,
            "reload": f"refused, the previous configuration serves: {refusal}" if refusal else None,
            "providers": self._providers(),
            "degraded": self._settings.degraded,
            "version": self._settings.version,
        }
        return json_response(orjson.dumps(body), exchange, 200 if reason is None else 503)

    def metrics(self) -> Response:
        exchange = Exchange.of(request.environ)
        try:
            authenticate(request.environ, self._settings.proxy_key)
        except ProxyError as error:
            return failed(error, exchange)
        return Response(
            generate_latest(self._metrics), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

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


class _WorkerMetrics(Collector):
    def __init__(self, engine: EngineThread, admission: Admission, board: Board) -> None:
        self._engine = engine
        self._admission = admission
        self._board = board

    def collect(self) -> list[Metric]:
        missing = CounterMetricFamily(
            "optillm_members_missing",
            "Members of ensembles that this worker could not ask.",
            labels=["ensemble"],
        )
        for ensemble, count in self._engine.members_missing.items():
            missing.add_metric([ensemble], count)
        return [
            missing,
            GaugeMetricFamily(
                "optillm_loop_lag_seconds",
                "By how much the event loop was late, as last measured.",
                self._engine.lag,
            ),
            GaugeMetricFamily(
                "optillm_requests_in_flight",
                "Chats that this worker has admitted and not answered.",
                self._admission.in_flight,
            ),
            GaugeMetricFamily(
                "optillm_tasks", "Tasks on this worker's event loop.", self._engine.tasks
            ),
            CounterMetricFamily(
                "optillm_requests_lost",
                "Requests that were lost with workers that died, of the whole service.",
                self._board.lost,
            ),
        ]


async def _reports(engine: Engine) -> list[dict[str, Any]]:
    return [report for pool in engine.pools for report in pool.report()]


async def _refresh(engine: Engine) -> None:
    await engine.catalog.refresh(max_age=_FRESH)
