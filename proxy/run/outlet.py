"""Where an answer's content goes: into a JSON body, or to the client as it arises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from proxy.chat import Filter, Reply
from proxy.wire.assemble import Assembler, deltas_of


class Outlet(Protocol):
    """One choice's way out."""

    @property
    def live(self) -> bool:
        """Whether the client reads along, so that the final call should be streamed."""
        ...

    @property
    def begun(self) -> bool:
        """Whether content has left: from then on nothing can be taken back."""
        ...

    async def delta(self, delta: Mapping[str, Any], logprobs: Any = None) -> None:
        """Pass on a piece of the message; waits while the client is slow."""
        ...

    async def reply(self, reply: Reply) -> None:
        """Pass on a whole message."""
        ...

    async def flush(self) -> None:
        """Pass on what filters still hold back."""
        ...

    def note(self, text: str) -> None:
        """Tell about progress; never content."""
        ...


class Collected:
    """Keeps what is passed on: the JSON body's choice, or the draft of an inner stage."""

    live = False

    def __init__(self) -> None:
        self._assembler = Assembler()
        self._reply: Reply | None = None
        self.begun = False

    async def delta(self, delta: Mapping[str, Any], logprobs: Any = None) -> None:
        self.begun = True
        if self._reply is not None:
            whole, self._reply = self._reply, None
            await self.delta(deltas_of(whole.message), whole.logprobs)
        self._assembler.add({"delta": delta, "logprobs": logprobs})

    async def reply(self, reply: Reply) -> None:
        if self.begun:
            await self.delta(deltas_of(reply.message), reply.logprobs)
        else:
            self._reply = reply
        self.begun = True

    async def flush(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def result(self, finish_reason: str) -> Reply:
        """All that was passed on, as one reply."""
        if self._reply is not None:
            return replace(self._reply, finish_reason=finish_reason)
        return replace(self._assembler.reply(), finish_reason=finish_reason)


class Through:
    """An outlet behind a transform's filter; only text is filtered."""

    def __init__(self, outlet: Outlet, through: Filter) -> None:
        self._outlet = outlet
        self._filter = through
        self._fed = False
        self._drained = False
        self._passed: list[str] = []

    @property
    def passed(self) -> str:
        """The text that came out of the filter."""
        return "".join(self._passed)

    @property
    def live(self) -> bool:
        return self._outlet.live

    @property
    def begun(self) -> bool:
        """Also true once the filter holds something back: another answer must not follow that."""
        return self._fed or self._outlet.begun

    async def delta(self, delta: Mapping[str, Any], logprobs: Any = None) -> None:
        self._fed = True
        passed = filtered_delta(delta, self._filter)
        self._passed.append(passed.get("content") or "")
        if passed or logprobs is not None:
            await self._outlet.delta(passed, logprobs)

    async def reply(self, reply: Reply) -> None:
        self._fed = True
        if isinstance(reply.message.get("content"), str):
            reply = reply.with_text(self._filter.feed(reply.text))
            self._passed.append(reply.text)
        await self._outlet.reply(reply)

    async def drain(self) -> None:
        """Pass on what this filter holds back."""
        rest = "" if self._drained else self._filter.flush()
        self._drained = True
        if rest:
            self._passed.append(rest)
            await self._outlet.delta({"content": rest})

    async def flush(self) -> None:
        await self.drain()
        await self._outlet.flush()

    def note(self, text: str) -> None:
        self._outlet.note(text)


def filtered_delta(delta: Mapping[str, Any], through: Filter) -> Mapping[str, Any]:
    """``delta`` with its text fed to ``through``; without it while the filter holds it back."""
    content = delta.get("content")
    if not isinstance(content, str):
        return delta
    passed = through.feed(content)
    rest = {name: value for name, value in delta.items() if name != "content"}
    return {**rest, "content": passed} if passed else rest
