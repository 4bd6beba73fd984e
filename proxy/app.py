"""The Flask app: routes onto the engine. Building it starts nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from proxy.board import Board, Row
from proxy.edge.admission import Admission
from proxy.edge.chat import ChatViews
from proxy.edge.health import HealthViews
from proxy.edge.loop import EngineThread
from proxy.edge.metrics import MetricViews
from proxy.edge.models import ModelViews
from proxy.edge.respond import Exchange, failed
from proxy.edge.traces import TraceViews
from proxy.errors import BadRequest, ConfigError, MethodNotAllowed, NotFound, ProxyError
from proxy.registry import Registry, discover
from proxy.router.client import Router, no_classifier
from proxy.run.engine import Engine
from proxy.selector import select
from proxy.settings import Settings, Tracing
from proxy.telemetry.conversations import Conversations
from proxy.telemetry.counters import Counters
from proxy.telemetry.folder import DailyFiles
from proxy.telemetry.lines import append
from proxy.telemetry.record import Sink, Telemetry
from proxy.telemetry.ring import Ring
from proxy.telemetry.traces import Traces
from proxy.upstream.limits import register
from proxy.upstream.slots import Slots

_log = logging.getLogger("optillm.edge")

#: What a folder of traces keeps.
_TRACE_DAYS = 30
_TRACE_BYTES = 2**30


class App(Flask):
    """A Flask app with the parts that its server has to start and stop."""

    engine: EngineThread
    admission: Admission
    metrics: MetricViews

    def attach(self, row: Row) -> None:
        """Keep this row of the board up to date, and count in its cells."""

        def beat(engine: Engine) -> None:
            row.stamp(
                self.engine.beat,
                waiting=engine.pools.waiting,
                under_way=engine.pools.under_way,
                lag=self.engine.lag,
                tasks=self.engine.tasks,
                ready=engine.catalog.trouble is None,
            )
            self.metrics.saw(engine.pools.states())

        self.metrics.adopt(row)
        self.admission.on_change = row.hold
        self.engine.on_beat = beat


def create_app(
    settings: Settings,
    registry: Registry | None = None,
    board: Board | None = None,
    slots: Slots | None = None,
    ring: Ring | None = None,
    counters: Counters | None = None,
    classifier: Router | None = None,
) -> App:
    """Build the app. ``app.engine.start()`` makes it answer; a worker does that after the fork.

    Every route is served with and without ``/v1``: gateways differ in what they append to a base
    URL. ``board``, ``slots``, ``ring`` and ``counters`` are what the master shares with its
    workers; each of them is to `App.attach` a row of that board. Without a board the app has its
    own. ``classifier`` is what the approach ``router`` asks; there need not be one.
    Raises `ConfigError` for a default approach that does not exist.
    """
    registry = registry or discover()
    _check_default(settings, registry)
    app = App("proxy", static_folder=None)
    if slots is None:
        slots = Slots()
        register(settings, slots)
    app.engine = EngineThread(settings, registry, slots, classifier or no_classifier())
    app.admission = Admission(settings.admitted, max(settings.max_pending_body, settings.max_body))
    traces = _traces(settings.tracing, ring or Ring())
    shared = board or Board()
    app.metrics = MetricViews(
        settings, registry, shared, counters or Counters(), app.engine.known_models
    )
    sinks: list[Sink] = [app.metrics, traces, *_exporters(settings)]
    if settings.conversations is not None:
        log = settings.conversations
        files = DailyFiles(log.folder, "conversations", days=log.days, size=log.size)
        conversations = Conversations(files, settings.secrets)
        app.engine.on_start.append(conversations.start)
        sinks.append(conversations)
    app.engine.on_stop += [sink.close for sink in sinks]
    telemetry = Telemetry(sinks, texts=settings.texts_kept)
    chat = ChatViews(settings, registry, app.engine, app.admission, telemetry)
    told = TraceViews(settings, traces)
    models = ModelViews(settings, registry, app.engine)
    health = HealthViews(settings, app.engine, app.admission, shared)
    for prefix in ("/v1", ""):
        name = "v1" if prefix else "bare"
        add = app.add_url_rule
        add(f"{prefix}/chat/completions", f"{name}.chat", chat.chat, methods=["POST"])
        add(f"{prefix}/completions", f"{name}.completion", chat.completion, methods=["POST"])
        add(f"{prefix}/models", f"{name}.models", models.listing)
        add(f"{prefix}/models/<path:model>", f"{name}.model", models.one)
        add(f"{prefix}/traces", f"{name}.traces", told.listing)
        add(f"{prefix}/traces/<path:identity>", f"{name}.trace", told.one)
        add(f"{prefix}/usage", f"{name}.usage", told.usage)
    app.add_url_rule("/health", "health", health.live)
    app.add_url_rule("/health/live", "health.live", health.live)
    app.add_url_rule("/health/ready", "health.ready", health.ready)
    app.add_url_rule("/metrics", "metrics", app.metrics.metrics)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(Exception, _crashed)
    if board is None:
        row = shared.row(())
        app.attach(row)
        row.open(os.getpid())
    return app


def _traces(tracing: Tracing, ring: Ring) -> Traces:
    log: Callable[[bytes], None] | None = None
    if tracing.log is not None:
        daily = DailyFiles(tracing.log, "traces", days=_TRACE_DAYS, size=_TRACE_BYTES)
        log = daily.append if tracing.daily else partial(append, tracing.log)
    return Traces(ring, text=tracing.text, log=log, usage=tracing.usage)


def _exporters(settings: Settings) -> list[Sink]:
    if settings.tracing.otel is None:
        return []
    # Imported here: an extra, which most services do without.
    from proxy.telemetry.otel import Exporter

    return [Exporter(settings.tracing.otel, version=settings.version)]


def _check_default(settings: Settings, registry: Registry) -> None:
    """At the start, and not with every request that names no approach of its own."""
    try:
        select("-", registry, (), default_base="-", default_approach=settings.approach)
    except BadRequest as error:
        raise ConfigError(f"--approach {settings.approach}: {error.message}") from None


def _refused(error: HTTPException) -> Response:
    """Flask's own refusals in OpenAI's shape."""
    refusal: ProxyError
    if error.code == 404:
        refusal = NotFound(f"There is nothing at {request.path}.")
    elif error.code == 405:
        refusal = MethodNotAllowed(f"{request.method} is not served at {request.path}.")
    else:
        refusal = BadRequest(error.description or error.name)
    response = failed(refusal, Exchange.of(request.environ))
    if isinstance(error, WrongMethod) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _crashed(error: Exception) -> Response:
    """A bug of ours: the traceback to the log, one sentence to the client."""
    exchange = g.get("exchange") or Exchange.of(request.environ)
    _log.error("unexpected error in request %s", exchange.id, exc_info=error)
    return failed(ProxyError("The proxy has an internal error; its log says more."), exchange)
