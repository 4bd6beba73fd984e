"""Ways into an `LLM`: an example approach inside the app, or a run over an upstream in memory."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from conftest import InProcess, MakeProxy

from proxy.approach import entry_of
from proxy.chat import Chat, Reply
from proxy.ensembles import Member, Team
from proxy.errors import ProxyError, UpstreamInvalid
from proxy.llm import LLM, Fan, Shape, approach
from proxy.pipeline import Leaf
from proxy.registry import Registry, discover
from proxy.run.budget import Budget
from proxy.run.cache import Cache
from proxy.run.calculator import Calculator
from proxy.run.ledger import Ledger
from proxy.run.outlet import Collected, Outlet
from proxy.run.play import Ended, play, play_choice
from proxy.run.scope import Run, Scope, Services
from proxy.settings import Limits
from proxy.upstream.port import Call, Json
from proxy.wire.assemble import Assembler, deltas_of

T = TypeVar("T")

MESSAGES = ({"role": "user", "content": "What is 17 * 23?"},)

#: Marks a test's own approach: reached as ``example-sim``, takes anything, costs one call or more.
example = approach(
    "example",
    shape=lambda _: Shape(calls=(1, 99), rounds=(1, 99)),
    handles={"tools", "parts", "formats"},
)


def registry_with(*functions: Callable[..., Any]) -> Registry:
    """All that is built, and the marked ``functions``."""
    entries = [entry_of(function) for function in functions]
    return Registry([*discover(), *(entry for entry in entries if entry is not None)])


def app_with(make_proxy: MakeProxy, *functions: Callable[..., Any], **settings: Any) -> InProcess:
    """The app with the marked ``functions`` among its approaches."""
    return make_proxy(registry_with(*functions), **settings)


def completion(text: str | None, **members: Any) -> Json:
    """An upstream's answer of one choice: 10 tokens in, 5 out."""
    message = {"role": "assistant", "content": text}
    return {
        "model": "served",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **members,
    }


async def taken(fan: Fan[T]) -> list[T]:
    """All that lands, in that order."""
    async with fan as landed:
        return [result async for result in landed]


class FakeUpstream:
    """Implements `proxy.upstream.port.Upstream` in memory.

    ``respond`` turns a call into a text, an answer, an error to raise, or an awaitable of those.
    ``cut`` says where a streamed text is cut: one chunk for each piece.
    """

    def __init__(
        self,
        respond: Callable[[Call], Any] = lambda call: "ok",
        cut: Callable[[str], Sequence[str]] = list,
        native_n: bool = False,
    ) -> None:
        self._respond = respond
        self._native_n = native_n
        self._cut = cut
        self.calls: list[Call] = []
        self.running = 0
        self.cancelled = 0

    @property
    def models_called(self) -> list[str]:
        return [call.model for call in self.calls]

    async def complete(self, call: Call) -> Json:
        self.calls.append(call)
        if call.watch is not None:
            call.watch.sent("fake")
        self.running += 1
        try:
            said = self._respond(call)
            said = await said if inspect.isawaitable(said) else said
        except asyncio.CancelledError:
            # Closing a connection takes the loop some turns.
            for _ in range(3):
                await asyncio.sleep(0)
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if isinstance(said, ProxyError):
            raise said
        if isinstance(said, str):
            answer = completion(said)
            return {**answer, "choices": answer["choices"] * call.body.get("n", 1)}
        return said

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[AsyncIterator[Sequence[Json]]]:
        answer = await self.complete(call)
        self.running += 1
        try:
            yield self._chunks(answer)
        finally:
            self.running -= 1

    async def _chunks(self, answer: Json) -> AsyncIterator[Sequence[Json]]:
        head = {"model": answer["model"]}
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        assert "".join(self._cut(text)) == text
        for piece in self._cut(text):
            await asyncio.sleep(0)
            yield [{**head, "choices": [{"index": 0, "delta": {"content": piece}}]}]
        if choice["finish_reason"] is None:
            raise UpstreamInvalid("The stream was cut.")
        end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
        yield [{**head, "choices": [end]}, {**head, "choices": [], "usage": answer.get("usage")}]

    def native_n(self, model: str) -> bool:
        return self._native_n

    async def models(self) -> list[Json]:
        return []

    async def close(self) -> None:
        pass


class Live:
    """An outlet whose client reads along; implements `proxy.run.outlet.Outlet`."""

    live = True

    def __init__(self) -> None:
        self.begun = False
        self.deltas: list[Mapping[str, Any]] = []
        self.notes: list[str] = []

    async def delta(self, delta: Mapping[str, Any], logprobs: Any = None) -> None:
        self.begun = True
        self.deltas.append(delta)

    async def reply(self, reply: Reply) -> None:
        await self.delta(deltas_of(reply.message), reply.logprobs)

    async def flush(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def text(self) -> str:
        assembler = Assembler()
        for delta in self.deltas:
            assembler.delta(delta)
        return assembler.text


class Driver:
    """One request over ``upstream`` on the running loop: what the engine would have built."""

    def __init__(
        self,
        upstream: FakeUpstream,
        *members: Member,
        params: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        seconds: float = 60.0,
        outlet: Outlet | None = None,
        registry: Registry | None = None,
        index: int = 0,
        messages: Sequence[Mapping[str, Any]] = MESSAGES,
    ) -> None:
        self.upstream = upstream
        self.messages = tuple(messages)
        self.outlet = outlet or Collected()
        ledger = Ledger()
        self.run = Run(
            services=Services(
                registry=registry or discover(), cache=Cache(), calculator=Calculator()
            ),
            upstream=upstream,
            team=Team(members) if members else Team.of("base"),
            params=params or {},
            ledger=ledger,
            budget=Budget(limits or Limits(), ledger),
            deadline=asyncio.get_running_loop().time() + seconds,
            play=play,
        )
        self.scope = Scope.of(self.run, self.outlet, index)
        self.llm = LLM(self.scope, "example")

    @property
    def text(self) -> str:
        """What has gone out to the client."""
        if isinstance(self.outlet, Live):
            return self.outlet.text
        assert isinstance(self.outlet, Collected)
        return self.outlet.result("stop").text

    async def play(self, slug: str, **options: Any) -> Ended:
        """A registered approach as this request's only choice."""
        entry = self.run.services.registry[slug]
        leaf = Leaf(entry, {**entry.defaults, **options})
        chat = Chat(self.messages, self.run.params)
        ticking = asyncio.create_task(self._tick())
        try:
            return await play_choice(leaf, chat, self.run, self.outlet, 0)
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        """The engine's part in keeping the deadline."""
        while True:
            self.run.tick(asyncio.get_running_loop().time())
            await asyncio.sleep(0.01)
