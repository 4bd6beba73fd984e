"""What is known of one request once its last byte has gone out: for traces, metrics and logs."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from proxy.run.ledger import Ledger
    from proxy.run.plan import Plan

#: A later version may have more behind it; version ff is none.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?:-.*)?"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Seconds; ``began`` is a time of day, since the epoch."""

    id: str
    path: str
    began: float
    seconds: float
    #: The HTTP status, 499 where the client has gone; and the code of an error, or ''.
    status: int
    code: str
    stream: bool
    #: Which client, as a digest; '' where it was not let in.
    tenant: str
    #: W3C trace context: the ids of the trace, of this request in it, and of the caller's span.
    trace: Trace
    #: None where the request was refused before it was settled.
    plan: Plan | None
    ledger: Ledger
    #: The sum over all calls, in the shape of OpenAI's ``usage``.
    usage: Mapping[str, Any] = field(default_factory=dict)
    #: Members of an ensemble that could not be asked.
    missing: Sequence[str] = ()
    #: The client's own members and their bytes on the wire; None where they could not be read.
    request: Mapping[str, Any] | None = field(default=None, repr=False)
    request_size: int = 0
    #: The answer, where it was no stream; and what was said of what has gone wrong, if anything.
    body: bytes | None = field(default=None, repr=False)
    error: str = ""

    @property
    def approach(self) -> str:
        """As it was selected; ``-`` where nothing was."""
        return "-" if self.plan is None else self.plan.approach

    @property
    def model(self) -> str:
        """The base model or the ensemble; ``-`` where nothing was settled."""
        return "-" if self.plan is None else self.plan.base

    @property
    def first(self) -> float | None:
        """Seconds to the first byte of the first call's answer."""
        seen = [call.first for call in self.ledger.calls if call.first is not None]
        return min(seen, default=None)


@dataclass(frozen=True, slots=True)
class Trace:
    """W3C trace context (``traceparent``): hexadecimal ids."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    sampled: bool = True

    @classmethod
    def begin(cls) -> Trace:
        """A trace that begins here."""
        return cls(f"{random.getrandbits(128) or 1:032x}", new_span_id())

    @classmethod
    def of(cls, traceparent: str) -> Trace:
        """The caller's trace, with a span of our own; a new one where the header is malformed."""
        found = _TRACEPARENT.fullmatch(traceparent.strip())
        own = cls.begin()
        if found is None or not int(found["trace"], 16) or not int(found["span"], 16):
            return own
        sampled = bool(int(found["flags"], 16) & 1)
        return cls(found["trace"], own.span_id, found["span"], sampled)

    def header_of(self, span_id: str) -> str:
        """``traceparent`` as a span of this trace sends it."""
        return f"00-{self.trace_id}-{span_id}-{'01' if self.sampled else '00'}"


def new_span_id() -> str:
    """The id of a span: 16 hexadecimal digits."""
    return f"{random.getrandbits(64) or 1:016x}"


class Sink(Protocol):
    """Told of each request that has ended, on the thread that served it. Does not block."""

    def ended(self, record: Record) -> None: ...

    def close(self) -> None:
        """Write what is left: this process ends."""
        ...


class Telemetry:
    """All who are told; with ``texts`` also of what was asked and answered."""

    def __init__(self, sinks: Sequence[Sink] = (), *, texts: bool = False) -> None:
        self._sinks = tuple(sinks)
        self.texts = texts

    def ended(self, record: Record) -> None:
        for sink in self._sinks:
            sink.ended(record)
