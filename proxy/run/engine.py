"""The engine of one worker: plans in, answers out, all of it on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.errors import (
    ChoicesRefused,
    DeadlineExceeded,
    ModelNotFound,
    ProxyError,
    ShuttingDown,
)
from proxy.registry import Registry
from proxy.router.client import Router, no_classifier
from proxy.router.ladder import Ladder
from proxy.run import passthrough
from proxy.run.attendance import Attendance
from proxy.run.budget import Budget
from proxy.run.cache import Cache
from proxy.run.calculator import Calculator
from proxy.run.catalog import Catalog
from proxy.run.fanout import Fanout
from proxy.run.ledger import CallRecord, Ledger, complete_usage
from proxy.run.outlet import Collected, Outlet
from proxy.run.plan import Plan, with_ensembles
from proxy.run.play import Ended, play, play_choice
from proxy.run.scope import Caller, Run, Services
from proxy.run.stream import Sink, Stream, Streamed
from proxy.selector import suggestion
from proxy.settings import Settings
from proxy.upstream.pool import Connect
from proxy.upstream.pools import Pools
from proxy.upstream.slots import Slots
from proxy.wire.response import Envelope, Json, error_event

#: How exactly deadlines are kept, in seconds.
_TICK = 0.05
#: Left at the end of a drain for answers to be written.
_DRAIN_MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished request leaves behind: a JSON body (None after a stream) and its summary."""

    body: bytes | None
    summary: Mapping[str, Any]
    usage: Mapping[str, Any] = field(default_factory=dict)
    #: What ended a stream that had begun, after its error event was sent.
    error: ProxyError | None = None


class Engine:
    """Built and used on one loop. ``slots`` are the limits of the whole service.

    ``connect`` makes the client of a provider; the usual one speaks HTTP. ``classifier`` is what
    the approach ``router`` asks.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        slots: Slots,
        connect: Connect | None = None,
        classifier: Router | None = None,
    ) -> None:
        self._settings = settings
        self.services = Services(
            registry=registry,
            cache=Cache(),
            calculator=Calculator(),
            ladder=Ladder(classifier or no_classifier()),
        )
        self.services.ladder.classifier.start()
        slots.claim()
        self.pools = Pools(settings, slots, connect)
        self.catalog = Catalog(self.pools)
        self._runs: set[Run] = set()
        self._ends_at: float | None = None
        self._chores = [
            asyncio.create_task(self.catalog.keep_fresh()),
            asyncio.create_task(self._keep_time()),
        ]

    @property
    def running(self) -> int:
        return len(self._runs)

    def drain(self, seconds: float) -> None:
        """Bring every run to its end within ``seconds``, with what it has by then."""
        self._ends_at = asyncio.get_running_loop().time() + max(0.0, seconds - _DRAIN_MARGIN)
        for run in self._runs:
            run.hurry(self._ends_at)

    async def close(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.services.ladder.classifier.close()
        await self.services.calculator.close()
        await self.pools.close()

    async def answer(
        self,
        plan: Plan,
        caller: Caller,
        sink: Sink,
        ledger: Ledger | None = None,
        attendance: Attendance | None = None,
    ) -> Outcome:
        """Run a plan: to a JSON body, or into ``sink`` where the client streams.

        ``ledger`` and ``attendance`` are filled on the way.

        Raises `ProxyError` as long as nothing has been put into ``sink``.
        """
        run = self._run(plan, caller, ledger or Ledger(), attendance or Attendance())
        envelope = Envelope(plan.request.endpoint, plan.handle or plan.base)
        self._runs.add(run)
        try:
            if not plan.request.stream:
                return await (
                    self._forward(run, plan, envelope)
                    if plan.untouched
                    else self._collect(run, plan, envelope)
                )
            choices, routed = plan.total_choices, plan.routed
            stream = Stream(sink, envelope, choices, run.ledger, routed=routed)
            try:
                return await self._stream(run, plan, stream)
            finally:
                stream.close()
        except ProxyError as error:
            suggests = isinstance(error, ModelNotFound) and plan.ensemble is None
            raised = self._suggested(error, plan) if suggests else error
            raised.summary = self._summary(run, plan)
            raised.usage = run.ledger.total_usage()
            raise raised from error.__cause__
        finally:
            self._runs.discard(run)

    def _suggested(self, error: ProxyError, plan: Plan) -> ModelNotFound:
        """The same with what may have been meant."""
        known = with_ensembles(self.catalog.names, self._settings)
        hint = suggestion(plan.request.model or "", self.services.registry, known)
        return ModelNotFound(error.message + hint, param="model")

    async def _keep_time(self) -> None:
        """End the runs whose deadline has passed."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK)
            now = loop.time()
            for run in list(self._runs):
                run.tick(now)

    def _run(self, plan: Plan, caller: Caller, ledger: Ledger, attendance: Attendance) -> Run:
        ledger.skipped.extend(reason for branch in plan.branches for reason in branch.skipped)
        run = Run(
            services=self.services,
            upstream=self.pools.named if plan.pooled else self.pools.default,
            team=plan.team,
            params=plan.request.params,
            ledger=ledger,
            budget=Budget(plan.limits, ledger),
            deadline=asyncio.get_running_loop().time() + plan.seconds,
            caller=caller,
            play=play,
            fanout=Fanout(self._settings.max_fanout),
            # The slowest member of an ensemble may be the one that it was composed for.
            patience=None if plan.team.mixed else self._settings.patience,
            options=plan.options,
            acts=plan.acts,
            attendance=attendance,
            task=asyncio.current_task(),
        )
        if self._ends_at is not None:
            run.hurry(self._ends_at)
        return run

    async def _forward(self, run: Run, plan: Plan, envelope: Envelope) -> Outcome:
        call = passthrough.untouched(run, plan.request, plan.base, plan.choices)
        try:
            answer = await passthrough.forward(run, call, plan.choices)
        except TimeoutError:
            raise _late(run) from None
        except ChoicesRefused:
            return await self._collect(run, plan.choice_by_choice(self.services.registry), envelope)
        usage = complete_usage(answer.get("usage") or {})
        summary = self._summary(run, plan)
        body = envelope.forwarded_body(answer, usage, summary)
        return Outcome(orjson.dumps(body), summary, usage)

    async def _collect(self, run: Run, plan: Plan, envelope: Envelope) -> Outcome:
        outlets = [Collected() for _ in range(plan.total_choices)]
        ended = await _play_all(run, plan, outlets)
        usage = run.ledger.total_usage()
        summary = self._summary(run, plan)
        choices = [(end.index, outlets[end.index].result(end.finish_reason)) for end in ended]
        body = envelope.body(choices, usage, summary)
        return Outcome(orjson.dumps(body), summary, usage)

    async def _stream(self, run: Run, plan: Plan, stream: Stream) -> Outcome:
        if plan.request.trace:
            run.ledger.watch = lambda record: stream.note(_traced(record))
        try:
            try:
                play_stream = self._forward_stream if plan.untouched else self._play_stream
                last = await play_stream(run, plan, stream)
            except ChoicesRefused:
                plan = plan.choice_by_choice(self.services.registry)
                last = await self._play_stream(run, plan, stream)
        except ProxyError as error:
            if not stream.opened:
                raise
            stream.fail(error_event(error))
            return Outcome(None, self._summary(run, plan), run.ledger.total_usage(), error)
        stream.finish(last)
        return Outcome(None, self._summary(run, plan), run.ledger.total_usage())

    async def _forward_stream(self, run: Run, plan: Plan, stream: Stream) -> bytes:
        call = passthrough.untouched(run, plan.request, plan.base, plan.choices)
        try:
            held = await passthrough.forward_stream(run, call, plan.request, plan.choices, stream)
        except TimeoutError:
            if not stream.opened:
                raise _late(run) from None
            run.ledger.exhausted = "shutdown" if run.stopping else "deadline"
            finish = [(index, "length") for index in range(plan.choices)]
            usage = run.ledger.total_usage() if plan.request.include_usage else None
            return stream.envelope.last(finish, usage, self._summary(run, plan))
        held[-1]["optillm"] = self._summary(run, plan)
        return b"".join(map(stream.envelope.forwarded, held))

    async def _play_stream(self, run: Run, plan: Plan, stream: Stream) -> bytes:
        run.replied = stream.replied
        progress = self._tells_progress(plan)
        outlets = [
            Streamed(stream, index, progress=progress, told=run.ledger.told(index))
            for index in range(plan.total_choices)
        ]
        ended = await _play_all(run, plan, outlets)
        usage = run.ledger.total_usage() if plan.request.include_usage else None
        finish = [(end.index, end.finish_reason) for end in ended]
        for index, reason in finish:
            told = run.ledger.told(index)
            if told is not None:
                told.finish_reason = reason
        return stream.envelope.last(finish, usage, self._summary(run, plan))

    def _tells_progress(self, plan: Plan) -> bool:
        """Whether early stages are told as content of their own kind; only chats have one."""
        wanted = plan.request.progress
        wanted = self._settings.progress if wanted is None else wanted
        return wanted and plan.request.endpoint == "chat"

    def _summary(self, run: Run, plan: Plan) -> Json:
        """The ``optillm`` object: what was run, and what it took."""
        summary = run.ledger.summary(plan.approach, trace=plan.request.trace)
        if plan.task is not None:
            summary["task"] = plan.task
        if plan.ensemble is not None and run.attendance.missing:
            summary["members_missing"] = list(run.attendance.missing)
        return summary


async def _play_all(run: Run, plan: Plan, outlets: Sequence[Outlet]) -> list[Ended]:
    """Play every choice side by side; one that fails is left out, all failing is the first's error.

    Choice ``branch * n + k`` is the k-th run of its branch.
    """

    async def choice(index: int, outlet: Outlet) -> Ended | ProxyError:
        node = plan.branches[index // plan.choices].node
        assert node is not None
        try:
            return await play_choice(node, plan.chat, run, outlet, index)
        except ProxyError as error:
            return error

    if len(outlets) == 1:
        results = [await choice(0, outlets[0])]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(choice(i, o)) for i, o in enumerate(outlets)]
        results = [task.result() for task in tasks]
    failed = [result for result in results if isinstance(result, ProxyError)]
    ended = [result for result in results if isinstance(result, Ended)]
    if not ended:
        raise failed[0]
    for index, result in enumerate(results):
        if isinstance(result, ProxyError):
            label = plan.branches[index // plan.choices].label
            run.ledger.skipped.append(f"choice {index} ({label}): {result.code}")
    return ended


def _late(run: Run) -> ProxyError:
    if run.stopping:
        return ShuttingDown("The proxy is shutting down; try again.", retry_after=1.0)
    run.ledger.exhausted = "deadline"
    return DeadlineExceeded("The deadline passed before the upstream had answered.")


def _traced(record: CallRecord) -> str:
    return f"call {orjson.dumps(record.as_json()).decode()}"
