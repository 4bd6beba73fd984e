"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import orjson
from flask import Response, request

from proxy.edge.auth import authenticate
from proxy.edge.loop import EngineThread
from proxy.edge.respond import Exchange, failed, json_response
from proxy.ensembles import handle_key
from proxy.errors import BadRequest, NotFound, ProxyError
from proxy.registry import Registry
from proxy.run.engine import Engine
from proxy.selector import select
from proxy.settings import Settings

_WAIT = 6.0
_FRESH = 2.0


class ModelViews:
    """The upstream's list, as last seen."""

    def __init__(self, settings: Settings, registry: Registry, engine: EngineThread) -> None:
        self._settings = settings
        self._registry = registry
        self._engine = engine
        began = int(time.time())
        self._ensembles = [
            {"id": name, "object": "model", "created": began, "owned_by": "optillm"}
            for name in settings.ensembles
        ]

    def listing(self) -> Response:
        exchange = Exchange.of(request.environ)
        try:
            authenticate(request.environ, self._settings.proxy_key)
            entries = self._entries()
        except ProxyError as error:
            return failed(error, exchange)
        exchange.log(200)
        return json_response(orjson.dumps({"object": "list", "data": entries}), exchange)

    def one(self, model: str) -> Response:
        exchange = Exchange.of(request.environ)
        try:
            authenticate(request.environ, self._settings.proxy_key)
            entry = self._entry(model)
        except ProxyError as error:
            return failed(error, exchange)
        exchange.log(200)
        return json_response(orjson.dumps(entry), exchange)

    def _entries(self) -> list[dict[str, Any]]:
        """Our ensembles and the last good list; the upstream's trouble if there never was one."""
        # Whoever waits too long gets the last good list, which is better than none.
        with contextlib.suppress(TimeoutError):
            self._engine.ask(_refresh, _WAIT)
        catalog = self._engine.engine.catalog
        if not catalog.entries and catalog.trouble is not None:
            raise catalog.trouble
        listed = {entry["id"]: entry for entry in (*catalog.entries, *self._ensembles)}
        prefix = self._settings.internal_prefix
        return [
            entry
            for name, entry in listed.items()
            # One that only looks internal is a model of the upstream's.
            if not (name.startswith(prefix) and name.removeprefix(prefix) in listed)
        ]

    def _entry(self, model: str) -> dict[str, Any]:
        entries = {entry["id"]: entry for entry in self._entries()}
        if model in entries:
            return entries[model]
        try:
            selector = select(
                self._settings.aliases.get(handle_key(model), model),
                self._registry,
                frozenset(entries),
                default_base=self._settings.model,
            )
        except BadRequest as error:
            raise NotFound(error.message, code=error.code, param="model") from None
        if selector.base in entries:
            return {**entries[selector.base], "id": model, "owned_by": "optillm"}
        raise NotFound(f"There is no model '{model}'.", code="model_not_found", param="model")


async def _refresh(engine: Engine) -> None:
    await engine.catalog.refresh(max_age=_FRESH)
