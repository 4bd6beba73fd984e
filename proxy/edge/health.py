"""``/health``, ``/health/live``, ``/health/ready`` and ``/metrics``: never behind a chat."""

from __future__ import annotations

import orjson
from flask import Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

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

    def __init__(self, settings: Settings, engine: EngineThread, admission: Admission) -> None:
        self._settings = settings
        self._engine = engine
        self._admission = admission
        self._metrics = CollectorRegistry(auto_describe=False)
        self._metrics.register(_EngineMetrics(engine, admission))

    def live(self) -> Response:
        """200 while this worker's loop turns."""
        exchange = Exchange.of(request.environ)
        if self._engine.alive:
            return json_response(b'{"status":"ok"}', exchange)
        return json_response(b'{"status":"stuck"}', exchange, 503)

    def ready(self) -> Response:
        """200 while the engine runs and the upstream answers; else 503 with the reason."""
        exchange = Exchange.of(request.environ)
        reason = self._trouble()
        body = {"status": "ok" if reason is None else "not ready", "reason": reason}
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


class _EngineMetrics(Collector):
    def __init__(self, engine: EngineThread, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission

    def collect(self) -> list[GaugeMetricFamily]:
        return [
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
        ]


async def _refresh(engine: Engine) -> None:
    await engine.catalog.refresh(max_age=_FRESH)
