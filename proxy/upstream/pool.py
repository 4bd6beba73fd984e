"""Many providers as one: who is asked, who is asked next, and how long to wait."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from proxy.errors import (
    ModelNotFound,
    NoHealthyProvider,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from proxy.settings import Settings
from proxy.upstream.blame import Blame, blame
from proxy.upstream.breaker import State
from proxy.upstream.client import Client, Network
from proxy.upstream.config import PoolConfig, ProviderConfig
from proxy.upstream.hedging import Hedging, NoSpare
from proxy.upstream.limits import TURNS, limits
from proxy.upstream.line import Lane, Line
from proxy.upstream.port import Batches, Call, Endpoint, Json
from proxy.upstream.provider import Provider
from proxy.upstream.retries import RetryBudget
from proxy.upstream.routing import strategies
from proxy.upstream.slots import Slots
from proxy.upstream.turn import Tries, Turn

_log = logging.getLogger("optillm.pool")

#: How often one call bears with providers that have too much to do.
_MOST_OVERLOADS = 3
#: Seconds before a call goes to the provider that has just refused it; doubling.
_BREATH = 0.2
#: Seconds that every call waits; longer ones only those that their requests cannot do without, so
#: that a fan of several shrinks.
_SHORT = 1.0

Connect = Callable[[ProviderConfig], Endpoint]


class Pool:
    """Implements `proxy.upstream.port.Upstream`. Built on the loop that uses it.

    ``name`` tells its limits in ``slots`` from another pool's. ``connect`` makes the client of a
    provider; the usual one speaks HTTP.
    """

    def __init__(
        self,
        config: PoolConfig,
        settings: Settings,
        slots: Slots,
        name: str = "pool",
        connect: Connect | None = None,
    ) -> None:
        self.config = config
        loop = asyncio.get_running_loop()
        self._network = Network.of(settings, config.connect_timeout, config.request_timeout)
        connect = connect or self._client
        names = limits(config)
        columns = {each: (slots.column(f"{name} {each}"), most) for each, most in names.items()}
        self._providers = [
            Provider(provider, connect(provider), config, slots, columns, loop.time)
            for provider in config.providers
        ]
        self._by_name = {provider.name: provider for provider in self._providers}
        turns = slots.column(f"{name} {TURNS}")
        self._strategy = strategies()[config.strategy](lambda: slots.count(turns))
        self._line = Line(slots, config.queue, shared=settings.workers > 1)
        self._budget = RetryBudget(loop.time)
        self._hedging = Hedging(loop.time) if settings.sharing.hedge else None
        self._now = loop.time

    @property
    def waiting(self) -> int:
        """Calls that wait for room at a provider."""
        return self._line.waiting

    @property
    def under_way(self) -> int:
        """Calls that providers are answering."""
        return self._line.under_way

    def report(self) -> list[dict[str, Any]]:
        """How each provider is."""
        return [provider.report() for provider in self._providers]

    def states(self) -> Iterator[tuple[str, State]]:
        """Each provider, and its breaker's state."""
        return ((provider.name, provider.state) for provider in self._providers)

    def native_n(self, model: str) -> bool:
        """Whether several samples of ``model`` can be had as one call's choices."""
        return all(
            provider.config.n == "native"
            and not provider.capabilities.refuses(provider.config.model(model), "n")
            for provider in self._providers
            if not provider.config.fallback_only
        )

    async def complete(self, call: Call) -> Json:
        return await self._answered(Tries(call))

    async def _answered(self, tries: Tries) -> Json:
        while True:
            async with Turn(self, tries) as turn:
                if self._hedging is None:
                    return await turn.answer()
                return await self._hedging.answer(turn, self._answered)

    def stream(self, call: Call) -> AbstractAsyncContextManager[Batches]:
        return self._streamed(Tries(call))

    @asynccontextmanager
    async def _streamed(self, tries: Tries) -> AsyncIterator[Batches]:
        while True:
            async with Turn(self, tries, stream=True) as turn:
                if self._hedging is None:
                    # Another provider can take over as long as nothing was said.
                    begun = turn.begun(hold=len(self._providers) > 1)
                else:
                    begun = self._hedging.stream(turn, self._streamed)
                async with begun as chunks:
                    yield chunks
                    return

    async def models(self) -> list[Json]:
        """What all providers list, under the names that clients call it; each is asked at once.

        Raises the first provider's error where none of them is usable.
        """
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(self._check(each)) for each in self._providers]
        errors = [check.result() for check in checks]
        if all(errors):
            raise next(error for error in errors if error is not None)
        entries: dict[str, Json] = {}
        for provider in self._providers:
            for name, entry in (provider.entries or {}).items():
                entries.setdefault(name, entry)
        return list(entries.values())

    async def close(self) -> None:
        await self._line.close()
        for provider in self._providers:
            await provider.client.close()
        await self._network.connector.close()

    def _client(self, provider: ProviderConfig) -> Endpoint:
        return Client(provider, self._network)

    async def _check(self, provider: Provider) -> UpstreamError | None:
        """Ask for its models; why it is of no use, or None."""
        limit = self.config.health_check.timeout
        try:
            async with asyncio.timeout(limit):
                entries = await provider.client.models()
        except TimeoutError:
            error: UpstreamError = UpstreamTimeout(f"No list of models within {limit:g} s.")
        except UpstreamError as failure:
            error = failure
        else:
            provider.listed(entries)
            return None
        provider.unlisted(error)
        # One that has no list may well have models.
        return None if provider.trouble is None and not _unusable(error) else error

    async def next(self, tries: Tries) -> tuple[Provider, Lane]:
        """Whom to ask now, with a slot there; waits for both where it may.

        Raises what came last where nobody is left, `NoHealthyProvider` where nobody was.
        """
        call = tries.call
        if tries.again is not None:
            provider, tries.again = tries.again, None
            return provider, await self._line.enter(call, [provider.lane(call.model)])
        if tries.beside is not None:
            return self._spare(tries, tries.beside)
        while True:
            candidates = self._candidates(tries)
            if not candidates:
                await self._patience(tries)
                continue
            if all(each.name in tries.busy for each in candidates):
                # They have refused this call, and named no pause.
                await self._breathe(tries)
                continue
            first = self._strategy.pick([provider.config for provider in candidates])
            chosen = self._by_name[first.name]
            order = [chosen, *(each for each in candidates if each is not chosen)]
            lane = await self._line.enter(call, [each.lane(call.model) for each in order])
            provider = self._by_name[lane.provider]
            if provider.usable(call.model) and not self._closed(provider, call):
                return provider, lane
            # It has failed while the call waited for it.
            self._line.leave(call, lane)

    def _spare(self, tries: Tries, beside: Provider) -> tuple[Provider, Lane]:
        """Whom to ask beside ``beside``, with a slot there; raises `NoSpare`."""
        call = tries.call
        ready = [each for each in self._candidates(tries) if not each.closed(call.model)]
        for provider in [each for each in ready if each is not beside] or ready:
            lane = provider.lane(call.model)
            if self._line.entered(call, lane):
                return provider, lane
        raise NoSpare("No provider has room for a second attempt.")

    def _candidates(self, tries: Tries) -> list[Provider]:
        """Who may be asked now: the others first, those for emergencies when these have failed."""
        ready = [each for each in self._left(tries) if not self._closed(each, tries.call)]
        rested = [each for each in ready if each.name not in tries.busy] or ready
        return [each for each in rested if not each.config.fallback_only] or rested

    def _left(self, tries: Tries) -> list[Provider]:
        """Who may be asked, now or after a pause."""
        model = tries.call.model
        left = [each for each in self._providers if each.name not in tries.failed]
        if len(self._providers) > 1:
            left = self._having(left, model, tries)
        return [each for each in left if each.usable(model)]

    def _having(self, left: list[Provider], model: str, tries: Tries) -> list[Provider]:
        """Those that may have the model. Where no list has it, all may: wildcards are in none.

        Once a provider was asked and lacks it, one whose list lacks it too is not asked.
        """
        having = [each for each in left if each.has(model) is not False]
        listed = any(each.has(model) for each in self._providers)
        return having if having or listed or tries.lacking else left

    def _closed(self, provider: Provider, call: Call) -> bool:
        """Whether the provider has asked for a pause. A lone one says so to each client itself."""
        if not self.config.breaker and not call.patience:
            return False
        return provider.closed(call.model)

    async def _patience(self, tries: Tries) -> None:
        """Wait for a provider that has asked for a pause; raises where that is too long."""
        call = tries.call
        now = self._now()
        left = self._left(tries)
        if not left:
            raise self._nobody(tries, now)
        if not all(self._closed(each, call) for each in left):
            return  # a pause has ended just now
        first = min(left, key=lambda provider: provider.pause(call.model))
        pause = first.pause(call.model)
        needed = pause <= _SHORT or call.watch is None or call.watch.needed()
        if not needed or tries.waited + pause > call.patience or now + pause > call.deadline:
            raise tries.last or _paused(first, call.model, pause)
        tries.waited += pause
        tries.busy.clear()
        await asyncio.sleep(max(0.0, pause))

    async def _breathe(self, tries: Tries) -> None:
        """A moment before the same providers are asked again."""
        pause = _BREATH * 2 ** (tries.overloads - 1) * random.uniform(0.8, 1.0)
        if tries.last is not None and self._now() + pause > tries.call.deadline:
            raise tries.last
        tries.busy.clear()
        await asyncio.sleep(pause)

    def _nobody(self, tries: Tries, now: float) -> UpstreamError:
        """What to say where nobody is left: what the last one said, unless they are all down."""
        model = tries.call.model
        down = self._down(model)
        unknown = isinstance(tries.last, ModelNotFound) and any(each.has(model) for each in down)
        if tries.last is not None and len(down) < len(self._providers) and not unknown:
            return tries.last
        soonest = min((each.retry_at(model) for each in down), default=now)
        reasons = "; ".join(f"{each.name}: {each.trouble.message}" for each in down if each.trouble)
        return NoHealthyProvider(
            f"No healthy providers available{f' ({reasons})' if reasons else ''}.",
            retry_after=max(1.0, soonest - now),
        )

    def _down(self, model: str) -> list[Provider]:
        return [each for each in self._providers if not each.usable(model)]

    def leave(self, call: Call, lane: Lane) -> None:
        self._line.leave(call, lane)

    def first_attempt(self) -> None:
        self._budget.called()

    def another(self, tries: Tries, provider: Provider, error: UpstreamError) -> bool:
        """Whether the call goes to another provider after ``error``, or to the same once more."""
        cause = provider.failed(tries.call.model, error)
        if cause is Blame.CLIENT or tries.beside is not None:
            return False
        if cause is not Blame.LACKS_MODEL or tries.last is None or _forgivable(tries.last):
            # That one has no such model says nothing where another has it, and failed.
            tries.last = error
        tries.lacking |= cause is Blame.LACKS_MODEL
        if cause is Blame.OVERLOAD:
            tries.busy.add(provider.name)
            tries.overloads += 1
        patient = cause is Blame.OVERLOAD and tries.call.patience > 0
        if not patient or tries.overloads > _MOST_OVERLOADS:
            tries.failed.add(provider.name)
        if len(tries.failed) == len(self._providers):
            # Nobody is left, but something better than this error may be said of that.
            down = self._down(tries.call.model)
            return tries.last is not error or len(down) == len(self._providers)
        return self._budget.take()

    def log(self, provider: Provider, model: str, outcome: str, began: float) -> None:
        """``monitoring.track_latency``: one line a call."""
        if self.config.track_latency:
            _log.info(
                "provider=%s model=%s chosen_by=%s outcome=%s latency_ms=%.1f success_rate=%.3f",
                provider.name,
                model,
                self.config.strategy,
                outcome,
                1000 * (time.monotonic() - began),
                provider.success_rate,
            )


def _unusable(error: UpstreamError) -> bool:
    """Whether a provider that fails so when asked for its models is of no use for chats."""
    return not isinstance(error, ModelNotFound) and error.http_status() >= 500


def _forgivable(error: UpstreamError) -> bool:
    """Whether a provider is none the worse for the error."""
    return blame(error) in (Blame.CLIENT, Blame.LACKS_MODEL)


def _paused(provider: Provider, model: str, pause: float) -> UpstreamError:
    """The refusal that closed the provider, as if this call had been refused too."""
    said = provider.complaint(model)
    kind = UpstreamOverloaded if isinstance(said, UpstreamOverloaded) else UpstreamRateLimited
    message = "no reason given" if said is None else said.message
    return kind(f"The provider has asked for a pause: {message}", retry_after=pause)
