"""One upstream call on behalf of a run: budget, ledger and depth around the port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from proxy.chat import Reply
from proxy.errors import EmptyReply, ProxyError, UpstreamError, UpstreamInvalid
from proxy.run.fan import SLOW, depth
from proxy.run.scope import Run
from proxy.telemetry.record import new_span_id
from proxy.upstream.port import Call, Json
from proxy.wire.assemble import Assembler, completion

#: Seconds that a call may wait because a provider has asked for a pause.
_PATIENCE = 10.0


class recorded:  # noqa: N801 - reads as a verb: ``with recorded(run, call, role) as recording``
    """Enter one call in the ledger, whatever becomes of it; ``recording.call`` is to be made.

    Raises `BudgetExhausted` where it cannot be paid for. Implements `proxy.upstream.port.Watch`:
    each attempt that a pool makes is an entry of its own.
    """

    __slots__ = (
        "_approach", "_asked", "_beside", "_choices", "_patient", "_record", "_role", "_run",
    )  # fmt: skip

    def __init__(
        self,
        run: Run,
        call: Call,
        role: str,
        choices: int = 1,
        *,
        approach: str = "none",
        patient: bool = True,
    ) -> None:
        run.budget.check(choices)
        self._run = run
        self._asked = call
        self._patient = patient
        self._role = role
        self._approach = approach
        self._choices = choices
        self._beside: _Beside | None = None
        self._record = run.ledger.begin(role, call.model, depth.get() + 1, choices, approach)
        if run.caller.trace is not None:
            self._record.span = new_span_id()

    @property
    def call(self) -> Call:
        """The call to be made; it tells this recording what becomes of it.

        Made where it is asked for: the two would hold each other, and with them all of the request,
        until a collection finds them.
        """
        run, trace = self._run, self._run.caller.trace
        return replace(
            self._asked,
            owner=run,
            stage=self._record.round,
            deadline=run.deadline,
            patience=_PATIENCE if self._patient else 0.0,
            watch=self,
            traceparent="" if trace is None else trace.header_of(self._record.span),
        )

    def __enter__(self) -> recorded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._beside is not None and self._beside._record.end is None:
            self._beside.__exit__(kind, error, traceback)
        if isinstance(error, ProxyError):
            self.end(error.code)
            if isinstance(error, UpstreamError):
                self._run.attendance.miss(self._asked.model, error)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit) or error is None:
            # Left before the answer was complete: whoever reads it has seen enough.
            if self._record.end is None:
                slow = error is not None and error.args == (SLOW,)
                self._record.why = SLOW if slow else self._run.why_cancelled
            self.end("cancelled")
            if self._record.first is not None:
                self._waited_for()
        else:
            self.end("failed")

    def sent(self, provider: str) -> None:
        ledger, record = self._run.ledger, self._record
        if record.end is not None:
            record.repeated = True
            span, record.span = record.span, ""
            self._record = ledger.begin(
                self._role, record.model, record.round, self._choices, self._approach
            )
            self._record.span = span
            self._record.instead_of = record.provider
        ledger.sent(self._record, provider)
        if ledger.texts:
            self._record.request = {"model": self._asked.model, **self._asked.body}

    def missed(self, error: UpstreamError) -> None:
        self._run.ledger.end(self._record, error.code)

    def needed(self) -> bool:
        return not self._run.ledger.anything_beside(self._record)

    def note(self, text: str) -> None:
        skipped = self._run.ledger.skipped
        if text not in skipped:
            skipped.append(text)

    def shared(self, source: str) -> None:
        self._run.ledger.share(self._record, source)

    def beside(self) -> _Beside:
        self._beside = _Beside(self)
        return self._beside

    def replied(self) -> None:
        """The first bytes of an answer are here."""
        if self._record.first is None:
            self._record.first = self._run.ledger.now()
            if self._run.replied is not None:
                self._run.replied()

    def keep(self, answer: Callable[[], Json]) -> None:
        """Remember what makes the answer, where somebody wants to read it."""
        if self._run.ledger.texts:
            self._record.answer = answer

    def done(self, usage: Mapping[str, Any] | None) -> None:
        """The answer is complete."""
        self.replied()
        self.end("ok", usage)
        self._run.attendance.land(self._asked.model)
        self._waited_for()

    def _waited_for(self) -> None:
        """What follows in this task has seen of this call's answer."""
        if not self._record.shared:
            depth.set(max(depth.get(), self._record.round))

    def end(self, outcome: str, usage: Mapping[str, Any] | None = None) -> None:
        if self._record.end is None:
            self._run.ledger.end(self._record, outcome, usage)


class _Beside(recorded):
    """A second attempt at a recorded call; implements `proxy.upstream.port.Rival`."""

    __slots__ = ("_first",)

    def __init__(self, first: recorded) -> None:
        self._first = first
        self._run, self._role, self._approach = first._run, first._role, first._approach
        self._choices, self._beside = first._choices, None
        self._asked, self._patient = first._asked, first._patient
        record = first._record
        self._record = self._run.ledger.begin(
            record.role, record.model, record.round, record.choices, record.approach
        )
        self._record.repeated = True

    def sent(self, provider: str) -> None:
        super().sent(provider)
        # No budget pays for it twice.
        self._record.repeated = True

    def won(self) -> None:
        ahead, behind = self._record, self._first._record
        if behind.end is None:
            behind.why = "overtaken"
            self._run.ledger.end(behind, "cancelled")
        ahead.repeated, behind.repeated = False, True
        ahead.span, behind.span = behind.span, ""
        self._first._record, self._record = ahead, behind

    def lost(self, error: UpstreamError | None) -> None:
        if error is not None:
            self.end(error.code)
        elif self._record.end is None:
            self._record.why = "overtaken"
            self.end("cancelled")


async def complete(
    run: Run, call: Call, role: str, choices: int = 1, *, approach: str = ""
) -> list[Reply]:
    """One call, one reply for each choice that came back (an upstream may ignore ``n``)."""
    async with run.slot():
        with recorded(run, call, role, choices, approach=approach) as recording:
            answer = await run.upstream.complete(recording.call)
            recording.keep(lambda: answer)
            usage = _usage(answer)
            recording.done(usage)
    return [
        Reply(
            message=choice["message"],
            finish_reason=choice.get("finish_reason") or "stop",
            model=call.model,
            usage=usage,
            logprobs=choice.get("logprobs"),
        )
        for choice in answer["choices"]
    ]


class Incoming:
    """A streamed answer of one choice: iterate its chunks' choices, then read ``reply``."""

    def __init__(self, chunks: AsyncIterator[Any], recording: recorded, model: str) -> None:
        self._chunks = chunks
        self._recording = recording
        self._model = model
        self._assembler = Assembler()
        self._usage: Mapping[str, Any] | None = None

    async def __aiter__(self) -> AsyncIterator[Json]:
        async for batch in self._chunks:
            for chunk in batch:
                self._recording.replied()
                self._usage = _usage(chunk) or self._usage
                for choice in chunk.get("choices") or ():
                    if isinstance(choice, dict):
                        self._assembler.add(choice)
                        yield choice
        if not self._assembler.complete:
            raise UpstreamInvalid("The upstream's stream ended without a finish_reason.")
        self._recording.done(self._usage)

    @property
    def reply(self) -> Reply:
        """What has arrived so far; the whole reply once the iteration has ended."""
        return self._assembler.reply(model=self._model, usage=self._usage)

    def completion(self) -> Json:
        """The same as a JSON body."""
        return completion({0: self._assembler}, self._model, self._usage)


@asynccontextmanager
async def stream(run: Run, call: Call, role: str, *, approach: str = "") -> AsyncIterator[Incoming]:
    """One streamed call. Leaving early closes its connection."""
    async with run.slot():
        with recorded(run, call, role, approach=approach) as recording:
            async with run.upstream.stream(recording.call) as chunks:
                incoming = Incoming(chunks, recording, call.model)
                recording.keep(incoming.completion)
                yield incoming


def _usage(answer: Json) -> Mapping[str, Any] | None:
    usage = answer.get("usage")
    return usage if isinstance(usage, dict) and usage else None


def said(reply: Reply) -> Reply:
    """``reply``, which says something; raises `EmptyReply` where it does not."""
    if reply.empty:
        raise EmptyReply(
            f"Model '{reply.model}' answered with nothing (finish_reason {reply.finish_reason!r})."
        )
    return reply
