"""The port to a provider: what the engine needs of whatever answers its calls."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.errors import UpstreamError

#: A chat completion or a ``chat.completion.chunk`` as parsed JSON.
Json = dict[str, Any]
#: The chunks of a streamed answer, several at once where several arrived at once.
Batches = AsyncIterator[Sequence[Json]]


class Watch(Protocol):
    """Told what becomes of a call, attempt by attempt."""

    def sent(self, provider: str) -> None:
        """An attempt is on its way to ``provider``."""
        ...

    def missed(self, error: UpstreamError) -> None:
        """The attempt failed, and another one may follow."""
        ...

    def needed(self) -> bool:
        """Whether the request has nothing but this call to go on with."""
        ...

    def note(self, text: str) -> None:
        """Something that the client should know: what a provider could not do."""
        ...

    def shared(self, source: str) -> None:
        """No attempt was made: the answer was there (``cache``), or is another's (``flight``)."""
        ...

    def beside(self) -> Rival:
        """A second attempt is to be made beside the one that is under way."""
        ...


class Rival(Watch, Protocol):
    """Told what becomes of a second attempt, which runs beside the first."""

    def won(self) -> None:
        """Its answer is the call's; the first attempt is given up, or has failed."""
        ...

    def lost(self, error: UpstreamError | None) -> None:
        """It failed with ``error`` or was given up; means nothing once it has `won`."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One chat completion to ask for: ``body`` without ``model`` and ``stream``."""

    model: str
    body: Mapping[str, Any]
    #: The instances that this request has passed through, ours last (`proxy.hops`).
    hops: str = ""
    #: Whose it is, as a digest of the key: an answer is never another's.
    tenant: str = ""
    #: The request that makes the call: requests, not calls, share out what is scarce.
    owner: object = None
    #: How deep in its request the call is; what is nearly done goes first.
    stage: int = 1
    #: On the loop's clock.
    deadline: float = math.inf
    #: Seconds that it may wait because a provider asked it to (Retry-After).
    patience: float = 0.0
    #: Members of the body that the proxy has set of its own accord, and may leave out again.
    ours: frozenset[str] = frozenset()
    watch: Watch | None = None
    #: W3C trace context, to be sent along; '' for none.
    traceparent: str = ""


class Endpoint(Protocol):
    """One provider: over HTTP (`proxy.upstream.client.Client`), or an engine in this process.

    It makes each call once, as it is told. All errors are `UpstreamError`s.
    """

    async def complete(self, call: Call) -> Json:
        """The whole answer: a JSON object with at least one choice that has a message."""
        ...

    def stream(self, call: Call) -> AbstractAsyncContextManager[Batches]:
        """The answer in chunks.

        Entering waits for the upstream's status; leaving closes the connection unless the answer
        is complete. Ends after ``[DONE]``; anything short of it is an `UpstreamInvalid`.
        """
        ...

    async def models(self) -> list[Json]:
        """The entries of ``GET /models``."""
        ...

    async def close(self) -> None: ...


class Upstream(Endpoint, Protocol):
    """What serves a request's calls: `proxy.upstream.pool.Pool`. Tells each call's `Watch`."""

    def native_n(self, model: str) -> bool:
        """Whether ``k`` samples of ``model`` may be asked for as one call with ``n: k``."""
        ...
