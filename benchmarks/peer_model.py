"""The simulated model for OptiLLM, whose prompts it would take for a question like any other.

Our own prompts ask for replies in words that the model knows (`optictl.simulator.replies.ENDINGS`),
OptiLLM's do not. Here each of its calls is given its part by the words that call for it, and gets
the reply in the form that OptiLLM reads: its judges, selectors and verifiers are as good as ours,
its programs state as much, and its stages in between are no answers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import web

from optictl.simulator.ask import text_of
from optictl.simulator.questions import find_question
from optictl.simulator.replies import Role

_SCORE = re.compile(r"Score: ([\d.]+)\s*$")


def _score(said: str) -> float:
    stated = _SCORE.search(said)
    return float(stated[1]) if stated else 0.0


def _as_it_is(said: str, asked: str) -> str:
    return said


def _program(said: str, asked: str) -> str:
    return f"SOLVER_CAN_BE_APPLIED: True\n\nSOLVER_FORMULATION:\n{said}\n\nAnalysis:\nAs stated."


def _restated(said: str, asked: str) -> str:
    """Asked for a better question, a model does not lose the one there is."""
    return f"What is {find_question(asked)}?"


@dataclass(frozen=True, slots=True)
class Part:
    """A call that is known by its words: the part it plays, and how its reply is put."""

    cue: re.Pattern[str]
    role: Role
    put: Callable[[str, str], str] = _as_it_is


_CANDIDATE = r"<candidate>\1</candidate>"
#: The first that fits counts.
PARTS = (
    Part(re.compile(r"Score: \["), Role.JUDGE),
    Part(re.compile(r"\b0 to 10\b"), Role.JUDGE, lambda said, _: f"{_score(said):g}"),
    Part(re.compile(r"\b0 to 1\b"), Role.JUDGE, lambda said, _: f"{_score(said) / 10:g}"),
    Part(
        re.compile(r"Rating: \[\["),
        Role.JUDGE,
        lambda said, _: f"Rating: [[{int(_score(said) > 5)}]]",
    ),
    Part(re.compile(r"BEST CANDIDATE:"), Role.SELECTOR),
    Part(re.compile(r"\(CORRECT/INCORRECT/"), Role.VERIFIER),
    Part(re.compile(r"You are in sneaky mode"), Role.DECEIVER),
    Part(re.compile(r"SOLVER_CAN_BE_APPLIED: \["), Role.STAGE, _program),
    Part(re.compile(r"Refined query:"), Role.STAGE, _restated),
    Part(
        re.compile(
            r"do not provide the final answer|Please provide \d+ (?:new )?observations"
            r"|brainstorm|describe the code|ask or say next"
            r"|extract the key reasoning strategy|into one category"
        ),
        Role.STAGE,
    ),
)
#: What is put in other words for the model: a program asked for, and what is quoted with no other
#: answer beside it, to be given its last form.
_WORDS = (
    (re.compile(r"provide Python code"), "write a Python program"),
    # The model takes what stands in double brackets for the question.
    (re.compile(r"\[\[rating\]\]"), "[rating]"),
    (re.compile(r"(?<=Here's my final solution: )(.*)(?=\n\nNow )", re.DOTALL), _CANDIDATE),
    (re.compile(r"(?<=Solver Result: )(.*)(?=\n\nResponse:)", re.DOTALL), _CANDIDATE),
)


class PeerModel:
    """Stands before the simulated model at ``upstream`` while the block lasts; ``url`` is its own.

    Chat completions only. Who hangs up here has hung up there.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        # Its calls are many at once, and none may wait for another here.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _stop(self) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _chat(self, request: web.Request) -> web.Response:
        assert self._session is not None
        body = orjson.loads(await request.read())
        asked = _prompt(body)
        part = next((part for part in PARTS if part.cue.search(asked)), None)
        headers = {"Content-Type": "application/json"}
        if part is not None:
            headers["x-sim-role"] = part.role
        url = f"{self._upstream}/chat/completions"
        data = orjson.dumps(_reworded(body))
        async with self._session.post(url, data=data, headers=headers) as answered:
            said = await answered.read()
        if part is not None and answered.status == 200:
            said = orjson.dumps(_put(orjson.loads(said), part, asked))
        return web.Response(status=answered.status, body=said, content_type="application/json")


def _reworded(body: dict[str, Any]) -> dict[str, Any]:
    *before, last = body["messages"]
    text = said = text_of(last)
    for words, instead in _WORDS:
        said = words.sub(instead, said)
    return body if said == text else {**body, "messages": [*before, {**last, "content": said}]}


def _prompt(body: Mapping[str, Any]) -> str:
    """What the system says, and the user at last."""
    messages = body["messages"]
    said = [text_of(message) for message in messages if message.get("role") == "system"]
    return "\n".join([*said, text_of(messages[-1])])


def _put(answer: dict[str, Any], part: Part, asked: str) -> dict[str, Any]:
    for choice in answer["choices"]:
        choice["message"]["content"] = part.put(choice["message"]["content"], asked)
    return answer
