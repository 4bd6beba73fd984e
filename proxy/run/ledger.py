"""What one request did: every upstream call, its round, its cost, how it ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.wire.assemble import Assembler

if TYPE_CHECKING:
    from proxy.chat import Reply
    from proxy.router.ladder import Choice


@dataclass(slots=True)
class CallRecord:
    """One attempt at an upstream call. Times are seconds since the request began.

    ``outcome`` is "waiting", "running", "ok", "cancelled" or the code of an error.
    """

    role: str
    model: str
    round: int
    choices: int
    start: float
    #: The approach that made it.
    approach: str = ""
    provider: str | None = None
    #: When it was sent, after any waiting for room at a provider.
    sent: float | None = None
    first: float | None = None
    end: float | None = None
    outcome: str = "waiting"
    #: Why it was cancelled: "decided", "client_gone", "deadline", "shutdown", "slow" (where others
    #: were enough) or "overtaken" (by another attempt at the same call); else ''.
    why: str = ""
    #: Its id in the request's trace; '' where nobody follows that.
    span: str = ""
    #: Another attempt took its place.
    repeated: bool = False
    #: The provider at which the attempt failed whose place this one took.
    instead_of: str | None = None
    #: No call was made: ``provider`` says where the answer is from, "cache" or "flight".
    shared: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: What was asked, and what makes the answer as far as it has come; None unless texts are kept.
    request: Mapping[str, Any] | None = field(default=None, repr=False)
    answer: Callable[[], Mapping[str, Any]] | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "approach": self.approach,
            "role": self.role,
            "model": self.model,
            "provider": self.provider,
            "round": self.round,
            "choices": self.choices,
            "start": round(self.start, 4),
            "sent": None if self.sent is None else round(self.sent, 4),
            "first": None if self.first is None else round(self.first, 4),
            "end": None if self.end is None else round(self.end, 4),
            "outcome": self.outcome,
            "why": self.why or None,
            "shared": self.shared,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of those that a decision was made among."""

    #: The reply, or the answer that several of them come to. Its text is for nobody's eyes unless
    #: the operator wants texts kept.
    said: Reply | str = field(repr=False)
    #: What it got: votes, or a rating; None where it got none.
    score: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """How an approach came to its answer, or to a step on the way."""

    #: The approach, and the kind of decision: vote, rating, selection, check, route.
    approach: str
    kind: str
    candidates: tuple[Candidate, ...]
    #: The index of the candidate that won; None where none did.
    winner: int | None
    #: Seconds since the request began.
    at: float
    #: Why, in a few words: "4 of 5 agree".
    why: str = ""


@dataclass(slots=True)
class Ledger:
    """Filled as the request runs. ``watch`` is told of each call as it begins and ends."""

    began: float = field(default_factory=time.monotonic)
    calls: list[CallRecord] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    unreported: int = 0
    skipped: list[str] = field(default_factory=list)
    exhausted: str | None = None
    decisions: list[Decision] = field(default_factory=list)
    #: What the approach ``router`` has chosen, once for each choice of the response.
    routes: list[Choice] = field(default_factory=list)
    #: Whether what is asked and answered is kept: the operator wants to read it.
    texts: bool = False
    #: By choice, what a client that reads along has been told, where texts are kept.
    streamed: dict[int, Assembler] = field(default_factory=dict)
    #: When the first content of a stream went out to the client.
    spoken: float | None = None
    watch: Callable[[CallRecord], None] | None = None

    def now(self) -> float:
        return time.monotonic() - self.began

    def begin(
        self, role: str, model: str, round_: int, choices: int = 1, approach: str = ""
    ) -> CallRecord:
        """A call is to be made; it counts as made once it is `sent`."""
        record = CallRecord(role, model, round_, choices, start=self.now(), approach=approach)
        self.calls.append(record)
        return record

    def sent(self, record: CallRecord, provider: str) -> None:
        record.sent = self.now()
        record.provider = provider
        record.outcome = "running"
        if self.watch is not None:
            self.watch(record)

    def share(self, record: CallRecord, source: str) -> None:
        """No call is made for it; ``source`` is where its answer is from."""
        record.shared = True
        self.sent(record, source)

    def end(self, record: CallRecord, outcome: str, usage: Mapping[str, Any] | None = None) -> None:
        record.end = self.now()
        if record.sent is None:
            # Nobody was asked: there is nothing to account for.
            self.calls.remove(record)
            return
        record.outcome = outcome
        if usage:
            record.prompt_tokens = _count(usage.get("prompt_tokens"))
            record.completion_tokens = _count(usage.get("completion_tokens"))
            both = record.prompt_tokens + record.completion_tokens
            total = _count(usage.get("total_tokens")) or both
            add_usage(self.usage, {**usage, "total_tokens": total})
        elif not record.shared:
            self.unreported += 1
        if self.watch is not None:
            self.watch(record)

    def told(self, index: int) -> Assembler | None:
        """What is to hear all that the choice at ``index`` streams; None: nobody wants to."""
        return self.streamed.setdefault(index, Assembler()) if self.texts else None

    def decide(
        self,
        approach: str,
        kind: str,
        candidates: Iterable[tuple[Reply | str, float | None]],
        winner: int | None,
        why: str = "",
    ) -> None:
        """Remember how ``approach`` chose."""
        told = tuple(Candidate(said, score) for said, score in candidates)
        self.decisions.append(Decision(approach, kind, told, winner, self.now(), why))

    @property
    def choices(self) -> int:
        """Calls as they are billed and declared: one for each choice asked for."""
        return sum(record.choices for record in self._made)

    @property
    def committed(self) -> int:
        """The same for a budget: with calls that wait, without those that were repeated."""
        return sum(r.choices for r in self.calls if not (r.repeated or r.shared))

    @property
    def rounds(self) -> int:
        """The longest chain of calls that waited for each other."""
        return max((record.round for record in self._made), default=0)

    @property
    def _made(self) -> list[CallRecord]:
        """The calls that were."""
        return [r for r in self.calls if r.sent is not None and not r.shared]

    @property
    def shared(self) -> dict[str, int]:
        """How many answers there are for which no call was made, by where they are from."""
        return dict(Counter(r.provider for r in self.calls if r.shared and r.provider))

    def anything_beside(self, record: CallRecord) -> bool:
        """Whether another call of the same round has come back, or may still."""
        return any(
            other.round == record.round and other.outcome in ("waiting", "running", "ok")
            for other in self.calls
            if other is not record
        )

    @property
    def under_way(self) -> frozenset[str]:
        """The models that are being asked, or wait to be."""
        return frozenset(record.model for record in self.calls if record.end is None)

    @property
    def total_tokens(self) -> int:
        return _count(self.usage.get("total_tokens"))

    def total_usage(self) -> dict[str, Any]:
        """The sum over all calls, in the shape OpenAI's clients read."""
        return complete_usage(self.usage)

    def usual_duration(self) -> float | None:
        """Mean seconds of the calls that came back, or None before any did."""
        done = [r.end - r.start for r in self._made if r.end is not None and r.outcome == "ok"]
        return sum(done) / len(done) if done else None

    def summary(self, approach: str, *, trace: bool) -> dict[str, Any]:
        """The ``optillm`` object of a response."""
        summary: dict[str, Any] = {
            "approach": approach,
            "calls": self.choices,
            "rounds": self.rounds,
            "exhausted": self.exhausted,
            "skipped": self.skipped,
            "unreported_calls": self.unreported,
        }
        if self.routes:
            summary["router"] = self.routes[0].as_json()
        if shared := self.shared:
            summary["shared"] = shared
        if trace:
            summary["trace"] = [r.as_json() for r in self.calls if r.sent is not None]
        return summary


def add_usage(total: dict[str, Any], usage: Mapping[str, Any]) -> None:
    """Add every number of ``usage`` to ``total``, member by member."""
    for name, value in usage.items():
        if isinstance(value, dict):
            nested = total.setdefault(name, {})
            if isinstance(nested, dict):
                add_usage(nested, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = total.get(name, 0) + value


def complete_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """``usage`` with the members that clients index without asking."""
    prompt = _count(usage.get("prompt_tokens"))
    completion = _count(usage.get("completion_tokens"))
    given = usage.get("completion_tokens_details")
    details = given if isinstance(given, dict) else {}
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": _count(usage.get("total_tokens")) or prompt + completion,
        "completion_tokens_details": {
            **details,
            "reasoning_tokens": _count(details.get("reasoning_tokens")),
        },
    }


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
