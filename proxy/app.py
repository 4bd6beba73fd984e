"""The Flask app: routes onto the engine. Building it starts nothing."""

from __future__ import annotations

import logging

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from proxy.board import Board
from proxy.edge.admission import Admission
from proxy.edge.chat import ChatViews
from proxy.edge.health import HealthViews
from proxy.edge.loop import EngineThread
from proxy.edge.models import ModelViews
from proxy.edge.respond import Exchange, failed
from proxy.errors import BadRequest, ConfigError, MethodNotAllowed, NotFound, ProxyError
from proxy.registry import Registry, discover
from proxy.selector import select
from proxy.settings import Settings
from proxy.telemetry.record import Telemetry
from proxy.upstream.limits import register
from proxy.upstream.slots import Slots

_log = logging.getLogger("optillm.edge")


class App(Flask):
    """A Flask app with the parts that its server has to start and stop."""

    engine: EngineThread
    admission: Admission


def create_app(
    settings: Settings,
    registry: Registry | None = None,
    board: Board | None = None,
    slots: Slots | None = None,
) -> App:
    """Build the app. ``app.engine.start()`` makes it answer; a worker does that after the fork.

    Every route is served with and without ``/v1``: gateways differ in what they append to a base
    URL. ``board`` and ``slots`` are what the master shares with its workers, if there is one.
    Raises `ConfigError` for a default approach that does not exist.
    """
    registry = registry or discover()
    _check_default(settings, registry)
    app = App("proxy", static_folder=None)
    if slots is None:
        slots = Slots()
        register(settings, slots)
    app.engine = EngineThread(settings, registry, slots)
    app.admission = Admission(settings.admitted, max(settings.max_pending_body, settings.max_body))
    chat = ChatViews(settings, registry, app.engine, app.admission, Telemetry())
    models = ModelViews(settings, registry, app.engine)
    health = HealthViews(settings, app.engine, app.admission, board or Board())
    for prefix in ("/v1", ""):
        name = "v1" if prefix else "bare"
        add = app.add_url_rule
        add(f"{prefix}/chat/completions", f"{name}.chat", chat.chat, methods=["POST"])
        add(f"{prefix}/completions", f"{name}.completion", chat.completion, methods=["POST"])
        add(f"{prefix}/models", f"{name}.models", models.listing)
        add(f"{prefix}/models/<path:model>", f"{name}.model", models.one)
    app.add_url_rule("/health", "health", health.live)
    app.add_url_rule("/health/live", "health.live", health.live)
    app.add_url_rule("/health/ready", "health.ready", health.ready)
    app.add_url_rule("/metrics", "metrics", health.metrics)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(Exception, _crashed)
    return app


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
    exchange = Exchange.of(request.environ)
    _log.error("unexpected error in request %s", exchange.id, exc_info=error)
    return failed(ProxyError("The proxy has an internal error; its log says more."), exchange)
