"""Spans for an OpenTelemetry collector: OTLP over HTTP, in the background.

Names and attributes are those of the semantic conventions for generative AI. No text is exported.
Needs the extra ``otel``; imported only where an endpoint is configured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from proxy.run.ledger import CallRecord
from proxy.telemetry.batches import Batches
from proxy.telemetry.record import Record, Trace, new_span_id

_log = logging.getLogger("optillm.telemetry")

_PATH = "/v1/traces"
#: Seconds that one export may take, with all its repetitions.
_TIMEOUT = 5.0
#: Spans of one export.
_MOST = 512
_SECOND = 1_000_000_000
_UNSET, _ERROR = Status(), Status(StatusCode.ERROR)


@dataclass(frozen=True, slots=True)
class _Request:
    """What its spans take of a request; none of its text."""

    name: str
    trace: Trace
    began: float
    seconds: float
    failed: bool
    attributes: dict[str, Any]
    calls: Sequence[CallRecord]


class Exporter:
    """A `proxy.telemetry.record.Sink`. A collector that is away costs its spans, nothing else."""

    def __init__(self, endpoint: str, *, version: str = "") -> None:
        url = endpoint.rstrip("/")
        self._exporter: SpanExporter = OTLPSpanExporter(
            endpoint=url if url.endswith(_PATH) else url + _PATH, timeout=_TIMEOUT
        )
        # It would tell of each attempt; we tell once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._resource = Resource.create(
            {"service.name": "optillm-proxy", "service.version": version}
        )
        self._scope = InstrumentationScope("optillm", version)
        self._failing = False
        self._batches: Batches[_Request] = Batches("otel", self._export)

    def ended(self, record: Record) -> None:
        if record.trace.sampled:
            calls = record.ledger.calls
            failed = record.code or (str(record.status) if record.status >= 400 else "")
            request = _Request(
                name=f"chat {record.model}",
                trace=record.trace,
                began=record.began,
                seconds=record.seconds,
                failed=bool(failed),
                attributes=_request_attributes(record, failed),
                calls=calls,
            )
            self._batches.put(request, calls)

    def close(self) -> None:
        self._batches.close()
        self._exporter.shutdown()

    def _export(self, batch: Sequence[_Request]) -> None:
        spans = [span for request in batch for span in self._spans(request)]
        for first in range(0, len(spans), _MOST):
            result = self._exporter.export(spans[first : first + _MOST])
            failing = result is not SpanExportResult.SUCCESS
            if failing != self._failing:
                self._failing = failing
                _log.warning(
                    "the OpenTelemetry collector %s", "takes no spans" if failing else "is back"
                )
            if failing:
                # The others would have to wait as long.
                return

    def _spans(self, request: _Request) -> Iterator[ReadableSpan]:
        """The request's, and one for each call."""
        trace = request.trace
        own = _context(trace, trace.span_id)
        yield ReadableSpan(
            name=request.name,
            context=own,
            parent=_context(trace, trace.parent_id) if trace.parent_id else None,
            resource=self._resource,
            instrumentation_scope=self._scope,
            kind=SpanKind.SERVER,
            attributes=_present(request.attributes),
            status=_ERROR if request.failed else _UNSET,
            start_time=_nanoseconds(request.began),
            end_time=_nanoseconds(request.began + request.seconds),
        )
        for call in list(request.calls):
            if call.sent is None or call.shared:
                continue
            end = request.seconds if call.end is None else call.end
            failed = "" if call.outcome in ("ok", "cancelled") else call.outcome
            yield ReadableSpan(
                name=f"chat {call.model}",
                context=_context(trace, call.span or new_span_id()),
                parent=own,
                resource=self._resource,
                instrumentation_scope=self._scope,
                kind=SpanKind.CLIENT,
                attributes=_present(_call_attributes(call, failed)),
                status=_ERROR if failed else _UNSET,
                start_time=_nanoseconds(request.began + call.start),
                end_time=_nanoseconds(request.began + end),
            )


def _request_attributes(record: Record, failed: str) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "optillm",
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": record.usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": record.usage.get("completion_tokens"),
        "error.type": failed,
        "http.response.status_code": record.status,
        "url.path": record.path,
        "optillm.request.id": record.id,
        "optillm.approach": record.approach,
        "optillm.rounds": record.ledger.rounds,
        "optillm.exhausted": record.ledger.exhausted,
    }


def _call_attributes(call: CallRecord, failed: str) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        # Of the protocol that is spoken; who is behind it stands below.
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": call.model,
        "gen_ai.request.choice.count": call.choices if call.choices > 1 else None,
        "gen_ai.usage.input_tokens": call.prompt_tokens or None,
        "gen_ai.usage.output_tokens": call.completion_tokens or None,
        "error.type": failed,
        "optillm.provider": call.provider,
        "optillm.approach": call.approach,
        "optillm.role": call.role,
        "optillm.round": call.round,
        "optillm.outcome": call.outcome,
        "optillm.cancelled": call.why,
        "optillm.seconds_to_first_byte": call.first and call.first - call.start,
    }


def _present(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value not in (None, "")}


def _context(trace: Trace, span_id: str) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), False, flags)


def _nanoseconds(at: float) -> int:
    return round(at * _SECOND)
