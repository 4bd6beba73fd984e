"""One provider of a pool, and what its calls have told about it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from proxy.errors import UpstreamAuth, UpstreamError, UpstreamRejected, UpstreamTimeout
from proxy.upstream.blame import Blame, blame
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.capabilities import Capabilities
from proxy.upstream.config import PoolConfig, ProviderConfig
from proxy.upstream.limits import QUEUE
from proxy.upstream.line import Lane
from proxy.upstream.port import Endpoint, Json
from proxy.upstream.slots import Slots, Wanted
from proxy.upstream.window import Window

_log = logging.getLogger("optillm.pool")

#: Models whose failures are remembered: a client can invent as many names as it likes.
_MOST_MODELS = 256


class _Model:
    """What is known about one model of a provider: limits of rate and failures are its own."""

    __slots__ = ("answered_at", "breaker", "lane", "window")

    def __init__(self, lane: Lane, breaker: Breaker) -> None:
        self.lane = lane
        self.window = lane.window
        self.breaker = breaker
        self.answered_at = -math.inf

    @property
    def idle(self) -> bool:
        """Whether nothing is lost where it is forgotten."""
        at_rest = self.breaker.state == "closed" and not self.window.closed
        return at_rest and not self.window.under_way


class Provider:
    """Its client, its limits, and whether it is well. ``clock`` is the loop's."""

    def __init__(
        self,
        config: ProviderConfig,
        client: Endpoint,
        pool: PoolConfig,
        slots: Slots,
        columns: Mapping[str, Wanted],
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.client = client
        self.capabilities = Capabilities()
        self._pool = pool
        self._clock = clock
        self._columns = columns
        self._breaker = Breaker(clock, pool.health_check.interval)
        self._models: dict[str, _Model] = {}
        #: Its models under the names that clients call them; None where they are not known.
        self.entries: Mapping[str, Json] | None = None
        #: The same under its own names.
        self._listed: frozenset[str] = frozenset()
        #: Why it was last marked as failed; for people.
        self.trouble: UpstreamError | None = None
        self._answered = self._failed = 0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def state(self) -> State:
        return self._breaker.state

    @property
    def success_rate(self) -> float:
        """Calls that were answered, of those that were not the client's own fault."""
        return self._answered / max(1, self._answered + self._failed)

    def has(self, model: str) -> bool | None:
        """Whether its list has ``model``; None where it has no list."""
        if self.entries is None:
            return None
        return model in self.entries or self.config.model(model) in self._listed

    def lane(self, model: str) -> Lane:
        """Where calls for ``model`` go through."""
        return self._model(model).lane

    def usable(self, model: str) -> bool:
        """Whether a call for ``model`` may be sent now, as far as failures go."""
        if not self._pool.breaker:
            return True
        return self._breaker.permits and self._model(model).breaker.permits

    def closed(self, model: str) -> bool:
        """Whether it has asked for a pause."""
        return self._model(model).window.closed

    def pause(self, model: str) -> float:
        """Seconds that are left of it."""
        return self._model(model).window.closed_until - self._clock()

    def complaint(self, model: str) -> UpstreamError | None:
        """What it said when it asked for it."""
        return self._model(model).window.complaint

    def retry_at(self, model: str) -> float:
        """When it may be tried again, after failures."""
        return max(self._breaker.retry_at, self._model(model).breaker.retry_at)

    def begin(self, model: str) -> None:
        """A call is being sent."""
        self._breaker.begin()
        self._model(model).breaker.begin()

    def succeeded(self, model: str) -> None:
        self._answered += 1
        self._well()
        known = self._model(model)
        known.answered_at = self._clock()
        known.window.answered()
        known.breaker.succeeded()

    def undecided(self, model: str) -> None:
        """The call was cancelled, or failed without any fault of this provider's."""
        self._breaker.undecided()
        self._model(model).breaker.undecided()

    def failed(self, model: str, error: UpstreamError) -> Blame:
        """Take note of a failed call; whose fault it was."""
        cause = blame(error)
        if cause in (Blame.CLIENT, Blame.LACKS_MODEL):
            # It answered, after all.
            self._well()
            self.undecided(model)
            return cause
        self._failed += 1
        if self._pool.track_errors:
            _log.warning("provider=%s model=%s code=%s %s", self.name, model, error.code, error)
        if cause is Blame.OVERLOAD:
            self._model(model).window.overloaded(error)
            self.undecided(model)
        elif cause is Blame.PROVIDER:
            self._mark(self._breaker, error, certain=True)
            self.undecided(model)
        else:
            self._breaker.undecided()
            # Nobody waits through a second silence to be sure.
            self._mark(
                self._model(model).breaker, error, certain=isinstance(error, UpstreamTimeout)
            )
        return cause

    def listed(self, entries: list[Json]) -> None:
        """It told which models it has."""
        config = self.config
        found = {
            name: {"id": name, "object": "model"} for name in config.model_map if "*" not in name
        }
        if config.kind != "azure":
            # What Azure lists are models, and what it serves are deployments of them.
            self._listed = frozenset(entry["id"] for entry in entries)
            for entry in entries:
                found |= {name: {**entry, "id": name} for name in config.names_of(entry["id"])}
        self.entries = found or None
        self._well()

    def unlisted(self, error: UpstreamError) -> None:
        """It was asked which models it has, and failed."""
        if isinstance(error, UpstreamAuth):
            # Whether chats are refused too is for a chat to find out.
            return
        if isinstance(error, UpstreamRejected) or blame(error) is Blame.LACKS_MODEL:
            # Whoever has no such list may still serve chats.
            self._well()
        elif blame(error) is not Blame.OVERLOAD:
            self._mark(self._breaker, error, certain=True)

    def report(self) -> dict[str, Any]:
        """How it is, for people and monitors."""
        models = sorted(self._models.items())
        return {
            "name": self.name,
            "state": self.state,
            "models_failing": [name for name, m in models if m.breaker.state != "closed"],
            "models_waiting": [name for name, m in models if m.window.closed],
            "under_way": sum(m.window.under_way for _, m in models),
            "success_rate": round(self.success_rate, 4),
            "reason": None if self.trouble is None else self.trouble.message,
        }

    def _model(self, name: str) -> _Model:
        found = self._models.get(name)
        if found is None:
            if len(self._models) >= _MOST_MODELS:
                self._models = {n: m for n, m in self._models.items() if not m.idle}
            wanted = [QUEUE, f"provider {self.name}", f"host {self.config.host(name)}"]
            columns = tuple(self._columns[each] for each in wanted if each in self._columns)
            lane = Lane(self.name, columns, Window(self._clock))
            found = _Model(lane, Breaker(self._clock, self._pool.health_check.interval))
            self._models[name] = found
        return found

    def _well(self) -> None:
        if self._breaker.state != "closed":
            _log.warning("provider=%s is back", self.name)
        self._breaker.succeeded()
        self.trouble = None

    def _mark(self, breaker: Breaker, error: UpstreamError, *, certain: bool) -> None:
        before = breaker.state
        breaker.failed(certain=certain)
        self.trouble = error
        if self._pool.breaker and before == "closed" and breaker.state != "closed":
            what = "all its models" if breaker is self._breaker else "this model"
            _log.warning("provider=%s is left out (%s): %s", self.name, what, error)
