"""The conversation log: what was asked, every call made for it, and what was answered.

A line of JSON for each request, with the members that OptiLLM's log has. The request's thread only
puts its record aside; one thread of each worker writes.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from proxy.run.ledger import CallRecord
from proxy.run.plan import Plan
from proxy.settings import Secret
from proxy.telemetry.folder import DailyFiles
from proxy.telemetry.operation import operation_of
from proxy.telemetry.record import Record
from proxy.telemetry.redact import Cleaner, Verbatim, is_clean
from proxy.telemetry.times import utc
from proxy.wire.assemble import completion

_log = logging.getLogger("optillm.conversations")

#: Seconds between two batches: how long a record waits to be written.
_EVERY = 0.1
#: Seconds until what could not be written is tried again.
_AGAIN = 1.0
#: Seconds that the end of a worker waits for what is not written yet.
_PATIENCE = 2.0
#: Characters of one entry, more or less.
_ENTRY = 1024 * 1024
#: What waits: records, and bytes that they hold on to. What comes then is left out, and told.
_WAITING = 4_096
_WAITING_BYTES = 64 * 1024 * 1024
#: Bytes written at once.
_BATCH = 1024 * 1024
#: What a call holds on to beside its text, and a token of that.
_CALL_BYTES = 2_000
_TOKEN_BYTES = 8


class Conversations:
    """A `proxy.telemetry.record.Sink`. ``secrets`` are hidden wherever they are quoted."""

    def __init__(
        self, files: DailyFiles, secrets: Sequence[Secret] = (), *, again: float = _AGAIN
    ) -> None:
        self._files = files
        self._secrets = secrets
        self._again = again
        self._waiting: queue.SimpleQueue[tuple[int, Record] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held = 0
        self._left_out = 0
        self._failing = False
        self._closed = threading.Event()
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write; only after the fork."""
        self._writer = threading.Thread(target=self._write, name="conversations", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Write what waits, and end."""
        self._closed.set()
        self._waiting.put(None)
        if self._writer is not None:
            self._writer.join(_PATIENCE)

    def ended(self, record: Record) -> None:
        if record.request is None:
            return
        weight = _weight(record)
        with self._lock:
            if self._waiting.qsize() >= _WAITING or self._held + weight > _WAITING_BYTES:
                self._left_out += 1
                return
            self._held += weight
        self._waiting.put((weight, record))

    def _write(self) -> None:
        try:
            self._files.open()
        except OSError as error:
            self._fail(error)
        while not self._closed.is_set():
            first = self._waiting.get()
            # What else ends meanwhile is written with it, and wakes nobody.
            self._closed.wait(_EVERY)
            self._put([*([] if first is None else [first]), *self._taken()])
        self._put(self._taken())

    def _taken(self) -> list[tuple[int, Record]]:
        taken = (self._waiting.get() for _ in range(self._waiting.qsize()))
        return [each for each in taken if each is not None]

    def _put(self, taken: Sequence[tuple[int, Record]]) -> None:
        lines: list[bytes] = []
        weight = size = 0
        for index, (each, record) in enumerate(taken, start=1):
            line = self._line(record)
            lines.append(line)
            weight, size = weight + each, size + len(line)
            if size >= _BATCH or index == len(taken):
                self._append(b"".join(lines))
                with self._lock:
                    self._held -= weight
                lines, weight, size = [], 0, 0

    def _append(self, lines: bytes) -> None:
        """Write as soon as that is possible; what is left in the end, no disk would take."""
        while True:
            try:
                self._files.append(lines)
            except OSError as error:
                self._fail(error)
            else:
                self._told()
                return
            if self._closed.wait(self._again):
                return

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            _log.error("conversations are not written at present, all else goes on: %s", error)

    def _told(self) -> None:
        """The disk takes lines: say so where it did not, and what was lost meanwhile."""
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        if self._failing:
            self._failing = False
            _log.warning("conversations are written again")
        if left_out:
            _log.warning("%d conversations were left out: too many waited", left_out)

    def _line(self, record: Record) -> bytes:
        try:
            # To look through a line as a whole takes a tenth of copying what it is made of.
            line = _dumped(entry_of(record, Verbatim()))
            if line is None or not is_clean(line, self._secrets):
                line = orjson.dumps(entry_of(record, Cleaner(_ENTRY, self._secrets)))
            return line + b"\n"
        except (RuntimeError, TypeError, ValueError) as error:
            # A call that is only just being cancelled may still write to what is read here.
            _log.error("request %s is missing in the conversation log: %s", record.id, error)
            return b""


def entry_of(record: Record, cleaner: Cleaner | Verbatim) -> dict[str, Any]:
    """One request under the names that OptiLLM gave; ``truncated`` where something was too long."""
    plan = record.plan
    # What matters most comes first: it gets the room there is.
    model = cleaner.text(record.model)
    told = f"{record.code}: {record.error}" if record.error else record.code
    error = cleaner.clean(told) or None
    final = _final(record, cleaner)
    asked = cleaner.clean(_asked(record))
    made = [call for call in list(record.ledger.calls) if call.request is not None]
    calls = [_call(number, call, record, cleaner) for number, call in enumerate(made, start=1)]
    return {
        "timestamp": utc(record.began, 6),
        "request_id": record.id,
        "approach": "none" if plan is None else _approach(plan),
        "model": model,
        "client_request": asked,
        "provider_calls": calls,
        "final_response": final,
        "total_duration_ms": round(1000 * record.seconds),
        "error": error,
        **({"truncated": True} if cleaner.cut else {}),
    }


def _dumped(entry: Mapping[str, Any]) -> bytes | None:
    """A line; None for one that is nested too deep, or holds half a surrogate pair."""
    try:
        return orjson.dumps(entry)
    except TypeError:
        return None


def _approach(plan: Plan) -> str:
    """As OptiLLM writes it: ``moa``, ``AND(re2,moa)``, ``OR(moa,bon)``."""
    operation, names = operation_of(plan)
    return names[0] if operation == "SINGLE" else f"{operation}({','.join(names)})"


def _asked(record: Record) -> Mapping[str, Any]:
    """The client's request as it came, with what it has left to the defaults."""
    choices = 1 if record.plan is None else record.plan.choices
    defaults = {"model": record.model, "stream": record.stream, "n": choices}
    return {**defaults, **(record.request or {})}


def _call(
    number: int, call: CallRecord, record: Record, cleaner: Cleaner | Verbatim
) -> dict[str, Any]:
    """A call to a provider; ``response`` is what has come of it, None where nothing has."""
    return {
        "call_number": number,
        "timestamp": utc(record.began + (call.start if call.end is None else call.end), 6),
        "request": cleaner.clean(call.request),
        "response": None if call.answer is None else cleaner.clean(call.answer()),
        "provider": call.provider,
        "role": call.role,
        "outcome": call.outcome,
    }


def _final(record: Record, cleaner: Cleaner | Verbatim) -> Any:
    """What the client was answered, put together where it was streamed."""
    timestamp = utc(record.began + record.seconds, 6)
    if record.body is not None:
        return cleaner.parsed(record.body, timestamp=timestamp)
    if not record.ledger.streamed:
        return None
    model = record.model if record.plan is None else record.plan.handle or record.plan.base
    answer = completion(record.ledger.streamed, model, record.usage)
    return {**cleaner.clean(answer), "timestamp": timestamp}


def _weight(record: Record) -> int:
    """Bytes that a record keeps in memory, roughly."""
    tokens = sum(call.completion_tokens for call in list(record.ledger.calls))
    said = _CALL_BYTES * len(record.ledger.calls) + _TOKEN_BYTES * tokens
    return record.request_size + len(record.body or b"") + said
