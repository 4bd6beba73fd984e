"""``GET /v1/traces``, ``GET /v1/traces/{request_id}`` and ``GET /v1/usage``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import orjson
from flask import Response, request

from proxy.edge.auth import authenticate
from proxy.edge.respond import Exchange, failed, json_response
from proxy.errors import BadRequest, NotFound, ProxyError
from proxy.settings import Settings
from proxy.telemetry.ring import RECORDS
from proxy.telemetry.traces import Traces

_FILTERS = ("approach", "model", "handle", "status")
_LIMIT = 20
_DAYS = 7
_MOST_DAYS = 400
#: What a listing leaves out.
_LARGE = frozenset({"answer", "calls", "decisions", "prompt", "skipped"})


class TraceViews:
    """What the service remembers of its requests."""

    def __init__(self, settings: Settings, traces: Traces) -> None:
        self._settings = settings
        self._traces = traces

    def listing(self) -> Response:
        """The newest first, without their calls; ``limit``, and filters that must be equal."""
        return self._answered(self._listed)

    def one(self, identity: str) -> Response:
        """The newest of that id, with its calls and decisions."""
        return self._answered(lambda: self._found(identity))

    def usage(self) -> Response:
        """What the last ``days`` have used, today (UTC) among them."""
        return self._answered(self._used)

    def _answered(self, make: Callable[[], Mapping[str, Any]]) -> Response:
        exchange = Exchange.of(request.environ)
        try:
            authenticate(request.environ, self._settings.proxy_key)
            body = make()
        except ProxyError as error:
            return failed(error, exchange)
        exchange.log(200)
        return json_response(orjson.dumps(body), exchange)

    def _listed(self) -> Mapping[str, Any]:
        limit = _number("limit", _LIMIT, RECORDS)
        wanted = {name: request.args[name] for name in _FILTERS if name in request.args}
        matching = (
            {name: value for name, value in entry.items() if name not in _LARGE}
            | {"calls": len(entry["calls"])}
            for entry in self._traces.newest()
            if all(str(entry[name]) == value for name, value in wanted.items())
        )
        return {"object": "list", "data": list(islice(matching, limit))}

    def _found(self, identity: str) -> Mapping[str, Any]:
        found = next(self._traces.newest(identity), None)
        if found is None:
            raise NotFound(
                f"There is no trace of request '{identity}': the last {RECORDS:,} are kept.",
                code="trace_not_found",
            )
        return {"object": "trace", **found}

    def _used(self) -> Mapping[str, Any]:
        days = _number("days", _DAYS, _MOST_DAYS)
        first = (datetime.now(UTC) - timedelta(days=days - 1)).date().isoformat()
        rows, kept = self._traces.usage()
        data = [row.as_json() for row in rows if row.day >= first]
        return {"object": "usage", "since": first, "kept": kept, "data": data}


def _number(name: str, default: int, most: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise BadRequest(f"'{name}' must be a whole number from 1 to {most}.", param=name)
    return int(text)
