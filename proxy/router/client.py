"""Asks the sidecar, from a worker's loop: a decision in time, or none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.chat import Chat
from proxy.router.checkpoint import LABELS
from proxy.router.config import RouterSettings, State
from proxy.router.tokenise import question

#: Seconds between two attempts to reach the sidecar.
_RETRY = 0.5
#: Seconds after which a load, and a decision that nobody waits for any more, are spoken of. The
#: sidecar and its supervisor take longer to be sure that it hangs.
_LONG_LOAD, _LONG_DECISION = 120.0, 5.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What the classifier makes of a request: a share of 1 for each approach."""

    shares: Mapping[str, float]
    #: What `confidence` has to reach for `sure`.
    threshold: float

    @property
    def label(self) -> str:
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def confidence(self) -> float:
        return max(self.shares.values())

    @property
    def sure(self) -> bool:
        return self.confidence >= self.threshold

    def among(self, allowed: Collection[str]) -> Decision | None:
        """The decision where only ``allowed`` can be had; None where it knows none of them."""
        shares = {label: share for label, share in self.shares.items() if label in allowed}
        whole = sum(shares.values())
        if not whole:
            return None
        return Decision({label: share / whole for label, share in shares.items()}, self.threshold)


class Router:
    """The classifier as a worker sees it. Built anywhere, used on one loop.

    ``address`` and ``absent`` are the supervisor's: where the sidecar is asked, or why there is
    none.
    """

    def __init__(self, settings: RouterSettings, address: str, absent: str = "") -> None:
        self._settings = settings
        self._address = address
        self._state = State("absent", absent) if absent else State("loading")
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        #: Questions that nobody waits for any more and that are not answered yet.
        #: With the time since when (monotonic seconds), the earliest first.
        self._late: dict[int, float] = {}
        self._loading_since = time.monotonic()
        self._asked = 0
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def settings(self) -> RouterSettings:
        return self._settings

    @property
    def state(self) -> State:
        """What the sidecar has said of itself, unless it takes suspiciously long."""
        now = time.monotonic()
        if self._state == State("loading") and now - self._loading_since > _LONG_LOAD:
            return _stuck("has been loading", now - self._loading_since)
        if self._state.phase == "ready" and self._late:
            late = now - next(iter(self._late.values()))
            if late > _LONG_DECISION:
                return _stuck("has not answered", late)
        return self._state

    def start(self) -> None:
        """Keep in touch with the sidecar from now on. Needs the running loop; waits for nothing."""
        if self._upkeep is None and self._address and self._state.phase != "absent":
            self._upkeep = asyncio.create_task(self._keep_in_touch())

    async def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
            self._upkeep = None

    async def decide(self, chat: Chat, effort: float | None = None) -> Decision | None:
        """What to answer ``chat`` by; None where there is no decision in time.

        ``effort`` is from 0, cheap, to 1, thorough. Takes at most ``within`` seconds, and none
        while the sidecar has not answered an earlier question: it is stuck or has too much to do.
        """
        asked = question(chat)
        if self._state.phase != "ready" or self._writer is None or self._late or asked is None:
            return None
        settings = self._settings
        self._asked += 1
        number = self._asked
        line = {
            "id": number,
            "query": asked.query,
            "history": asked.history,
            "system": asked.system,
            "effort": settings.effort if effort is None else effort,
            "within": settings.within,
        }
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(orjson.dumps(line) + b"\n")
        try:
            async with asyncio.timeout(settings.within):
                shares = await answer
        except TimeoutError:
            shares = None
        finally:
            # Also where the request was cancelled. What is not answered by now is late.
            if self._waiting.pop(number, None) is not None:
                self._late[number] = time.monotonic()
        if shares is None:
            return None
        return Decision(dict(zip(LABELS, shares, strict=True)), settings.min_confidence)

    async def _keep_in_touch(self) -> None:
        while True:
            with suppress(OSError):
                await self._listen()
            await asyncio.sleep(_RETRY)

    async def _listen(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self._address)
        try:
            while line := await reader.readline():
                self._hear(orjson.loads(line))
        finally:
            self._writer.close()
            self._writer = None
            self._become(State("loading", "the classifier's process has ended; it starts again"))
            while self._waiting:
                _settle(self._waiting.popitem()[1], None)
            self._late.clear()

    def _become(self, state: State) -> None:
        self._state = state
        self._loading_since = time.monotonic()

    def _hear(self, said: dict[str, Any]) -> None:
        if "phase" in said:
            self._become(State(**said))
            return
        self._late.pop(said["id"], None)
        answer = self._waiting.pop(said["id"], None)
        if answer is not None:
            _settle(answer, said["shares"])


def no_classifier() -> Router:
    """For a service without one: it never decides."""
    return Router(RouterSettings(), "", "no classifier is set up")


def _stuck(how: str, seconds: float) -> State:
    return State("loading", f"the classifier {how} for {seconds:.0f} s")


def _settle(answer: asyncio.Future[Any], shares: list[float] | None) -> None:
    # Whoever gave up on it in this very turn of the loop has cancelled it.
    if not answer.done():
        answer.set_result(shares)
