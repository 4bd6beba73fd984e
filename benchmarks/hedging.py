"""Second tries against their closed form, at latencies that are drawn and not waited for.

A real pool of two providers is asked one call after the other, on a loop whose clock goes on only
when there is nothing to do. In the published form all calls have one threshold t_h, the quantile h
of their latency, and 1 - h of them are made twice. Here the threshold is estimated from the last
100 calls, so that the next one exceeds it 6 times in 101, while one second try in 20 calls is
allowed: some have to do without. So each call is held to the closed form at the threshold that it
really had, which follows from what was seen of those before it, and is infinite where no second
try was left. Given those, each call is an independent trial: the variances add up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import exp, inf, sqrt
from random import Random
from statistics import NormalDist

from benchmarks.closed_forms import Row, hedged, slower
from benchmarks.virtual_time import VirtualTime
from optictl.simulator import Behaviour
from proxy.settings import Settings, Sharing
from proxy.upstream.config import PoolConfig, ProviderConfig
from proxy.upstream.limits import NAMED, register
from proxy.upstream.pool import Pool
from proxy.upstream.port import Batches, Call, Json
from proxy.upstream.slots import Slots

#: What is promised: the usual is what one of so many calls exceeds at most, of the last so many,
#: if that many are known; and one of so many may be tried again, with so many saved up.
_ONE_OF, _WINDOW, _LEAST, _MOST = 20, 100, 20, 10.0
#: The latencies that a few in 100 exceed by themselves.
_LEVELS = (0.02, 0.01)
#: Seconds within which two times are the same: the clock is a sum of many.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Tried:
    """One call: the seconds until its answer, and until its second try (infinite without any)."""

    seconds: float
    again: float


def compare(sigma: float, calls: int, seed: int) -> list[Row]:
    """So many calls with lognormal latencies, beside what theory says of them."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        tried = runner.run(_ask(Behaviour(latency=1.0, sigma=sigma), calls, Random(seed)))
    after = [*_thresholds(tried)]

    def row(what: str, happened: Sequence[bool], chances: Sequence[float]) -> Row:
        variance = sum(chance * (1 - chance) for chance in chances)
        name = f"second tries, σ = {sigma:g}: {what}"
        means = sum(happened) / calls, sqrt(variance) / calls, sum(chances) / calls
        return Row(name, calls, *means)

    begun = [one.again < inf for one in tried]
    never = [0.0] * calls
    elsewhen = [
        abs(min(one.seconds, one.again) - min(one.seconds, due)) > _SAME
        for one, due in zip(tried, after, strict=True)
    ]
    rows = [
        row("extra calls", begun, [slower(due, sigma) for due in after]),
        row("begun elsewhen", elsewhen, never),
        row("more than one in 20", [*_exceeds(begun)], never),
    ]
    for share in _LEVELS:
        level = _quantile(share, sigma)
        rows.append(
            row(
                f"above what {share:.0%} exceed alone",
                [one.seconds > level for one in tried],
                [hedged(level, due, sigma) for due in after],
            )
        )
    return rows


def _thresholds(tried: Sequence[Tried]) -> Iterator[float]:
    """After how many seconds each call is to be tried again, as the calls before it have it."""
    known: deque[float] = deque(maxlen=_WINDOW)
    spare = 0.0
    for one in tried:
        spare = min(_MOST, spare + 1 / _ONE_OF)
        usual = sorted(known)[-1 - len(known) // _ONE_OF] if len(known) >= _LEAST else inf
        yield usual if spare >= 1 else inf
        spare -= one.again < inf
        known.append(one.seconds)


def _exceeds(begun: Sequence[bool]) -> Iterator[bool]:
    """Whether, with each call, more than one in 20 was tried twice."""
    twice = 0
    for calls, again in enumerate(begun, 1):
        twice += again
        yield _ONE_OF * twice > calls


def _quantile(share: float, sigma: float) -> float:
    """The seconds that a ``share`` of the latencies exceeds."""
    return exp(sigma * NormalDist().inv_cdf(1 - share) - sigma**2 / 2)


async def _ask(behaviour: Behaviour, calls: int, random: Random) -> list[Tried]:
    clock = asyncio.get_running_loop().time
    first, second = (_Provider(name, behaviour, random) for name in ("first", "second"))
    config = PoolConfig(providers=(first.config, second.config), strategy="failover")
    settings = Settings(base_url="", sharing=Sharing(hedge=True), pool=config)
    slots = Slots()
    register(settings, slots)
    slots.claim()
    by_name = {each.config.name: each for each in (first, second)}
    pool = Pool(config, settings, slots, NAMED, lambda provider: by_name[provider.name])
    tried = []
    try:
        for _ in range(calls):
            second.asked, began = inf, clock()
            await pool.complete(Call("sim", {"messages": []}))
            tried.append(Tried(clock() - began, second.asked - began))
    finally:
        await pool.close()
    return tried


class _Provider:
    """Implements `proxy.upstream.port.Endpoint`: answers nothing, after a while."""

    def __init__(self, name: str, behaviour: Behaviour, random: Random) -> None:
        self.config = ProviderConfig(name=name, base_url=f"http://{name}/v1")
        self._behaviour = behaviour
        self._random = random
        #: When it was asked last.
        self.asked = inf

    async def complete(self, call: Call) -> Json:
        self.asked = asyncio.get_running_loop().time()
        await asyncio.sleep(self._behaviour.draw_latency(self._random))
        return {"model": call.model}

    def stream(self, call: Call) -> AbstractAsyncContextManager[Batches]:
        raise AssertionError("no call here asks for a stream")

    async def models(self) -> list[Json]:
        return []

    async def close(self) -> None:
        """Nothing is open."""
