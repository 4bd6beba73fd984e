"""`LLM`: what an approach holds in its hand.

Bound to one choice of one request: its models and their roles, its budget, deadline and ledger,
and the way to the client. Whatever an approach does with models it does through this object.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeVar

from proxy.approach import Range, Shape, approach, transform
from proxy.chat import Chat, Filter, Message, Reply, filtered
from proxy.ensembles import Member, Role
from proxy.errors import EmptyReply, UpstreamError
from proxy.pipeline import Leaf, compile_branch
from proxy.router.routing import Routing
from proxy.run import bodies, calls
from proxy.run.bodies import DRAFT, SHAPE_PARAMS
from proxy.run.fan import Fan, speculating
from proxy.run.need import Need
from proxy.run.outlet import Through
from proxy.run.reading import Delta, Stream
from proxy.run.scope import Scope
from proxy.sandbox.port import Sandbox
from proxy.upstream.port import Call, Json

__all__ = [
    "DRAFT", "LLM", "SHAPE_PARAMS", "Delta", "Fan", "Need", "Range", "Shape", "UpstreamError",
    "approach", "transform",
]  # fmt: skip

T = TypeVar("T")


class LLM:
    """See DESIGN §3.2 for the table. Errors of calls are `UpstreamError`s."""

    __slots__ = ("_model", "_not_model", "_role", "_scope", "_slug")

    def __init__(
        self,
        scope: Scope,
        slug: str,
        role: Role | None = None,
        not_model: str | None = None,
        model: str | None = None,
    ) -> None:
        self._scope = scope
        self._slug = slug
        self._role = role
        self._not_model = not_model
        self._model = model

    async def ask(self, messages: Sequence[Message], **params: Any) -> Reply:
        """A helper call (judge, plan, critique): none of the client's parameters but identity.

        Raises `EmptyReply` where nothing was said.
        """

        async def asked(member: Member) -> Reply:
            body = bodies.helper(self._scope.run.params, member, messages, params)
            return calls.said(await self._complete(member, body, self._role or "helper"))

        return await self._by_whoever_is_there("helper", asked)

    async def answer(
        self, messages: Sequence[Message], *, nth: int | None = None, **params: Any
    ) -> Reply:
        """A candidate: inherits the client's parameters.

        ``nth`` says that it is one of several: it sends ``seed + nth``, goes to the nth proposer
        and never runs at the client's temperature 0. Raises `EmptyReply` where nothing was said.
        """

        async def asked(member: Member) -> Reply:
            body = self._candidate(member, messages, params, nth)
            return calls.said(await self._complete(member, body, self._role or "proposer"))

        if nth is None:
            return await self._by_whoever_is_there("proposer", asked)
        with self._scope.run.attended():
            return await asked(self._member("proposer", nth=nth))

    def sample(
        self,
        messages: Sequence[Message],
        k: int,
        *,
        reserve: int = 0,
        start: int = 0,
        **params: Any,
    ) -> Fan[Reply]:
        """``k`` candidates at once: ``async with llm.sample(...) as landed``.

        Samples already paid for (`run(given=...)`) come first. ``reserve`` calls of the budget are
        left for later stages: fewer samples are drawn where the budget is short, at least one.
        ``start`` is how many an earlier wave has drawn, whose seeds are not to be sent again.
        """
        given = [self._scope.given.popleft() for _ in range(min(k, len(self._scope.given)))]
        wanted = k - len(given)
        left = self._scope.run.budget.calls_left
        if left is not None and wanted:
            wanted = max(1 if not given else 0, min(wanted, left - reserve))
        members: list[Coroutine[Any, Any, Reply]] = [_ready(reply) for reply in given]
        if wanted > 1 and self._one_call_for_all:
            return _NativeSample(members, self, messages, wanted, start, params)
        several = k > 1 or start > 0
        first = start + len(given)
        members += [
            self.answer(messages, nth=first + i if several else None, **params)
            for i in range(wanted)
        ]
        return self.fan(members, quorum=True)

    def fan(
        self, members: Iterable[Coroutine[Any, Any, T]] = (), *, quorum: bool = False
    ) -> Fan[T]:
        """Whole chains side by side (sample, then rate it), taken as they land.

        ``quorum`` says that two thirds will do, where the operator does not wait for the slowest.
        """
        patience = self._scope.run.patience if quorum else None
        return Fan(members, owner=self._scope.answer, patience=patience)

    async def final(
        self, messages: Sequence[Message], *, through: Filter | None = None, **params: Any
    ) -> Reply:
        """The answer that the client sees, passed on as it arises where the client streams.

        At most once a run and never inside a fan: what has been shown cannot be taken back.
        ``through`` rewrites its text, in the stream and in JSON alike.
        """
        self._check_may_answer("final()")
        self._scope.answer.final = True

        async def asked(member: Member) -> Reply:
            body = self._candidate(member, messages, params, None)
            return await self._final(member, body, through)

        return await self._by_whoever_is_there("aggregator", asked)

    async def _final(self, member: Member, body: Json, through: Filter | None) -> Reply:
        role = self._role or "final"
        if not self._scope.outlet.live:
            reply = await self._complete(member, body, role)
            self._refuse_nothing(reply)
            if through is not None and isinstance(reply.message.get("content"), str):
                reply = reply.with_text(filtered(reply.text, through))
            await self._scope.outlet.reply(reply)
            return reply
        outlet = self._scope.outlet if through is None else self._scope.closing(through)
        run, call = self._scope.run, self._call(member, body)
        async with calls.stream(run, call, role, approach=self._slug) as incoming:
            async for choice in incoming:
                delta = {**(choice.get("delta") or {})}
                delta.pop("role", None)
                if any(delta.values()) or choice.get("logprobs"):
                    self._scope.answer.begun = True
                    await outlet.delta(delta, choice.get("logprobs"))
            reply = incoming.reply
        self._refuse_nothing(reply)
        if isinstance(outlet, Through) and isinstance(reply.message.get("content"), str):
            await outlet.drain()
            reply = reply.with_text(outlet.passed)
        return reply

    def _check_may_answer(self, doing: str) -> None:
        """Raise `RuntimeError` for what would say a second answer, or one that may be dropped."""
        if self._scope.answer.final:
            raise RuntimeError(f"approach {self._slug!r} called {doing} behind its answer")
        if speculating.get() is self._scope.answer:
            raise RuntimeError(f"approach {self._slug!r} called {doing} inside a fan")

    def _refuse_nothing(self, reply: Reply) -> None:
        """Raise `EmptyReply` where a kept answer can still stand in for ``reply``."""
        if reply.empty and self._scope.kept.reply is not None and not self._scope.outlet.begun:
            raise EmptyReply("The final call came back empty.")

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[Message], *, nth: int | None = None, **params: Any
    ) -> AsyncIterator[Stream]:
        """A candidate read as it arises: iterate its `Delta`s, then take ``.reply``.

        Leaving the block early closes the connection: the upstream stops generating.
        """
        member = self._member("proposer", nth=nth or 0)
        call = self._call(member, self._candidate(member, messages, params, nth))
        with self._scope.run.attended():
            run, role = self._scope.run, self._role or "proposer"
            async with calls.stream(run, call, role, approach=self._slug) as incoming:
                yield Stream(incoming)

    async def emit(self, text: str) -> None:
        """Content for the client, in order, ahead of what the approach returns."""
        self._scope.answer.emitted += text
        await self._scope.outlet.delta({"content": text})

    def note(self, text: str) -> None:
        """A word on progress: a comment in the stream, never content."""
        self._scope.outlet.note(text)

    def decide(
        self,
        kind: str,
        candidates: Iterable[tuple[Reply | str, float | None]],
        winner: int | None,
        why: str = "",
    ) -> None:
        """For the trace: what a ``kind`` of decision was made among, with votes or ratings."""
        self._scope.run.ledger.decide(self._slug, kind, candidates, winner, why)

    def keep(self, reply: Reply) -> None:
        """The best answer so far: what the client gets if time or budget end here."""
        self._scope.keep(reply)

    def role(self, role: Role, *, not_model: str | None = None) -> LLM:
        """The same, speaking through the ensemble's member for ``role``.

        ``not_model`` asks for another model where there is a choice, so that none judges itself.
        """
        return LLM(self._scope, self._slug, role, not_model, self._model)

    def model(self, name: str) -> LLM:
        """The same, speaking with the model of that name, of the ensemble or not."""
        return LLM(self._scope, self._slug, self._role, model=name)

    async def run(
        self,
        slug: str,
        chat: Chat,
        *,
        tail: bool = False,
        given: Sequence[Reply] = (),
        acts: bool = True,
        **options: Any,
    ) -> Reply:
        """Another approach inside this one, or ``none`` where it cannot treat ``chat`` honestly.

        As ``tail`` it answers in this one's place: it shares the way to the client, kept answer
        and budget. ``given`` are samples that are paid for. Unless it ``acts`` it runs no program.
        """
        run = self._scope.run
        if run.play is None:
            raise RuntimeError("this run has no pipeline to play another approach")
        if tail:
            self._check_may_answer("run(tail=True)")
        registry = run.services.registry
        leaf = registry.leaf(slug, options)
        branch = compile_branch([leaf.entry], registry["none"], chat, lambda _: leaf.options)
        run.ledger.skipped.extend(branch.skipped)
        scope = self._scope.nested(given, tail=tail, acts=acts)
        return await run.play(branch.node or Leaf(registry["none"], {}), chat, scope)

    async def once(self, key: Hashable, make: Callable[[], Awaitable[T]], ttl: float) -> T:
        """What ``make`` returned the last time, for ``ttl`` seconds: per tenant, slug and model."""
        scope = self._scope
        owner = (scope.run.caller.tenant, self._slug, self._member("helper").model)
        made: T = await scope.run.services.cache.once((owner, key), make, ttl)
        return made

    @property
    def sandbox(self) -> Sandbox:
        """Where programs run that a model wrote."""
        return self._scope.sandbox

    @property
    def router(self) -> Routing:
        """What chooses among approaches."""
        return Routing(self._scope.run)

    async def equal(self, a: str, b: str) -> bool:
        """Whether two normalised answers are the same expression; False where nobody can tell."""
        return await self._scope.run.services.calculator.equivalent(a, b) is True

    def weight(self, reply: Reply) -> float:
        """Of the vote that ``reply`` casts: that of the proposer who wrote it."""
        proposers = self._scope.run.team.members_for("proposer")
        return next((m.weight for m in proposers if m.model == reply.model), 1.0)

    @property
    def heaviest(self) -> float:
        """The most that one vote can weigh."""
        return max(m.weight for m in self._scope.run.team.members_for("proposer"))

    def time_for(self, rounds: int) -> bool:
        """Whether so many more calls of the usual length fit in front of the deadline."""
        usual = self._scope.run.ledger.usual_duration()
        return usual is None or self._scope.run.time_left > rounds * usual

    def need(self) -> Need:
        """For a call that waits until it is needed, at most for half of the time that is left."""
        return Need(self._scope.run.time_left / 2)

    def budget_for(self, calls: int) -> bool:
        """Whether the budget allows so many more calls."""
        left = self._scope.run.budget.calls_left
        return left is None or left >= calls

    @property
    def _one_call_for_all(self) -> bool:
        """Whether several samples can be had as one call's choices."""
        alone = len(self._scope.run.team.members_for(self._role or "proposer")) == 1
        return alone and self._scope.run.upstream.native_n(self._member("proposer").model)

    def _member(self, role: Role, nth: int = 0) -> Member:
        run = self._scope.run
        if self._model is not None:
            named = (member for member in run.team.members if member.model == self._model)
            return next(named, Member(self._model, self._role or role))
        return run.team.member(
            self._role or role, nth=nth, not_model=self._not_model, missing=run.attendance.missing
        )

    async def _by_whoever_is_there(
        self, role: Role, asked: Callable[[Member], Awaitable[Reply]]
    ) -> Reply:
        """What ``asked`` gets from the member for ``role``, or from who stands in next for it."""
        missing = self._scope.run.attendance.missing
        while True:
            member = self._member(role)
            proposes = (self._role or role) == "proposer"
            try:
                with self._scope.run.attended() if proposes else nullcontext():
                    return await asked(member)
            except UpstreamError:
                begun = self._scope.answer.begun
                if begun or member.model not in missing or self._member(role).model in missing:
                    raise

    async def _complete(self, member: Member, body: Json, role: str) -> Reply:
        run, call = self._scope.run, self._call(member, body)
        return (await calls.complete(run, call, role, approach=self._slug))[0]

    def _call(self, member: Member, body: Json) -> Call:
        client = self._scope.run.params
        ours = (name for name, value in body.items() if client.get(name) != value)
        return self._scope.run.call(member.model, body, frozenset(ours))

    def _candidate(
        self,
        member: Member,
        messages: Sequence[Message],
        params: Mapping[str, Any],
        nth: int | None,
    ) -> Json:
        scope = self._scope
        return bodies.candidate(scope.run.params, member, messages, params, nth, scope.index)


class _NativeSample(Fan[Reply]):
    """``k`` samples as one call with ``n: k``; what the upstream falls short of is topped up."""

    def __init__(
        self,
        members: list[Coroutine[Any, Any, Reply]],
        llm: LLM,
        messages: Sequence[Message],
        k: int,
        start: int,
        params: Mapping[str, Any],
    ) -> None:
        many = self._many(llm, messages, k, start, params)
        super().__init__([*members, many], llm._scope.answer)

    async def _many(
        self, llm: LLM, messages: Sequence[Message], k: int, start: int, params: Mapping[str, Any]
    ) -> Reply:
        member = llm._member("proposer")
        body = llm._candidate(member, messages, params, start)
        role = llm._role or "proposer"
        call = llm._call(member, {**body, "n": k})
        with llm._scope.run.attended():
            replies = await calls.complete(llm._scope.run, call, role, k, approach=llm._slug)
        said = [reply for reply in replies[:k] if not reply.empty]
        for reply in said[1:]:
            self.add(_ready(reply))
        for nth in range(len(replies), k):
            self.add(llm.answer(messages, nth=start + nth, **params))
        return calls.said(said[0] if said else replies[0])


async def _ready(reply: Reply) -> Reply:
    return reply
