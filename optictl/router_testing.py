"""What each rung of the router's ladder makes of a prompt, here and now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optictl.router_place import Place
from proxy.chat import Chat
from proxy.router import features, linear
from proxy.router.client import Decision, Router
from proxy.router.config import RouterSettings, Unusable
from proxy.router.supervisor import Supervisor

#: Seconds for loading, and for a decision: nobody else waits here.
_LOAD, _WITHIN = 300.0, 30.0
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Rung:
    """What one way to decide says: the shares of the approaches, or why it says nothing."""

    name: str
    seconds: float
    shares: Mapping[str, float]
    why: str = ""

    @property
    def approach(self) -> str | None:
        return max(self.shares, key=self.shares.__getitem__) if self.shares else None

    def as_json(self) -> dict[str, Any]:
        return {
            "rung": self.name,
            "approach": self.approach,
            "shares": {name: round(share, 4) for name, share in self.shares.items()},
            "milliseconds": round(1000 * self.seconds, 3),
            "why": self.why or None,
        }


def rungs(prompt: str, place: Place, effort: float, tell: Callable[[str], None]) -> list[Rung]:
    """Every rung's decision; the classifier is loaded, as the service loads it."""
    chat = Chat(({"role": "user", "content": prompt},))
    slug, seconds = _timed(lambda: features.decide(chat))
    said = Rung(
        "features", seconds, {slug: 1.0} if slug else {}, "" if slug else "they say nothing"
    )
    linear.shipped()
    shares, seconds = _timed(lambda: linear.shares(chat))
    learned = Rung("linear", seconds, shares or {}, "" if shares else "the prompt has no words")
    return [said, learned, asyncio.run(_classified(chat, place, effort, tell))]


async def _classified(chat: Chat, place: Place, effort: float, tell: Callable[[str], None]) -> Rung:
    try:
        model = str(place.checkpoint().folder)
    except Unusable as unusable:
        return Rung("classifier", 0.0, {}, str(unusable))
    settings = RouterSettings(model=model, within=_WITHIN)
    supervisor = Supervisor()
    try:
        supervisor.renew(settings)
        router = Router(settings, supervisor.address, supervisor.absent)
        if not supervisor.absent:
            tell("loading the classifier …")
        router.start()
        try:
            if not await _ready(router, supervisor):
                why = router.state.why or f"it has not loaded within {_LOAD:.0f} s"
                return Rung("classifier", 0.0, {}, why)
            began = time.perf_counter()
            decision: Decision | None = await router.decide(chat, effort)
            seconds = time.perf_counter() - began
        finally:
            await router.close()
    finally:
        supervisor.stop()
    if decision is None:
        return Rung("classifier", seconds, {}, "it has not decided: a prompt without words?")
    return Rung("classifier", seconds, decision.shares)


async def _ready(router: Router, supervisor: Supervisor) -> bool:
    end = time.monotonic() + _LOAD
    while router.state.phase == "loading" and time.monotonic() < end:
        supervisor.tick()
        await asyncio.sleep(_POLL)
    return router.state.phase == "ready"


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began
