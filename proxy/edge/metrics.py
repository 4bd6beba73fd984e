"""``/metrics``: what the whole service has counted, whichever worker is asked."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from flask import Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy.board import Board, Row
from proxy.edge.auth import authenticate
from proxy.edge.respond import Exchange, failed
from proxy.errors import ProxyError
from proxy.registry import Registry
from proxy.settings import Settings
from proxy.telemetry import metrics as m
from proxy.telemetry.counters import Counters, Key
from proxy.telemetry.metrics import Family, Labels, Metrics
from proxy.telemetry.record import Record

_Samples = Mapping[Labels, float]


class MetricViews(Collector):
    """Told of each request (`proxy.telemetry.record.Sink`), and asked by Prometheus."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        board: Board,
        counters: Counters,
        known: Callable[[], Collection[str]],
    ) -> None:
        self._settings = settings
        self._board = board
        self._counters = counters
        self._lock = threading.Lock()
        slugs = frozenset(entry.slug for entry in registry)
        self._metrics = Metrics(counters, slugs, settings.ensembles, known)
        self._shown = CollectorRegistry(auto_describe=False)
        self._shown.register(self)

    def metrics(self) -> Response:
        exchange = Exchange.of(request.environ)
        try:
            authenticate(request.environ, self._settings.proxy_key)
        except ProxyError as error:
            return failed(error, exchange)
        return Response(
            generate_latest(self._shown), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

    def adopt(self, row: Row) -> None:
        """Count in a row of the board from now on."""
        with self._lock:
            self._metrics.adopt(row.number)

    def ended(self, record: Record) -> None:
        with self._lock:
            self._metrics.count(record)

    def close(self) -> None:
        """All is written where it stays."""

    def saw(self, states: Iterable[tuple[str, str]]) -> None:
        """How this worker finds each provider now: its breaker's state."""
        with self._lock:
            for provider, state in states:
                self._metrics.saw(provider, state)

    def collect(self) -> Iterator[Metric]:
        rows = self._board.serving
        with self._lock:
            columns = self._counters.columns()
        numbers = [row.number for row in rows]
        cells = {
            key[1]: self._counters.values(column, numbers)
            for key, column in columns.items()
            if key[0] == m.UP.name
        }
        yield from _counted(self._counters.totals(columns))
        for family, samples in (*self._present(rows), *_providers(cells)):
            if family.kind == "counter":
                yield _counter(family, samples)
            else:
                shown = GaugeMetricFamily(family.name, family.help, labels=family.labels)
                for labels, value in samples.items():
                    shown.add_metric(labels, value)
                yield shown

    def _present(self, rows: Sequence[Row]) -> Iterator[tuple[Family, _Samples]]:
        """What the board knows of the workers that serve."""
        now, board, settings = time.monotonic(), self._board, self._settings
        every = settings.beat_every
        lags = (max(row.lag, now - row.beat - every) for row in rows)
        ready = bool(rows) and all(row.ready for row in rows) and not board.stopping
        for family, value in (
            (m.LOST, board.lost),
            (m.IN_FLIGHT, sum(row.requests for row in rows)),
            (m.CALLS_IN_FLIGHT, sum(row.under_way for row in rows)),
            (m.QUEUED, sum(row.waiting for row in rows)),
            (m.WORKERS, len(rows)),
            (m.TASKS, sum(row.tasks for row in rows)),
            (m.LAG, max(lags, default=0.0)),
            (m.READY, ready),
            (m.DEGRADED, settings.degraded),
            (m.REFUSED, bool(board.refusal)),
        ):
            yield family, {(): float(value)}


def _providers(cells: Mapping[str, Sequence[float]]) -> Iterator[tuple[Family, _Samples]]:
    """``cells`` are what each worker finds, by provider."""
    up: dict[Labels, float] = {}
    states: dict[Labels, float] = {}
    for provider, found in cells.items():
        # 0: a worker that has no such provider.
        seen = Counter(m.STATES[int(cell) - 1] for cell in found if cell)
        if seen:
            up[(provider,)] = float(seen["closed"] == seen.total())
            states |= {(provider, state): float(seen[state]) for state in m.STATES}
    yield m.UP, up
    yield m.STATE, states


def _counted(totals: Mapping[Key, float]) -> Iterator[Metric]:
    by_name: dict[str, dict[Labels, float]] = defaultdict(dict)
    for (name, *labels), value in totals.items():
        by_name[name][tuple(labels)] = value
    for family in m.COUNTED:
        samples = by_name[family.name]
        yield _histogram(family, samples) if family.bounds else _counter(family, samples)


def _counter(family: Family, samples: _Samples) -> Metric:
    shown = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in samples.items():
        shown.add_metric(labels, value)
    return shown


def _histogram(family: Family, samples: _Samples) -> Metric:
    """``samples`` hold the count of each bucket, and the sum, in front of the labels."""
    shown = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels in [labels for part, *labels in samples if part == "sum"]:
        upto, buckets = 0.0, []
        for bound in m.edges(family):
            upto += samples[bound, *labels]
            buckets.append((bound, upto))
        shown.add_metric(labels, buckets, sum_value=samples["sum", *labels])
    return shown
