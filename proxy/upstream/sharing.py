"""Equal calls at temperature 0 share one answer: the one under way, or one that is kept.

Never across clients' keys, and within one worker: each has its own. Streams are not shared.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import orjson

from proxy.chat import Reply
from proxy.upstream.answers import Answers, Kept
from proxy.upstream.flight import Flights, Relay
from proxy.upstream.layer import Layer
from proxy.upstream.port import Call, Json, Upstream


@dataclass(frozen=True, slots=True)
class _Landed:
    kept: Kept
    #: For the one whose call it was.
    usage: Any


class Shared(Layer):
    """Single flight, and with ``answers`` a cache. ``pool`` is the name of what is behind."""

    def __init__(self, behind: Upstream, pool: str, answers: Answers | None) -> None:
        super().__init__(behind)
        self._pool = pool
        self._answers = answers
        self._flights: Flights[_Landed] = Flights()

    async def complete(self, call: Call) -> Json:
        key = self._key(call)
        if key is None or call.watch is None:
            return await self._behind.complete(call)
        kept = None if self._answers is None else self._answers.get(key)
        if kept is not None:
            for note in kept.notes:
                call.watch.note(note)
            call.watch.shared("cache")
            return _parsed(kept)

        async def made(relay: Relay) -> _Landed:
            # Whoever asked first may leave early: time is for each who waits to keep.
            shared = replace(call, deadline=math.inf, watch=relay)
            return self._landed(key, await self._behind.complete(shared), relay)

        landed, led = await self._flights.join(key, call.watch, made)
        if led:
            return {**_parsed(landed.kept), "usage": landed.usage}
        call.watch.shared("flight")
        return _parsed(landed.kept)

    def _landed(self, key: bytes, answer: Json, relay: Relay) -> _Landed:
        usage = answer.pop("usage", None)
        kept = Kept(orjson.dumps(answer), tuple(relay.notes))
        if self._answers is not None and _says_something(answer):
            self._answers.put(key, kept)
        return _Landed(kept, usage)

    def _key(self, call: Call) -> bytes | None:
        """All that the answer depends on, and whose it is; None where no other may have it.

        Members in their order: to a model that reads a schema it makes a difference.
        """
        temperature = call.body.get("temperature")
        if temperature != 0 or isinstance(temperature, bool):
            return None
        asked = (call.model, dict(call.body), sorted(call.ours), call.patience)
        said = orjson.dumps((self._pool, call.tenant, call.hops, *asked))
        return hashlib.blake2b(said, digest_size=32).digest()


def _parsed(kept: Kept) -> Json:
    """An answer of one's own: whoever gets it may change it."""
    answer: Json = orjson.loads(kept.answer)
    return answer


def _says_something(answer: Json) -> bool:
    return not any(Reply(choice["message"]).empty for choice in answer["choices"])
