"""One request (`Run`) and one choice of it (`Scope`): what an `LLM` is bound to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from proxy.chat import Chat, Filter, Reply
from proxy.ensembles import Team
from proxy.errors import UpstreamError
from proxy.router.client import no_classifier
from proxy.router.ladder import Ladder
from proxy.run.attendance import Attendance
from proxy.run.budget import Budget
from proxy.run.cache import Cache
from proxy.run.fanout import Fanout
from proxy.run.ledger import Ledger
from proxy.run.outlet import Collected, Outlet, Through
from proxy.sandbox.closed import Closed
from proxy.sandbox.port import Sandbox
from proxy.sandbox.process import Subprocess
from proxy.upstream.port import Call, Upstream

if TYPE_CHECKING:
    from proxy.pipeline import Node
    from proxy.registry import Registry
    from proxy.run.calculator import Calculator
    from proxy.telemetry.record import Trace


@dataclass(frozen=True, slots=True)
class Services:
    """What a worker's runs share."""

    registry: Registry
    cache: Cache
    calculator: Calculator
    sandbox: Sandbox = field(default_factory=Subprocess)
    ladder: Ladder = field(default_factory=lambda: Ladder(no_classifier()))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a digest of the key, and the instances that its calls have passed through."""

    tenant: str = ""
    hops: str = ""
    #: The trace that its calls carry on; None where nobody follows it.
    trace: Trace | None = None


@dataclass(slots=True, eq=False)
class Run:
    """One HTTP request: its choices share ledger, budget and deadline."""

    services: Services
    #: The pool that serves all its calls.
    upstream: Upstream
    team: Team
    params: Mapping[str, Any]
    ledger: Ledger
    budget: Budget
    deadline: float
    #: Set when this process is told to stop: the deadline was then brought forward.
    stopping: bool = False
    caller: Caller = Caller()
    #: What bounds the calls that are under way at once; None: nothing.
    fanout: Fanout | None = None
    #: How long the slowest samples of a stage are waited for, as `Fan` has it; None: to the end.
    patience: float | None = None
    #: What is set for the approaches that ``router`` may choose, by slug.
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Whether programs may run for it: not where a tag in the prompt has chosen the approach.
    acts: bool = True
    replied: Callable[[], None] | None = None
    attendance: Attendance = field(default_factory=Attendance)
    play: Callable[[Node, Chat, Scope], Coroutine[Any, Any, Reply]] | None = None
    #: What is cancelled once nobody waits for the answer any more.
    task: asyncio.Task[Any] | None = None
    clocks: set[asyncio.Timeout] = field(default_factory=set)

    @asynccontextmanager
    async def clock(self) -> AsyncIterator[None]:
        """Raise `TimeoutError` in the block once the deadline has passed."""
        async with asyncio.timeout(None) as clock:
            self.clocks.add(clock)
            try:
                yield
            finally:
                self.clocks.discard(clock)

    def call(self, model: str, body: Mapping[str, Any], ours: frozenset[str] = frozenset()) -> Call:
        """A call made for this request; ``ours`` are the members that the client has not set."""
        return Call(model, body, self.caller.hops, self.caller.tenant, ours=ours)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Raise `TooFewMembers` where a failed call leaves an ensemble with too few proposers."""
        try:
            yield
        except UpstreamError:
            if self.team.mixed:
                self.attendance.check(self.team, self.ledger.under_way)
            raise

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Room for one more call; waited for."""
        return nullcontext() if self.fanout is None else self.fanout.slot()

    def tick(self, now: float) -> None:
        """End what is past the deadline; called by the engine, many times a second.

        One sweep over all runs instead of a timer for each: a timer costs a request 5 % of its CPU.
        """
        if now >= self.deadline:
            for clock in self.clocks:
                if clock.when() is None:
                    clock.reschedule(now)

    def hurry(self, deadline: float) -> None:
        """Bring the deadline forward: this process is told to stop."""
        self.stopping = True
        self.deadline = min(self.deadline, deadline)

    @property
    def why_cancelled(self) -> str:
        """What a call is cancelled for at this moment, as `CallRecord.why` says it."""
        late = self.time_left <= 0
        left = self.task is not None and self.task.cancelling() > 0
        if not (late or left):
            return "decided"
        if self.stopping:
            return "shutdown"
        return "deadline" if late else "client_gone"

    @property
    def time_left(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()


@dataclass(slots=True)
class Answer:
    """What has gone out of one outlet so far."""

    #: It is complete: `final` was called, or what the approach returned has been passed on.
    final: bool = False
    #: Its call has brought content: no other may be made in its place.
    begun: bool = False
    #: Text passed on by `emit`.
    emitted: str = ""


@dataclass(slots=True)
class Kept:
    """The best answer so far, and the way to the client it would take."""

    reply: Reply | None = None
    outlet: Outlet | None = None
    #: The outermost filter in use: flushed where a deadline cuts the answer.
    closing: Outlet | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """One choice, or one inner stage of it.

    ``outlet`` takes this stage's content. ``rescue`` is where a kept reply goes if time runs out:
    for an inner stage, the way to the client.
    """

    run: Run
    outlet: Outlet
    rescue: Outlet
    answer: Answer
    kept: Kept
    index: int = 0
    given: deque[Reply] = field(default_factory=deque)
    #: As `Run.acts`, of this stage: not where ``router`` has read the approach off the prompt.
    acts: bool = True

    @classmethod
    def of(cls, run: Run, outlet: Outlet, index: int = 0) -> Scope:
        return cls(run, outlet, outlet, Answer(), Kept(), index, acts=run.acts)

    @property
    def sandbox(self) -> Sandbox:
        return self.run.services.sandbox if self.acts else Closed()

    def keep(self, reply: Reply) -> None:
        self.kept.reply = reply
        self.kept.outlet = self.rescue

    def behind(self, outlet: Through) -> Scope:
        """The same stage behind a transform's filter."""
        return replace(self, outlet=outlet, rescue=outlet, answer=Answer())

    def closing(self, through: Filter) -> Through:
        """This stage's outlet behind ``through``, to be flushed if the answer is cut short."""
        outlet = Through(self.outlet, through)
        if self.outlet is self.rescue:
            self.kept.closing = outlet
        return outlet

    def inner(self) -> Scope:
        """A stage that feeds the next one: its content stays inside, what it keeps does not."""
        return replace(self, outlet=Collected(), answer=Answer(), given=deque())

    def nested(self, given: Sequence[Reply], *, tail: bool, acts: bool) -> Scope:
        """An approach run by another: as its tail, or for a result it will use itself."""
        scope = self if tail else Scope.of(self.run, Collected(), self.index)
        return replace(scope, given=deque(given), acts=self.acts and acts)
