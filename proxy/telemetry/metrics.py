"""The metrics: what there is, and what one request adds to it.

Labels are bounded: an approach is a registered one, a model one that the upstream or the operator
names, and of everything else there are so many values at most, of all workers; the rest is "other".
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.ensembles import Ensemble
from proxy.run.ledger import CallRecord
from proxy.telemetry.counters import Counters, Key
from proxy.telemetry.record import Record

_log = logging.getLogger("optillm.metrics")

Labels = tuple[str, ...]

OTHER = "other"
#: The values of a label that are told apart: pipelines for ``approach``.
_MOST = {"approach": 50, "model": 200, "provider": 200, "code": 100}

#: The codes of refusals that say: not now.
_NO_ROOM = ("overloaded", "queue_full", "queue_timeout")

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_FIRST = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 200.0)
_WAITED = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 60.0, 120.0, 300.0)
#: With 0.55 and 0.99, from where on the classifier and the linear model count as sure.
_SURE = (0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_ROUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 40.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; ``bounds`` are the upper ones of a histogram's buckets, without infinity."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """Its name as Prometheus has it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


REQUESTS = Family(
    "optillm_requests", "counter", "Chats that have ended; code is that of an error, or ok.",
    ("approach", "status", "code"),
)  # fmt: skip
FULL = Family(
    "optillm_requests_turned_away", "counter", "Chats that were refused for want of room.",
    ("code",),
)  # fmt: skip
SECONDS = Family(
    "optillm_request_seconds", "histogram", "Time of chats that were answered.",
    ("approach",), _SECONDS,
)  # fmt: skip
FIRST = Family(
    "optillm_first_token_seconds", "histogram",
    "Time to the first content of streams that were answered.", ("approach",), _FIRST,
)  # fmt: skip
ROUNDS = Family(
    "optillm_rounds", "histogram",
    "Upstream calls of an answered chat that waited for each other.", ("approach",), _ROUNDS,
)  # fmt: skip
CALLS = Family(
    "optillm_upstream_calls", "counter",
    "Attempts at upstream calls; outcome is ok, cancelled or the code of an error.",
    ("provider", "model", "outcome"),
)  # fmt: skip
CANCELLED = Family(
    "optillm_calls_cancelled", "counter", "Upstream calls that were cancelled, and why.",
    ("approach", "why"),
)  # fmt: skip
TOKENS = Family(
    "optillm_tokens", "counter", "Tokens that the upstream has reported.", ("model", "kind")
)
WAITED = Family(
    "optillm_queue_wait_seconds", "histogram", "Time that calls waited for room at a provider.",
    ("provider",), _WAITED,
)  # fmt: skip
FAILOVERS = Family(
    "optillm_failovers", "counter", "Calls that went to another provider after this one failed.",
    ("provider",),
)  # fmt: skip
RETRIES = Family(
    "optillm_retries", "counter", "Calls that were made once more at the same provider.",
    ("provider",),
)  # fmt: skip
MISSING = Family(
    "optillm_members_missing", "counter", "Requests that could not ask this member.",
    ("ensemble", "model"),
)  # fmt: skip
EXHAUSTED = Family(
    "optillm_budget_exhausted", "counter", "Chats that were ended by a limit, by which.",
    ("reason",),
)  # fmt: skip
SHARED = Family(
    "optillm_calls_shared", "counter", "Calls that were not made: another's answer was there.",
    ("source",),
)  # fmt: skip
ROUTED = Family(
    "optillm_router_decisions", "counter", "Approaches that the router has chosen, and by what.",
    ("approach", "source"),
)  # fmt: skip
SURE = Family(
    "optillm_router_confidence", "histogram",
    "How sure the router was of what it has chosen: a share of 1.", ("source",), _SURE,
)  # fmt: skip
LOST = Family("optillm_requests_lost", "counter", "Requests that were lost with workers that died.")
IN_FLIGHT = Family("optillm_requests_in_flight", "gauge", "Chats admitted and not answered.")
CALLS_IN_FLIGHT = Family(
    "optillm_upstream_calls_in_flight", "gauge", "Upstream calls that are not answered yet."
)
QUEUED = Family("optillm_queue_depth", "gauge", "Upstream calls that wait for room at a provider.")
WORKERS = Family("optillm_workers", "gauge", "Workers that serve.")
TASKS = Family("optillm_tasks", "gauge", "Tasks on all event loops.")
LAG = Family(
    "optillm_loop_lag_seconds", "gauge", "By how much the slowest worker's event loop is late."
)
READY = Family("optillm_ready", "gauge", "1 while every worker finds the upstream usable.")
DEGRADED = Family("optillm_degraded", "gauge", "1 while every request is answered by none.")
REFUSED = Family("optillm_reload_refused", "gauge", "1 while an older configuration serves on.")
UP = Family(
    "optillm_provider_up", "gauge", "1 while every worker finds the provider well.", ("provider",)
)
STATE = Family(
    "optillm_provider_state", "gauge", "Workers whose breaker for the provider is in this state.",
    ("provider", "state"),
)  # fmt: skip

#: Added up as requests end.
COUNTED = (
    REQUESTS, FULL, SECONDS, FIRST, ROUNDS, CALLS, CANCELLED, TOKENS, WAITED, FAILOVERS, RETRIES,
    MISSING, EXHAUSTED, SHARED, ROUTED, SURE,
)  # fmt: skip
#: As things are at a scrape.
PRESENT = (
    LOST, IN_FLIGHT, CALLS_IN_FLIGHT, QUEUED, WORKERS, TASKS, LAG, READY, DEGRADED, REFUSED, UP,
    STATE,
)  # fmt: skip
FAMILIES = COUNTED + PRESENT

#: A breaker's states as they stand in a worker's cell; 0 is none of them.
STATES = ("closed", "half-open", "open")


class Metrics:
    """This worker's part in ``counters``. Used by one thread at a time.

    ``slugs`` are the approaches that there are, ``known`` tells the models that the upstream lists.
    """

    def __init__(
        self,
        counters: Counters,
        slugs: Collection[str],
        ensembles: Mapping[str, Ensemble],
        known: Callable[[], Collection[str]],
    ) -> None:
        self._counters = counters
        self._slugs = slugs
        self._known = known
        self._ensembles = ensembles
        self._members = {
            member.model for ensemble in ensembles.values() for member in ensemble.team.members
        }
        self._columns: dict[Key, Sequence[int]] = {}
        self._cells = counters.row(0)

    def adopt(self, row: int) -> None:
        """Go on with a row of the board: its counts stay, what its last owner saw does not."""
        self._cells = self._counters.row(row)
        for key, column in self._counters.columns().items():
            if key[0] == UP.name:
                self._cells[column] = 0.0
        # Prometheus sees no increase in what begins with its first count.
        for code in _NO_ROOM:
            self._add(FULL, (code,), 0.0)
        for ensemble in self._ensembles.values():
            for member in ensemble.team.members:
                self._add(MISSING, (ensemble.name, member.model), 0.0)

    def saw(self, provider: str, state: str) -> None:
        """How this worker finds a provider now."""
        for column in self._places(UP, (self._bounded("provider", provider),)):
            self._cells[column] = 1.0 + STATES.index(state)

    def count(self, record: Record) -> None:
        """Add one request."""
        approach = self._approach(record.approach)
        ledger, answered = record.ledger, record.status == 200 and not record.code
        code = self._bounded("code", record.code or "ok")
        self._add(REQUESTS, (approach, str(record.status), code))
        if record.code in _NO_ROOM:
            self._add(FULL, (record.code,))
        if answered:
            self._observe(SECONDS, (approach,), record.seconds)
            self._observe(ROUNDS, (approach,), ledger.rounds)
            if ledger.spoken is not None:
                self._observe(FIRST, (approach,), ledger.spoken)
        # The loop may still be adding to it: the client's thread does not wait for its end.
        for call in list(ledger.calls):
            if call.shared:
                self._add(SHARED, (call.provider or OTHER,))
            elif call.sent is not None:
                self._count_call(call, call.sent)
        if record.plan is not None and record.plan.ensemble is not None:
            for model in record.missing:
                self._add(MISSING, (record.plan.ensemble, model))
        if ledger.exhausted is not None:
            self._add(EXHAUSTED, (ledger.exhausted,))
        for choice in list(ledger.routes):
            self._add(ROUTED, (self._approach(choice.slug), choice.source))
            if choice.confidence is not None:
                self._observe(SURE, (choice.source,), choice.confidence)

    def _count_call(self, call: CallRecord, sent: float) -> None:
        provider = self._bounded("provider", call.provider or OTHER)
        model = self._model(call.model)
        # One that is not over by now is being cancelled.
        outcome = "cancelled" if call.outcome == "running" else call.outcome
        self._add(CALLS, (provider, model, self._bounded("code", outcome)))
        if outcome == "cancelled":
            why = call.why or "client_gone"
            self._add(CANCELLED, (self._approach(call.approach), why))
        if call.instead_of is None:
            self._observe(WAITED, (provider,), sent - call.start)
        else:
            left = self._bounded("provider", call.instead_of)
            self._add(RETRIES if call.instead_of == call.provider else FAILOVERS, (left,))
        self._add(TOKENS, (model, "prompt"), call.prompt_tokens)
        self._add(TOKENS, (model, "completion"), call.completion_tokens)

    def _approach(self, name: str) -> str:
        """A registered one or none at all as it is; pipelines as far as there is room."""
        return name if name in self._slugs or name == "-" else self._bounded("approach", name)

    def _model(self, name: str) -> str:
        own = name in self._members
        return self._bounded("model", name) if own or name in self._known() else OTHER

    def _bounded(self, kind: str, value: str) -> str:
        return value if self._counters.admits(kind, value, _MOST[kind]) else OTHER

    def _add(self, family: Family, labels: Labels, value: float = 1.0) -> None:
        for column in self._places(family, labels):
            self._cells[column] += value

    def _observe(self, family: Family, labels: Labels, value: float) -> None:
        places = self._places(family, labels)
        if places:
            self._cells[places[bisect_left(family.bounds, value)]] += 1.0
            self._cells[places[-1]] += value

    def _places(self, family: Family, labels: Labels) -> Sequence[int]:
        """A cell, or one for each bucket and one for the sum; none where there is no room left."""
        name = (family.name, *labels)
        found = self._columns.get(name)
        if found is None:
            columns = [self._counters.column(key) for key in _keys(family, labels)]
            found = [] if None in columns else [each for each in columns if each is not None]
            if not found:
                _log.warning("no room for more metrics: %s is not counted", name)
            self._columns[name] = found
        return found


def _keys(family: Family, labels: Labels) -> Iterator[Key]:
    if family.kind != "histogram":
        yield (family.name, *labels)
        return
    for part in (*edges(family), "sum"):
        yield (family.name, part, *labels)


def edges(family: Family) -> tuple[str, ...]:
    """The upper bounds of a histogram's buckets as they are written."""
    return (*map(repr, family.bounds), "+Inf")
