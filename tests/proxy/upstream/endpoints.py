"""Providers in memory, the pool in front of them, and a loop whose clock does not wait."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from driving import completion

from benchmarks.virtual_time import VirtualTime
from proxy.errors import UpstreamError
from proxy.settings import Settings, Sharing
from proxy.upstream.answers import Answers
from proxy.upstream.config import HealthCheck, PoolConfig, ProviderConfig
from proxy.upstream.limits import NAMED, limits, register
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call, Json, Rival, Upstream
from proxy.upstream.sharing import Shared
from proxy.upstream.slots import Slots

T = TypeVar("T")

MESSAGES = [{"role": "user", "content": "hi"}]


def run(test: Callable[[], Awaitable[T]]) -> T:
    """What ``test`` returns; its clock goes on only when there is nothing to do."""

    async def bounded() -> T:
        async with asyncio.timeout(100_000):
            return await test()

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(bounded())


def now() -> float:
    return asyncio.get_running_loop().time()


def delta(text: str, **members: Any) -> Json:
    return {"model": "served", "choices": [{"index": 0, "delta": {"content": text}, **members}]}


ROLE: Json = {"model": "served", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}
END: Json = {"model": "served", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


class FakeEndpoint:
    """Implements `proxy.upstream.port.Endpoint`.

    ``respond`` turns a call into a text, an answer, an error to raise, or an awaitable of those;
    for a stream also into a list of chunks, of seconds to wait, and of errors to raise.
    ``listing`` are its models, or an error, or an awaitable of those.
    """

    def __init__(
        self,
        name: str,
        respond: Callable[[Call], Any] | None = None,
        listing: Callable[[], Any] = list,
        **config: Any,
    ) -> None:
        self.config = ProviderConfig(name=name, base_url=f"http://{name}.test/v1", **config)
        self.respond = respond or (lambda _: name)
        self.listing = listing
        self.calls: list[Call] = []
        self.running = self.peak = self.listings = 0
        self.closed = False

    async def _answer(self, call: Call) -> Any:
        said = self.respond(call)
        said = await said if inspect.isawaitable(said) else said
        if isinstance(said, UpstreamError):
            raise said
        return said

    @asynccontextmanager
    async def _running(self, call: Call) -> AsyncIterator[None]:
        self.calls.append(call)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            yield
        finally:
            self.running -= 1

    async def complete(self, call: Call) -> Json:
        async with self._running(call):
            said = await self._answer(call)
        return {**completion(said), "model": call.model} if isinstance(said, str) else said

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[AsyncIterator[Sequence[Json]]]:
        async with self._running(call):
            said = await self._answer(call)
            yield self._chunks([ROLE, delta(said), END] if isinstance(said, str) else said)

    async def _chunks(self, script: Sequence[Any]) -> AsyncIterator[Sequence[Json]]:
        for step in script:
            if isinstance(step, UpstreamError):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                yield [step]

    async def models(self) -> list[Json]:
        self.listings += 1
        said = self.listing()
        said = await said if inspect.isawaitable(said) else said
        if isinstance(said, UpstreamError):
            raise said
        return [{"id": name, "object": "model"} for name in said]

    async def close(self) -> None:
        self.closed = True


@dataclass
class Tally:
    """Implements `proxy.upstream.port.Watch`."""

    only: bool = True
    attempts: list[str] = field(default_factory=list)
    errors: list[UpstreamError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rival: RivalTally | None = None

    def sent(self, provider: str) -> None:
        self.attempts.append(provider)

    def missed(self, error: UpstreamError) -> None:
        self.errors.append(error)

    def needed(self) -> bool:
        return self.only

    def note(self, text: str) -> None:
        self.notes.append(text)

    def shared(self, source: str) -> None:
        self.attempts.append(source)

    def beside(self) -> Rival:
        self.rival = RivalTally(only=False)
        return self.rival


@dataclass
class RivalTally(Tally):
    """Implements `proxy.upstream.port.Rival`."""

    end: str = ""

    def won(self) -> None:
        self.end = "won"

    def lost(self, error: UpstreamError | None) -> None:
        self.end = "overtaken" if error is None else error.code


@asynccontextmanager
async def pooled(
    *endpoints: FakeEndpoint, workers: int = 1, sharing: Sharing | None = None, **config: Any
) -> AsyncIterator[Pool]:
    """A pool of these, in their order, with whatever `PoolConfig` has besides."""
    config = {"strategy": "failover", "health_check": HealthCheck(interval=30.0), **config}
    settings = Settings(
        base_url="",
        workers=workers,
        sharing=sharing or Sharing(),
        pool=PoolConfig(providers=tuple(each.config for each in endpoints), **config),
    )
    assert settings.pool is not None
    slots = Slots()
    register(settings, slots)
    slots.claim()
    by_name = {each.config.name: each for each in endpoints}
    pool = Pool(settings.pool, settings, slots, NAMED, lambda provider: by_name[provider.name])
    try:
        yield pool
    finally:
        await pool.close()
    assert all(each.closed for each in endpoints)
    assert held(slots, settings.pool) == {}


def held(slots: Slots, config: PoolConfig) -> dict[str, int]:
    """What is taken of each limit."""
    counts = {name: slots.held(f"{NAMED} {name}") for name in limits(config)}
    return {name: count for name, count in counts.items() if count}


def call(model: str = "m", **members: Any) -> Call:
    body = {"messages": MESSAGES, **members.pop("body", {})}
    return Call(model, body, **members)


def text_of(answer: Json) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


async def asked(pool: Upstream, model: str = "m", **members: Any) -> str:
    """The text of an answer."""
    return text_of(await pool.complete(call(model, **members)))


async def read(pool: Upstream, asked: Call) -> str:
    """The text of a stream."""
    pieces = []
    async with pool.stream(asked) as batches:
        async for batch in batches:
            for chunk in batch:
                for choice in chunk["choices"]:
                    pieces.append(choice["delta"].get("content") or "")
    return "".join(pieces)


#: Seconds that `shared` keeps answers for.
TTL = 60.0


def cold(watch: Tally | None = None, **members: Any) -> Call:
    """A call whose answer may be shared."""
    body = {"temperature": 0, **members.pop("body", {})}
    return call(watch=watch or Tally(), body=body, **members)


@asynccontextmanager
async def shared(
    *endpoints: FakeEndpoint, cache: bool = False, size: int = 1_000_000, **config: Any
) -> AsyncIterator[Shared]:
    """Single flight in front of a pool of these, and with ``cache`` room for ``size`` bytes."""
    async with pooled(*endpoints, **config) as pool:
        clock = asyncio.get_running_loop().time
        yield Shared(pool, "pool", Answers(TTL, size, clock) if cache else None)


class Paced(FakeEndpoint):
    """Answers half a second after it was asked, but for what is ``next``: seconds, and what."""

    def __init__(self, name: str, **config: Any) -> None:
        super().__init__(name, self._paced, **config)
        self.next: list[Any] = []

    def _paced(self, call: Call) -> Any:
        step = self.next.pop(0) if self.next else 0.5
        return (
            self._after(*step) if isinstance(step, tuple) else self._after(step, self.config.name)
        )

    async def _after(self, seconds: float, said: Any) -> Any:
        await asyncio.sleep(seconds)
        return said


def hedged(*endpoints: FakeEndpoint, **config: Any) -> AbstractAsyncContextManager[Pool]:
    """A pool that tries calls twice which take unusually long."""
    return pooled(*endpoints, sharing=Sharing(hedge=True), **config)


async def failure_of(waiting: Awaitable[Any]) -> UpstreamError:
    """The error that it must end with."""
    try:
        answer = await waiting
    except UpstreamError as error:
        return error
    raise AssertionError(f"it was answered: {answer}")
