"""Equal calls at temperature 0 share one answer: the one under way, or one that is kept.

Never across clients' keys, and within one worker: each has its own. A stream is shared with streams
alone, and replayed in the batches in which it came.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import orjson

from proxy.chat import Reply
from proxy.upstream.answers import Answers, Kept
from proxy.upstream.conversion import unpaid
from proxy.upstream.flight import Flight, Flights
from proxy.upstream.layer import Layer
from proxy.upstream.port import Batches, Call, Json, Upstream, Watch
from proxy.wire.assemble import Assembler

#: Of an answer that is no stream: a batch of one.
_Opened = AbstractAsyncContextManager[Batches]


class Shared(Layer):
    """Single flight, and with ``answers`` a cache. ``pool`` is the name of what is behind."""

    def __init__(self, behind: Upstream, pool: str, answers: Answers | None) -> None:
        super().__init__(behind)
        self._pool = pool
        self._answers = answers
        self._flights = Flights()

    async def complete(self, call: Call) -> Json:
        key = self._key(call, "answer")
        if key is None or call.watch is None:
            return await self._behind.complete(call)
        async with self._shared(key, call, call.watch, self._alone) as batches:
            ((answer,),) = [batch async for batch in batches]
        return answer

    def stream(self, call: Call) -> _Opened:
        key = self._key(call, "stream")
        if key is None or call.watch is None:
            return self._behind.stream(call)
        return self._shared(key, call, call.watch, self._behind.stream)

    def _shared(
        self, key: bytes, call: Call, watch: Watch, opened: Callable[[Call], _Opened]
    ) -> _Opened:
        """The answer that is kept for ``key``, or is under way, or is opened now."""
        kept = None if self._answers is None else self._answers.get(key)
        if kept is not None:
            return _replayed(kept, watch)

        async def made(flight: Flight) -> None:
            # Whoever asked first may leave early: time is for each who waits to keep.
            shared = replace(call, deadline=math.inf, watch=flight.relay)
            said = _Said()
            async with opened(shared) as batches:
                async for batch in batches:
                    said.add(batch)
                    await flight.write(batch)
            if self._answers is not None and said.something and (whole := flight.whole()):
                self._answers.put(key, Kept(whole, tuple(flight.relay.notes)))

        return self._flights.join(key, watch, made)

    @asynccontextmanager
    async def _alone(self, call: Call) -> AsyncIterator[Batches]:
        yield _batch_of(await self._behind.complete(call))

    def _key(self, call: Call, kind: str) -> bytes | None:
        """All that the answer depends on, and whose it is; None where no other may have it.

        Members in their order: to a model that reads a schema it makes a difference.
        """
        temperature = call.body.get("temperature")
        if temperature != 0 or isinstance(temperature, bool):
            return None
        asked = (kind, call.model, dict(call.body), sorted(call.ours), call.patience)
        said = orjson.dumps((self._pool, call.tenant, call.hops, *asked))
        return hashlib.blake2b(said, digest_size=32).digest()


async def _batch_of(answer: Json) -> Batches:
    yield [answer]


@asynccontextmanager
async def _replayed(kept: Kept, watch: Watch) -> AsyncIterator[Batches]:
    for note in kept.notes:
        watch.note(note)
    watch.shared("cache")
    yield _batches(kept)


async def _batches(kept: Kept) -> Batches:
    for batch in orjson.loads(kept.answer):
        yield unpaid(batch)
        # Of a long one not all at once: others have their turns.
        await asyncio.sleep(0)


class _Said:
    """What an answer says, whole or in chunks, choice by choice: is it worth keeping?"""

    def __init__(self) -> None:
        self._replies: list[Reply] = []
        self._streams: dict[int, Assembler] = {}
        self._sound = True

    def add(self, batch: Sequence[Json]) -> None:
        for choice in (choice for chunk in batch for choice in chunk.get("choices") or ()):
            match choice:
                case {"message": dict(message)}:
                    self._replies.append(Reply(message))
                case {"index": int(index), "delta": dict()}:
                    self._streams.setdefault(index, Assembler()).add(choice)
                case _:
                    self._sound = False

    @property
    def something(self) -> bool:
        """Whether there is something in each choice, and each stream has come to its end."""
        streams = self._streams.values()
        replies = [*self._replies, *(stream.reply() for stream in streams)]
        ended = self._sound and all(stream.complete for stream in streams)
        return ended and bool(replies) and not any(reply.empty for reply in replies)
