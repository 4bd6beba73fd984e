"""The simulated models behind HTTP: a request in, a response out, one entry in the log."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hmac import compare_digest
from random import Random
from typing import Any

import orjson
from aiohttp import web

from optictl.simulator.ask import Ask, RefusedError, read_ask
from optictl.simulator.behaviour import Behaviour
from optictl.simulator.faults import Fault, FaultQueue
from optictl.simulator.log import Call, CallLog
from optictl.simulator.misbehave import JSON, SSE, distort, misbehave, never
from optictl.simulator.replies import Prompt, Role, compose, read_prompt, sample_key
from optictl.simulator.wire import DONE, Answer, completion, events

_MOST_NUMBERED = 100_000
#: Seconds: one wait of `think`, and how late it may end before the machine is said to have stalled.
_WAIT = 0.02
_LATE = 0.01


async def think(seconds: float) -> None:
    """Wait `seconds` of a machine that runs: its stalls do not count.

    Otherwise calls that were sent together but lie unread through a stall would come when the
    first of them is due, as if they had been sent after its answer.
    """
    loop = asyncio.get_running_loop()
    now = loop.time()
    while seconds > 0:
        wait, began = min(seconds, _WAIT), now
        await asyncio.sleep(wait)
        now = loop.time()
        seconds -= min(now - began, wait + _LATE)


class Numbering:
    """Numbers the samples of each prompt from 0; forgets the prompts longest unused."""

    def __init__(self) -> None:
        self._next: OrderedDict[tuple[str, str], int] = OrderedDict()

    def take(self, model: str, key: str, count: int) -> int:
        """The first of `count` consecutive numbers."""
        first = self._next.pop((model, key), 0)
        self._next[model, key] = first + count
        if len(self._next) > _MOST_NUMBERED:
            self._next.popitem(last=False)
        return first

    def clear(self) -> None:
        """Start each prompt from 0 again."""
        self._next.clear()


class Service:
    """Models, how they behave, and the log of the calls to them."""

    def __init__(
        self,
        behaviour: Behaviour,
        models: Sequence[str] | Mapping[str, Behaviour],
        *,
        any_model: bool,
        api_key: str | None,
        log: CallLog,
    ) -> None:
        self.models = tuple(models)
        self.log = log
        self.closing = False
        self._any_model = any_model
        self._api_key = api_key
        self._default = behaviour
        self._behaviours = dict(models) if isinstance(models, Mapping) else {}
        self._faults: dict[str | None, FaultQueue] = {}
        self._numbering = Numbering()

    def behaviour(self, model: str | None = None) -> Behaviour:
        """How a model behaves; None is every model that has no behaviour of its own."""
        return self._behaviours.get(model or "", self._default)

    def behave(self, changes: Mapping[str, Any], model: str | None = None) -> Behaviour:
        """Change fields of a behaviour from the next call on; new faults count from the start."""
        changed = replace(self.behaviour(model), **changes)
        if model is None:
            self._default = changed
        else:
            self._behaviours[model] = changed
        if "faults" in changes:
            self._faults.pop(model, None)
        return changed

    def reset(self) -> None:
        """Forget the calls: log, sample numbers, and how often a fault has struck."""
        self.log.clear()
        self._numbering.clear()
        self._faults.clear()

    async def health(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /health"""
        return web.json_response({"status": "ok"})

    async def list_models(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /v1/models"""
        self._authorize(request)
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "optictl"}
            for name in self.models
        ]
        return web.json_response({"object": "list", "data": models})

    async def chat(self, request: web.BaseRequest) -> web.StreamResponse:
        """POST /v1/chat/completions

        Raises:
            RefusedError: the request, or the fault whose turn it is, ends in an error status.
        """
        raw = await request.read()
        call = self.log.begin(request.headers)
        try:
            self._authorize(request)
            return await self._complete(request, read_ask(raw), call)
        except RefusedError as refused:
            call.status = refused.status
            raise
        except asyncio.CancelledError:
            self.log.finish(call, peer_left=not self.closing)
            raise
        except ConnectionResetError:
            self.log.finish(call, peer_left=not self.closing)
            await never()
        finally:
            self.log.finish(call)

    async def _complete(self, request: web.BaseRequest, ask: Ask, call: Call) -> web.StreamResponse:
        call.model, call.stream = ask.model, ask.stream
        if self.log.keep_bodies:
            call.body = ask.body
        self._check_model(ask.model)
        behaviour = self.behaviour(ask.model)
        prompt = read_prompt(ask, _role_named(request))
        call.role = prompt.role
        fault = self._fault(behaviour, ask, prompt)
        kind = fault.kind if fault else ""
        call.fault = kind or None
        if fault and isinstance(kind, int):
            raise RefusedError(
                f"Simulated fault {kind}.",
                status=kind,
                code=f"simulated_{kind}",
                retry_after=fault.retry_after,
            )
        self._check_support(behaviour, ask)
        answer, delay = self._draw(behaviour, ask, prompt, call)
        if kind == "hang":
            await never()
        await think(delay)
        answer = distort(kind, answer)
        self._record(call, answer)
        if kind:
            response = await misbehave(
                kind, request, answer, behaviour, lambda: self.log.finish(call)
            )
            if response is not None:
                return response
        if ask.stream:
            return await self._stream(request, answer, behaviour, call)
        return web.Response(body=orjson.dumps(completion(answer)), headers=JSON)

    def _draw(
        self, behaviour: Behaviour, ask: Ask, prompt: Prompt, call: Call
    ) -> tuple[Answer, float]:
        """What will be answered, and after how many seconds."""
        count = ask.n if behaviour.n == "honoured" else 1
        nth = self.log.choices
        self.log.answering(call, count)
        key = sample_key(ask, prompt)
        first = self._numbering.take(ask.model, key, count) if ask.seed is None else ask.seed
        told = not ask.stream or (ask.include_usage and behaviour.stream_options == "honoured")
        answer = Answer(
            id=f"chatcmpl-sim{call.index:08x}",
            created=int(time.time()),
            ask=ask,
            replies=[compose(behaviour, ask, prompt, first + i) for i in range(count)],
            usage=behaviour.usage and told,
        )
        delay = behaviour.latency
        if behaviour.sigma:
            # The choices of one call come together, with the slowest of them. By their order, not
            # their prompts: whoever asks in other words waits as long.
            dice = (Random(f"{behaviour.seed}\0{ask.model}\0{nth + i}") for i in range(count))
            delay = max(map(behaviour.draw_latency, dice))
        return answer, delay

    async def _stream(
        self, request: web.BaseRequest, answer: Answer, behaviour: Behaviour, call: Call
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        parts = events(answer, behaviour.chunk_chars)
        if not behaviour.chunk_interval:
            parts = iter([b"".join(parts)])
            self.log.finish(call)
        for i, part in enumerate(parts):
            if part is DONE:
                # A client that has read [DONE] may look at `inflight` at once.
                self.log.finish(call)
            elif i:
                await asyncio.sleep(behaviour.chunk_interval)
            await response.write(part)
        return response

    def _authorize(self, request: web.BaseRequest) -> None:
        if self._api_key is None:
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not compare_digest(given.encode(), self._api_key.encode()):
            raise RefusedError("Incorrect API key provided.", status=401, code="invalid_api_key")

    def _check_model(self, model: str) -> None:
        if not (self._any_model or model in self.models or model in self._behaviours):
            raise RefusedError(
                f"The model '{model}' does not exist.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def _check_support(self, behaviour: Behaviour, ask: Ask) -> None:
        if ask.n > 1 and behaviour.n == "refused":
            raise RefusedError("Only n = 1 is supported.", param="n", code="unsupported_parameter")
        if "stream_options" in ask.body and behaviour.stream_options == "refused":
            raise RefusedError(
                "Unrecognized request argument supplied: stream_options",
                param="stream_options",
                code="unsupported_parameter",
            )

    def _fault(self, behaviour: Behaviour, ask: Ask, prompt: Prompt) -> Fault | None:
        if not behaviour.faults:
            return None
        owner = ask.model if ask.model in self._behaviours else None
        queue = self._faults.get(owner)
        if queue is None:
            queue = self._faults[owner] = FaultQueue(behaviour.faults, behaviour.seed)
        return queue.take(model=ask.model, role=prompt.role, stream=ask.stream)

    def _record(self, call: Call, answer: Answer) -> None:
        call.completion_tokens = answer.completion_tokens
        if self.log.keep_bodies and answer.replies:
            call.content = answer.replies[0].content


def _role_named(request: web.BaseRequest) -> Role | None:
    name = request.headers.get("x-sim-role")
    if name is None:
        return None
    try:
        return Role(name)
    except ValueError as unknown:
        raise RefusedError(f"x-sim-role is none of {', '.join(Role)}.") from unknown
