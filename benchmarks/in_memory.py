"""The real engine over the simulated model, without a socket: thousands of requests a minute."""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import accumulate
from typing import Any

import orjson

from optictl.simulator import Behaviour
from optictl.simulator.ask import Ask, read_ask
from optictl.simulator.questions import find_answer, gold
from optictl.simulator.replies import (
    Draw,
    Prompt,
    Reply,
    Role,
    compose,
    read_prompt,
    same,
    sample_key,
)
from optictl.simulator.service import Numbering
from optictl.simulator.wire import Answer, completion
from proxy.ensembles import Ensemble, Member, Team
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
#: The model that most requests are for; another one; and an ensemble with that for its aggregator.
MODEL, STRONG, TEAM = "sim", "strong", "team"
#: The probabilities of the ratings 0, 1, 2, ... that a judge gives a right answer, and a wrong one.
Ratings = tuple[Sequence[float], Sequence[float]]
#: Too long to be an answer by itself, and nothing in it is one.
_VOID = (
    "There are several ways to read this, and which of them is meant cannot be told from here ..."
)


class OneByOne:
    """The simulated model as an `Upstream` in memory.

    However many calls wait, their answers land one after the other, in the order of the calls, and
    whoever has one may act on it before the next: how many landed is how many were looked at. A
    share ``void`` of them states no answer.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        strong: Behaviour | None = None,
        ratings: Ratings | None = None,
        void: float = 0.0,
    ) -> None:
        self._behaviours = {MODEL: behaviour, STRONG: strong or behaviour}
        self._ratings = ratings
        self._void = void
        self._numbering = Numbering()
        self._turn = asyncio.Lock()
        self._asked: tuple[Ask, Prompt] | None = None
        #: The answers that landed since `forget`, as the model states them; '' where it does not.
        self.landed: list[str] = []
        #: The calls that were made since then.
        self.begun = 0

    def forget(self) -> None:
        """The next request begins."""
        self.landed.clear()
        self.begun = 0
        self._asked = None

    def stream_of(self, samples: int) -> list[str]:
        """The answers of the request's first so many samples, whether they were asked for or not.

        Raises `LookupError` where nothing was asked since `forget`.
        """
        if self._asked is None:
            raise LookupError("nothing was asked")
        return [_stated(self._reply(*self._asked, number)) for number in range(samples)]

    async def complete(self, call: Call) -> Json:
        ask = read_ask(orjson.dumps({**call.body, "model": call.model}))
        prompt = read_prompt(ask)
        self._asked = self._asked or (ask, prompt)
        first = self._numbering.take(ask.model, sample_key(ask, prompt), ask.n)
        self.begun += 1
        async with self._turn:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            replies = [self._reply(ask, prompt, number) for number in range(first, first + ask.n)]
            self.landed += map(_stated, replies)
        return completion(Answer("memory", 0, ask, replies, usage=True))

    def stream(self, call: Call) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Json]]]:
        raise NotImplementedError("no request here asks for a stream")

    async def models(self) -> list[Json]:
        return [{"id": MODEL}, {"id": STRONG}]

    async def close(self) -> None:
        """Nothing is open."""

    def _reply(self, ask: Ask, prompt: Prompt, number: int) -> Reply:
        behaviour = self._behaviours[ask.model]
        # Dice of its own: whether a sample is void says nothing of whether it would be right.
        if Draw(behaviour, ask, prompt, ~number).random.random() < self._void:
            return Reply(_VOID, "stop", None)
        if prompt.role is Role.JUDGE and self._ratings is not None:
            return _rating(self._ratings, prompt, Draw(behaviour, ask, prompt, number))
        return compose(behaviour, ask, prompt, number)


def _stated(reply: Reply) -> str:
    return find_answer(reply.content or "")


def _rating(ratings: Ratings, prompt: Prompt, draw: Draw) -> Reply:
    right = same(prompt.candidates[-1].answer, gold(prompt.question))
    weights = [*accumulate(ratings[0 if right else 1])]
    return Reply(f"Score: {bisect(weights[:-1], draw.random.random())}", "stop", None)


class Conversation:
    """Requests to the engine, one after the other."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def ask(
        self,
        slug: str,
        question: str,
        options: Mapping[str, Any],
        model: str = MODEL,
        choices: int = 1,
    ) -> list[str]:
        """The answers that so many choices of ``<slug>-<model>`` state."""
        request = parse_chat(
            {
                "model": f"{slug}-{model}",
                "messages": [{"role": "user", "content": question}],
                "n": choices,
                "optillm_options": dict(options),
            }
        )
        plan = make_plan(request, self._engine.services.registry, (MODEL, STRONG), self._settings)
        outcome = await self._engine.answer(plan, Caller(), _Nowhere())
        body = orjson.loads(outcome.body or b"")
        return [find_answer(choice["message"]["content"]) for choice in body["choices"]]


@asynccontextmanager
async def conversation(upstream: OneByOne) -> AsyncIterator[Conversation]:
    """An engine over ``upstream`` while the block lasts."""
    team = Team((Member(MODEL), Member(STRONG, "aggregator")))
    ensembles = {TEAM: Ensemble(TEAM, "none", team)}
    settings = Settings(base_url="http://memory/v1", model=MODEL, ensembles=ensembles)
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
