"""What each rung of the router's ladder makes of a prompt, here and now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from optictl.router_place import Place
from proxy.chat import Chat
from proxy.router import features, linear
from proxy.router.client import Router
from proxy.router.config import RouterSettings, Unusable
from proxy.router.supervisor import Supervisor
from proxy.router.tokenise import question

#: Seconds for loading, and for a decision: nobody else waits here.
_LOAD, _WITHIN = 300.0, 30.0
#: Seconds for a service's classifier to say that it is ready.
_SAYS = 1.0
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Rung:
    """What one way to decide says: the shares of the approaches, or why it says nothing."""

    name: str
    seconds: float
    shares: Mapping[str, float]
    why: str = ""
    #: Whose classifier was asked: the running service's, or one that was loaded for it.
    asked: Literal["service", "copy"] | None = None

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
            "asked": self.asked,
        }


def rungs(prompt: str, place: Place, effort: float, tell: Callable[[str], None]) -> list[Rung]:
    """Every rung's decision; the classifier's is the running service's where it can be asked."""
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
    if question(chat) is None:
        return Rung("classifier", 0.0, {}, "the prompt has no words")
    if place.socket is not None:
        why = await _unreachable(place.socket)
        if not why:
            router = Router(RouterSettings(within=_WITHIN), str(place.socket))
            said = await _decided(router, lambda: None, _SAYS, chat, effort)
            if said.shares:
                tell("asked the classifier of the running service")
                return replace(said, asked="service")
            why = said.why
        tell(f"the service's classifier was not asked: {why}")
    return await _loaded(chat, place, effort, tell)


async def _unreachable(socket: Path) -> str:
    """Why nobody can be asked at ``socket``; empty where somebody can."""
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except PermissionError:
        return f"{socket} is the service's alone; run it with sudo"
    except OSError as error:
        return f"{socket}: {error.strerror}"
    writer.close()
    return ""


async def _loaded(chat: Chat, place: Place, effort: float, tell: Callable[[str], None]) -> Rung:
    """The decision of a classifier that is loaded for it, as the service loads it."""
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
        return replace(await _decided(router, supervisor.tick, _LOAD, chat, effort), asked="copy")
    finally:
        supervisor.stop()


async def _decided(
    router: Router, tick: Callable[[], None], limit: float, chat: Chat, effort: float
) -> Rung:
    """What ``router`` decides when it is ready, for which it has ``limit`` seconds."""
    router.start()
    try:
        end = time.monotonic() + limit
        while router.state.phase == "loading" and time.monotonic() < end:
            tick()
            await asyncio.sleep(_POLL)
        if router.state.phase != "ready":
            why = router.state.why or f"it has not loaded within {limit:.0f} s"
            return Rung("classifier", 0.0, {}, why)
        began = time.perf_counter()
        decision = await router.decide(chat, effort)
        seconds = time.perf_counter() - began
    finally:
        await router.close()
    if decision is None:
        return Rung("classifier", seconds, {}, f"it has not decided within {_WITHIN:.0f} s")
    return Rung("classifier", seconds, decision.shares)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began
