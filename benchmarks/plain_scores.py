"""The simulated model for a client whose judge is to answer with a number alone.

The simulated judge ends in ``Score: 7.25``, as our own prompts ask for. OptiLLM asks for a number
on a scale, takes anything else for a 0, and gets what it asks for: its judge is as good as ours.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from threading import Thread
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import web

_SCALE = re.compile(r"\b0 to 10\b")
_SCORE = re.compile(r"Score: ([\d.]+)\s*$")


class PlainScores:
    """Stands before the simulated model at ``upstream`` while the block lasts; ``url`` is its own.

    Chat completions only. Requests of a judge are known by the scale in a system message. Who hangs
    up here has hung up there.
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
        self._session = aiohttp.ClientSession()
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
        asked = await request.read()
        rating = asks_for_a_number(orjson.loads(asked))
        headers = {"Content-Type": "application/json"}
        if rating:
            headers["x-sim-role"] = "judge"
        url = f"{self._upstream}/chat/completions"
        async with self._session.post(url, data=asked, headers=headers) as answered:
            said = await answered.read()
        if rating and answered.status == 200:
            said = orjson.dumps(plain(orjson.loads(said)))
        return web.Response(status=answered.status, body=said, content_type="application/json")


def asks_for_a_number(body: Mapping[str, Any]) -> bool:
    """Whether the request wants a rating."""
    return any(
        message.get("role") == "system" and _SCALE.search(str(message.get("content")))
        for message in body["messages"]
    )


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """The simulated judge's answer, the number alone."""
    for choice in answer["choices"]:
        said = _SCORE.search(choice["message"]["content"])
        if said:
            choice["message"]["content"] = said[1]
    return answer
