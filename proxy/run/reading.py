"""A candidate read while it is being written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from proxy.chat import Reply
from proxy.run.calls import Incoming


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of a streamed reply."""

    text: str
    reasoning: str
    logprobs: Any = None


class Stream:
    """A candidate that is being read."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    async def __aiter__(self) -> AsyncIterator[Delta]:
        async for choice in self._incoming:
            delta = choice.get("delta") or {}
            reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
            yield Delta(delta.get("content") or "", reasoning, choice.get("logprobs"))

    @property
    def reply(self) -> Reply:
        """What has been read so far."""
        return self._incoming.reply
