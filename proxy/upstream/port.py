"""The port to a provider: what the engine needs of whatever answers its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

#: A chat completion or a ``chat.completion.chunk`` as parsed JSON.
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One chat completion to ask for: ``body`` without ``model`` and ``stream``."""

    model: str
    body: Mapping[str, Any]
    #: The instances that this request has passed through, ours last (`proxy.hops`).
    hops: str = ""


class Upstream(Protocol):
    """Implemented by `proxy.upstream.client.Client`. All errors are `UpstreamError`s."""

    async def complete(self, call: Call) -> Json:
        """The whole answer: a JSON object with at least one choice that has a message."""
        ...

    def stream(self, call: Call) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Json]]]:
        """The answer in chunks, several at once where several arrived at once.

        Entering waits for the upstream's status; leaving closes the connection unless the answer
        is complete. Ends after ``[DONE]``; anything short of it is an `UpstreamInvalid`.
        """
        ...

    async def models(self) -> list[Json]:
        """The entries of ``GET /models``."""
        ...

    async def close(self) -> None: ...
