"""One attempt at a call: a provider, a slot at it, and what becomes of it there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING

from proxy.errors import UpstreamError, UpstreamInvalid
from proxy.upstream.conversion import chunks_of, says_something, whole
from proxy.upstream.port import Batches, Call, Json, Watch
from proxy.upstream.provider import Provider

if TYPE_CHECKING:
    from proxy.upstream.pool import Pool


@dataclass(slots=True)
class Tries:
    """What has been tried for one call."""

    call: Call
    #: Providers that have failed, and are not asked again.
    failed: set[str] = field(default_factory=set)
    #: One that is asked again, without what it cannot do.
    again: Provider | None = None
    last: UpstreamError | None = None
    #: Providers that had too much to do, and are asked again after the others.
    busy: set[str] = field(default_factory=set)
    #: How often one had.
    overloads: int = 0
    #: Seconds waited because providers asked for it.
    waited: float = 0.0
    #: A provider has said that it has no such model.
    lacking: bool = False
    #: Whom the attempt asks that this one is made beside: it goes elsewhere where it can, only
    #: where there is room at once, and once.
    beside: Provider | None = None


class Turn:
    """One attempt: a provider, a slot at it, and the call as that provider can take it.

    Leaving the block gives the slot back. A failure that another attempt may mend ends here.
    """

    __slots__ = (
        "_began",
        "_decided",
        "_lane",
        "_left",
        "_pool",
        "_provider",
        "_stream",
        "_tries",
        "call",
        "final",
    )

    def __init__(self, pool: Pool, tries: Tries, *, stream: bool = False) -> None:
        self._pool = pool
        self._tries = tries
        self._stream = stream
        self._decided = self._left = False
        #: Something of the answer has been passed on: nobody else can give it any more.
        self.final = False

    async def __aenter__(self) -> Turn:
        pool, call = self._pool, self._tries.call
        self._provider, self._lane = await pool.next(self._tries)
        try:
            self.call = self._adapted(call)
        except BaseException:
            pool.leave(call, self._lane)
            raise
        self._provider.begin(call.model)
        if self._tries.last is None:
            pool.first_attempt()
        if call.watch is not None:
            call.watch.sent(self._provider.name)
        self._began = time.monotonic()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._left:
            return False
        # One that is raised by whoever reads a stream is not this provider's.
        if isinstance(error, UpstreamError) and not self._decided and not self.final:
            self._pool.leave(self._tries.call, self._lane)
            return self._mended(error)
        self.leave()
        return False

    def leave(self) -> None:
        """It is over: give the slot back, which others wait for."""
        self._left = True
        self._pool.leave(self._tries.call, self._lane)
        if not self._decided:
            self._provider.undecided(self._tries.call.model)
            self._log("cancelled")

    @property
    def name(self) -> tuple[str, str, bool]:
        """Who is asked, for which model, and whether in a stream."""
        return self._provider.name, self._tries.call.model, self._stream

    @property
    def second(self) -> bool:
        """Whether it is made beside another one."""
        return self._tries.beside is not None

    def another(self, watch: Watch | None) -> Tries:
        """What is to be tried beside this attempt, and told to ``watch``."""
        return Tries(replace(self._tries.call, watch=watch), beside=self._provider)

    async def answer(self) -> Json:
        """The whole answer, taken note of."""
        answer = await self._complete()
        self.succeeded()
        return answer

    async def _complete(self) -> Json:
        """The whole answer, streamed where that is how this provider notices a hang-up."""
        client = self._provider.client
        if self.call.body.get("stream"):
            async with client.stream(self.call) as chunks:
                answer = await whole(chunks)
        else:
            answer = await client.complete(self.call)
        return self._renamed(answer)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Batches]:
        """The answer in chunks; in one, where this provider does not stream."""
        client = self._provider.client
        if not self.call.body.get("stream"):
            yield chunks_of(await client.complete(self.call))
            return
        async with client.stream(self.call) as chunks:
            yield chunks

    @asynccontextmanager
    async def begun(self, *, hold: bool) -> AsyncIterator[Batches]:
        """The same, from where nobody else can give it; ``hold`` waits until something is said."""
        async with self.stream() as chunks:
            first = await _opening(chunks) if hold else []
            self.final = True
            # Whatever becomes of the rest, it is no trial more.
            self._provider.undecided(self._tries.call.model)
            yield self._watched(first, chunks)

    async def _watched(self, begun: list[Sequence[Json]], chunks: Batches) -> Batches:
        """The chunks that have come and those that will; how they end is taken note of."""
        mapped = self.call.model != self._tries.call.model
        for batch in begun:
            yield [self._renamed(chunk) for chunk in batch] if mapped else batch
        try:
            async for batch in chunks:
                yield [self._renamed(chunk) for chunk in batch] if mapped else batch
        except UpstreamError as error:
            self.failed(error)
            raise
        self.succeeded()

    def succeeded(self) -> None:
        self._decided = True
        self._provider.succeeded(self._tries.call.model)
        self._log("ok")

    def failed(self, error: UpstreamError) -> None:
        self._decided = True
        self._provider.failed(self._tries.call.model, error)
        self._log(error.code)

    def _mended(self, error: UpstreamError) -> bool:
        """Whether another attempt follows."""
        tries, provider, watch = self._tries, self._provider, self._tries.call.watch
        self._log(error.code)
        if provider.capabilities.learn(self.call, dict(self.call.body), error):
            provider.undecided(tries.call.model)
            tries.again, tries.last = provider, error
        elif not self._pool.another(tries, provider, error):
            return False
        if watch is not None:
            watch.missed(error)
        return True

    def _adapted(self, call: Call) -> Call:
        """The call under the provider's name for the model, without what it cannot do."""
        config = self._provider.config
        model = config.model(call.model)
        body = {**call.body, "model": model}
        if self._stream or (config.cancel == "stream" and body.get("n", 1) == 1):
            body["stream"] = True
            body.setdefault("stream_options", {"include_usage": True})
        adapted = self._provider.capabilities.adapt(call, body)
        if call.watch is not None:
            for note in adapted.notes:
                call.watch.note(f"{self._provider.name}: {note}")
        return replace(call, model=model, body=adapted.body)

    def _renamed(self, answer: Json) -> Json:
        """An answer under the name that was asked for: the provider's own one is internal."""
        if answer.get("model") == self.call.model:
            answer["model"] = self._tries.call.model
        return answer

    def _log(self, outcome: str) -> None:
        self._pool.log(self._provider, self._tries.call.model, outcome, self._began)


async def _opening(chunks: Batches) -> list[Sequence[Json]]:
    """The batches up to the first that says something; raises `UpstreamInvalid` if none does."""
    batches: list[Sequence[Json]] = []
    async for batch in chunks:
        batches.append(batch)
        if any(map(says_something, batch)):
            return batches
    raise UpstreamInvalid("The upstream's stream ended without a finish_reason.")
