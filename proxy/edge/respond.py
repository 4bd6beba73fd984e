"""Flask responses: JSON, streams, errors; and the one log line of each request."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson
from flask import Response

from proxy.edge.client import ClientGone, ClientSocket
from proxy.edge.handoff import Job
from proxy.errors import ProxyError
from proxy.run.attendance import Attendance
from proxy.run.engine import Outcome
from proxy.run.ledger import Ledger
from proxy.run.plan import Plan
from proxy.telemetry.log_lines import Fields
from proxy.telemetry.operation import announced
from proxy.telemetry.record import Record, Telemetry, Trace
from proxy.wire.response import error_event

_log = logging.getLogger("optillm.requests")

#: What stands in a header as it is; a comma parts names.
_SAFE = "/:@+-._~ "
#: A client's own request id is kept if it looks like one.
_LONGEST_ID = 128


@dataclass(slots=True)
class Exchange:
    """One request on its way through the edge: what its log line will say."""

    id: str
    path: str
    began: float = field(default_factory=time.monotonic)
    #: The same moment as a time of day.
    at: float = field(default_factory=time.time)
    approach: str = "-"
    model: str = "-"
    stream: bool = False
    tenant: str = ""
    plan: Plan | None = None
    ledger: Ledger = field(default_factory=Ledger)
    attendance: Attendance = field(default_factory=Attendance)
    trace: Trace = field(default_factory=Trace.begin)
    #: Who is told of it in the end; nobody where it is no chat.
    telemetry: Telemetry | None = None
    #: The client's own members and their bytes on the wire; the answer; what went wrong.
    request: Mapping[str, Any] | None = None
    request_size: int = 0
    body: bytes | None = None
    error: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, Any], telemetry: Telemetry | None = None) -> Exchange:
        given = str(environ.get("HTTP_X_REQUEST_ID", ""))
        sound = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
        identity = given if sound else f"req_{random.getrandbits(128):032x}"
        exchange = cls(id=identity, path=str(environ.get("PATH_INFO", "")), telemetry=telemetry)
        exchange.ledger.texts = telemetry is not None and telemetry.texts
        if "HTTP_TRACEPARENT" in environ:
            exchange.trace = Trace.of(str(environ["HTTP_TRACEPARENT"]))
        return exchange

    @property
    def headers(self) -> dict[str, str]:
        """What a response is found again by, with its trace where the client has sent one; and
        what the router has chosen by now."""
        headers = {"x-request-id": self.id}
        if self.ledger.routes:
            headers["x-optillm-router"] = str(self.ledger.routes[0])
        if self.trace.parent_id:
            headers["traceparent"] = self.trace.header_of(self.trace.span_id)
        return headers

    @property
    def missing(self) -> tuple[str, ...]:
        """Members of the ensemble that could not be asked, as far as is known by now."""
        ensemble = self.plan is not None and self.plan.ensemble is not None
        return tuple(self.attendance.missing) if ensemble else ()

    def log(
        self,
        status: int,
        *,
        code: str = "-",
        summary: Mapping[str, Any] | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> None:
        summary, usage = summary or {}, usage or {}
        _log.info(self._line(status, code, summary, usage))
        if self.telemetry is not None:
            self.telemetry.ended(self._record(status, code, usage))

    def _line(
        self, status: int, code: str, summary: Mapping[str, Any], usage: Mapping[str, Any]
    ) -> Fields:
        line = Fields(
            id=self.id,
            path=self.path,
            status=status,
            code=code,
            approach=self.approach,
            model=self.model,
            stream=self.stream,
            calls=summary.get("calls", 0),
            rounds=summary.get("rounds", 0),
            tokens=usage.get("total_tokens", 0),
            ms=round(1000 * (time.monotonic() - self.began), 1),
        )
        calls = list(self.ledger.calls)
        if firsts := [call.first for call in calls if call.first is not None]:
            line["first_ms"] = round(1000 * min(firsts), 1)
        if cancelled := sum(call.outcome == "cancelled" for call in calls):
            line["cancelled"] = cancelled
        if self.missing:
            line["missing"] = ",".join(self.missing)
        if self.plan is not None:
            if self.plan.handle is not None:
                line["handle"] = self.plan.handle
            line["msg"] = announced(self.plan)
        return line

    def _record(self, status: int, code: str, usage: Mapping[str, Any]) -> Record:
        return Record(
            id=self.id,
            path=self.path,
            began=self.at,
            seconds=time.monotonic() - self.began,
            status=status,
            code="" if code == "-" else code,
            stream=self.stream,
            tenant=self.tenant,
            trace=self.trace,
            plan=self.plan,
            ledger=self.ledger,
            usage=usage or self.ledger.total_usage(),
            missing=self.missing,
            request=self.request,
            request_size=self.request_size,
            body=self.body,
            error=self.error,
        )


def json_response(
    body: bytes, exchange: Exchange, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    response = Response(body, status=status, content_type="application/json")
    response.headers.update(exchange.headers)
    if headers:
        response.headers.update(headers)
    return response


def answered(outcome: Outcome, exchange: Exchange) -> Response:
    """A finished run as JSON."""
    exchange.body = outcome.body
    exchange.log(200, summary=outcome.summary, usage=outcome.usage)
    return json_response(outcome.body or b"", exchange, headers=_summary_headers(outcome.summary))


def failed(error: ProxyError, exchange: Exchange) -> Response:
    status = error.http_status()
    exchange.error = error.message
    exchange.log(status, code=error.code, summary=error.summary, usage=error.usage)
    headers = {**_summary_headers(error.summary), **error.headers()}
    return json_response(orjson.dumps(error.body()), exchange, status, headers)


def client_gone(exchange: Exchange) -> Response:
    """Nobody reads it; 499 is nginx's word for this in logs."""
    exchange.log(499, code="client_gone")
    return Response(status=499)


class EventStream(Iterator[bytes]):
    """The body of a streamed response; closing it cancels the run.

    ``resources`` are what the view had open: the job and the admission slot.
    """

    def __init__(
        self, first: bytes, job: Job, client: ClientSocket, exchange: Exchange, resources: ExitStack
    ) -> None:
        self._first: bytes | None = first
        self._job = job
        self._client = client
        self._exchange = exchange
        self._resources = resources
        self._outcome: Outcome | None = None
        self._closed = False

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._outcome is not None:
            raise StopIteration
        try:
            taken = self._job.take(self._client)
        except ClientGone:
            raise StopIteration from None
        except ProxyError as error:
            return self._broken(error)
        except Exception as bug:  # noqa: BLE001 - the edge's last line: client and log are told
            _log.error("unexpected error in request %s", self._exchange.id, exc_info=bug)
            return self._broken(ProxyError("The proxy has an internal error; its log says more."))
        if isinstance(taken, bytes):
            return taken
        self._outcome = taken
        raise StopIteration

    def _broken(self, error: ProxyError) -> bytes:
        self._outcome = Outcome(None, {}, error=error)
        return error_event(error)

    def close(self) -> None:
        """Called by the WSGI server in the end, whatever that end is."""
        if self._closed:
            return
        self._closed = True
        self._resources.close()
        outcome = self._outcome
        if outcome is None:
            self._exchange.log(499, code="client_gone")
        else:
            code = "-"
            if outcome.error is not None:
                code, self._exchange.error = outcome.error.code, outcome.error.message
            self._exchange.log(200, code=code, summary=outcome.summary, usage=outcome.usage)


def event_stream(body: EventStream, exchange: Exchange) -> Response:
    response = Response(body, content_type="text/event-stream; charset=utf-8")
    response.headers.update(exchange.headers)
    response.headers["Cache-Control"] = "no-cache"
    # nginx in front would otherwise collect the stream.
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _summary_headers(summary: Mapping[str, Any]) -> dict[str, str]:
    headers = {
        f"x-optillm-{name}": str(summary[name])
        for name in ("approach", "calls", "rounds", "exhausted")
        if summary.get(name) is not None
    }
    if summary.get("skipped"):
        headers["x-optillm-skipped"] = "; ".join(summary["skipped"])
    if summary.get("shared") and not summary["calls"]:
        headers["x-optillm-shared"] = ",".join(sorted(summary["shared"]))
    if summary.get("members_missing"):
        # A model may have any name.
        names = (quote(name, safe=_SAFE) for name in summary["members_missing"])
        headers["x-optillm-members-missing"] = ",".join(names)
    return headers
