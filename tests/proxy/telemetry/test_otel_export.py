"""Spans for an OpenTelemetry collector: what is sent, and a collector that is away."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, chat_body, eventually, free_port
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from optictl.simulator import Fault, SimulatorThread
from proxy.settings import Tracing

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Collector:
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, path: str, sent: Any) -> None:
        self.paths.append(path)
        for resource in sent.resource_spans:
            members = resource.resource.attributes
            self.resources.append({each.key: each.value.string_value for each in members})
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def attributes(span: Span) -> dict[str, Any]:
    values = {each.key: each.value for each in span.attributes}
    return {name: getattr(value, value.WhichOneof("value")) for name, value in values.items()}


def proxy_telling(make_proxy: MakeProxy, url: str) -> InProcess:
    return make_proxy(tracing=Tracing(otel=url), version="1.2.3")


def test_a_request_and_its_calls_are_spans(make_proxy: MakeProxy, collector: Collector) -> None:
    proxy = proxy_telling(make_proxy, collector.url)
    proxy.post(
        json=chat_body("bon-sim", content="a secret question"),
        headers={"traceparent": PARENT, "x-request-id": "r1"},
    )
    assert eventually(lambda: len(collector.spans) == 7)
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "optillm-proxy"
    assert collector.resources[0]["service.version"] == "1.2.3"
    request, *calls = collector.spans
    assert {span.trace_id for span in collector.spans} == {bytes.fromhex("a" * 32)}
    assert request.parent_span_id == bytes.fromhex("b" * 16)
    assert {call.parent_span_id for call in calls} == {request.span_id}
    assert len({span.span_id for span in collector.spans}) == 7
    assert (request.kind, calls[0].kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert (request.name, calls[0].name) == ("chat sim", "chat sim")
    told = attributes(request)
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "sim",
        "http.response.status_code": 200,
        "optillm.approach": "bon",
        "optillm.request.id": "r1",
    }.items() <= told.items()
    made = [attributes(call) for call in calls]
    assert sorted(each["optillm.role"] for each in made) == ["judge"] * 3 + ["proposer"] * 3
    assert (
        sum(each["gen_ai.usage.output_tokens"] for each in made)
        == (told["gen_ai.usage.output_tokens"])
    )
    for call in calls:
        assert request.start_time_unix_nano <= call.start_time_unix_nano <= call.end_time_unix_nano
    assert "secret" not in "".join(map(str, collector.spans))


def test_spans_of_calls_are_those_that_were_sent_upstream(
    make_proxy: MakeProxy, collector: Collector, sim: SimulatorThread
) -> None:
    # Without a traceparent of the client's: we are the first who trace.
    proxy_telling(make_proxy, collector.url).ask("bon-sim")
    assert eventually(lambda: len(collector.spans) == 7)
    sent = {call.headers["traceparent"].split("-")[2] for call in sim.log.records}
    assert sent == {span.span_id.hex() for span in collector.spans[1:]}


def test_what_failed_is_an_error(
    make_proxy: MakeProxy, collector: Collector, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault(400),))
    proxy_telling(make_proxy, collector.url).ask()
    assert eventually(lambda: len(collector.spans) >= 2)
    for span in collector.spans:
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert attributes(span)["error.type"] == "simulated_400"


def test_a_caller_who_does_not_sample_is_not_told_of(
    make_proxy: MakeProxy, collector: Collector
) -> None:
    proxy = proxy_telling(make_proxy, f"{collector.url}/v1/traces")
    proxy.post(json=chat_body(), headers={"traceparent": PARENT[:-2] + "00"})
    proxy.ask()
    assert eventually(lambda: len(collector.spans) == 2)
    assert bytes.fromhex("a" * 32) not in {span.trace_id for span in collector.spans}


def test_a_collector_that_is_away_stops_nothing_and_is_told_once(
    make_proxy: MakeProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = proxy_telling(make_proxy, f"http://127.0.0.1:{free_port()}")
    for _ in range(3):
        assert proxy.ask().status_code == 200
    assert eventually(lambda: "takes no spans" in caplog.text)
    assert proxy.ask().status_code == 200
    assert caplog.text.count("takes no spans") == 1
