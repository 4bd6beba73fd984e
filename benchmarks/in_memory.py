"""The real engine over the simulated model, without a socket: thousands of requests a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import orjson

from optictl.simulator import Behaviour
from optictl.simulator.ask import Ask, read_ask
from optictl.simulator.questions import find_answer
from optictl.simulator.replies import Prompt, compose, read_prompt, sample_key
from optictl.simulator.service import Numbering
from optictl.simulator.wire import Answer, completion
from proxy.registry import discover
from proxy.run.engine import Engine
from proxy.run.plan import make_plan
from proxy.run.scope import Caller
from proxy.settings import Settings
from proxy.upstream.limits import register
from proxy.upstream.port import Call, Json
from proxy.upstream.slots import Slots
from proxy.wire.request import parse_chat

#: Turns of the loop between two answers: enough for the engine to cancel what it needs no more.
_TURNS = 8
_MODEL = "sim"


class OneByOne:
    """The simulated model as an `Upstream` in memory.

    However many calls wait, their answers land one after the other, in the order of the calls, and
    whoever has one may act on it before the next: how many landed is how many were looked at.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._numbering = Numbering()
        self._turn = asyncio.Lock()
        self._asked: tuple[Ask, Prompt] | None = None
        #: The answers that landed since `forget`, as the model states them.
        self.landed: list[str] = []

    def forget(self) -> None:
        """The next request begins."""
        self.landed.clear()
        self._asked = None

    def stream_of(self, samples: int) -> list[str]:
        """The answers of the request's first so many samples, whether they were asked for or not.

        Raises `LookupError` where nothing was asked since `forget`.
        """
        if self._asked is None:
            raise LookupError("nothing was asked")
        return [self._reply(*self._asked, number)[1] for number in range(samples)]

    async def complete(self, call: Call) -> Json:
        ask = read_ask(orjson.dumps({**call.body, "model": call.model}))
        prompt = read_prompt(ask)
        self._asked = self._asked or (ask, prompt)
        number = self._numbering.take(ask.model, sample_key(ask, prompt), 1)
        async with self._turn:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            answer, stated = self._reply(ask, prompt, number)
            self.landed.append(stated)
        return completion(answer)

    def stream(self, call: Call) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Json]]]:
        raise NotImplementedError("no request here asks for a stream")

    async def models(self) -> list[Json]:
        return [{"id": _MODEL}]

    async def close(self) -> None:
        """Nothing is open."""

    def _reply(self, ask: Ask, prompt: Prompt, number: int) -> tuple[Answer, str]:
        reply = compose(self._behaviour, ask, prompt, number)
        return Answer("memory", 0, ask, [reply], usage=True), find_answer(reply.content or "")


class Conversation:
    """Requests to the engine, one after the other."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def ask(self, slug: str, question: str, options: Mapping[str, Any]) -> str:
        """The answer that ``<slug>-sim`` states."""
        request = parse_chat(
            {
                "model": f"{slug}-{_MODEL}",
                "messages": [{"role": "user", "content": question}],
                "optillm_options": dict(options),
            }
        )
        plan = make_plan(request, self._engine.services.registry, (_MODEL,), self._settings)
        outcome = await self._engine.answer(plan, Caller(), _Nowhere())
        body = orjson.loads(outcome.body or b"")
        return find_answer(body["choices"][0]["message"]["content"])


@asynccontextmanager
async def conversation(upstream: OneByOne) -> AsyncIterator[Conversation]:
    """An engine over ``upstream`` while the block lasts."""
    settings = Settings(base_url="http://memory/v1", model=_MODEL)
    slots = Slots()
    register(settings, slots)
    engine = Engine(settings, discover(), slots, lambda _: upstream)
    try:
        yield Conversation(engine, settings)
    finally:
        await engine.close()


class _Nowhere:
    """The way to a client that does not stream."""

    def put(self, data: bytes) -> None:
        raise NotImplementedError

    async def room(self) -> None:
        raise NotImplementedError
