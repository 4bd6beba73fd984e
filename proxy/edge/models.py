"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
from flask import Response, request

from proxy.edge.auth import authenticate
from proxy.edge.loop import EngineThread
from proxy.edge.respond import Exchange, failed, json_response
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
        """The last good list; the upstream's trouble where there never was one."""
        # Whoever waits too long gets the last good list, which is better than none.
        with contextlib.suppress(TimeoutError):
            self._engine.ask(_refresh, _WAIT)
        catalog = self._engine.engine.catalog
        if not catalog.entries and catalog.trouble is not None:
            raise catalog.trouble
        return list(catalog.entries)

    def _entry(self, model: str) -> dict[str, Any]:
        entries = {entry["id"]: entry for entry in self._entries()}
        if model in entries:
            return entries[model]
        try:
            selector = select(
                model, self._registry, frozenset(entries), default_base=self._settings.model
            )
        except BadRequest as error:
            raise NotFound(error.message, code=error.code, param="model") from None
        if selector.source == "prefix" and selector.base in entries:
            return {**entries[selector.base], "id": model, "owned_by": "optillm"}
        raise NotFound(f"There is no model '{model}'.", code="model_not_found", param="model")


async def _refresh(engine: Engine) -> None:
    await engine.catalog.refresh(max_age=_FRESH)
