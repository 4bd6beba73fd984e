"""One event loop in a daemon thread, the engine on it, and the watchdog beside it."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import uvloop

from proxy.edge.handoff import Job
from proxy.registry import Registry
from proxy.router.client import Router
from proxy.run.attendance import Attendance
from proxy.run.engine import Engine
from proxy.run.ledger import Ledger
from proxy.run.plan import Plan
from proxy.run.scope import Caller
from proxy.settings import Settings
from proxy.upstream.slots import Slots

#: The status of a worker that ended itself; unlike 3 and 4 it lets the master start another.
STUCK_STATUS = 70


class EngineThread:
    """Nothing async exists before `start`, which a worker calls after the fork."""

    def __init__(
        self, settings: Settings, registry: Registry, slots: Slots, classifier: Router
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._slots = slots
        #: What the approach ``router`` asks, on the loop.
        self.classifier = classifier
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._beat_every = settings.beat_every
        self.beat = 0.0
        #: Seconds by which the loop was late, as last measured.
        self.lag = 0.0
        #: Tasks on the loop, at the last beat.
        self.tasks = 0
        #: Called on the loop, whenever it has turned for a while.
        self.on_beat: Callable[[Engine], None] | None = None
        #: Called by `start` before anything runs: threads that write.
        self.on_start: list[Callable[[], None]] = []
        #: Called by `stop` in the end: what is left to be written.
        self.on_stop: list[Callable[[], None]] = []

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the engine is not running")
        return self._engine

    def known_models(self) -> Collection[str]:
        """What the upstream lists; nothing while no engine runs."""
        return () if self._engine is None else self._engine.catalog.names

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately."""
        fresh = time.monotonic() - self.beat < self._settings.loop_stuck_after
        return self._engine is not None and fresh

    def start(self) -> None:
        """Start loop and engine; raises what the engine raised."""
        for begin in self.on_start:
            begin()
        threading.Thread(target=self._serve, name="engine", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Cancel what runs, close the engine, end the loop, write what is left."""
        if self._loop is not None and self._engine is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=10)
            self._engine = None
            self._loop.call_soon_threadsafe(self._loop.stop)
        for write in self.on_stop:
            write()

    def submit(
        self,
        plan: Plan,
        caller: Caller,
        ledger: Ledger,
        attendance: Attendance | None = None,
    ) -> Job:
        """A job that starts when it is entered."""
        engine, loop = self.engine, self._loop
        assert loop is not None
        return Job(loop, lambda job: engine.answer(plan, caller, job, ledger, attendance))

    def ask(self, make: Callable[[Engine], Any], timeout: float) -> Any:
        """Run ``make(engine)``, a coroutine, on the loop and wait for it; for health and models."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(make(self.engine), self._loop).result(timeout)

    def drain(self, seconds: float) -> None:
        if self._loop is not None and self._engine is not None:
            self._loop.call_soon_threadsafe(self._engine.drain, seconds)

    def _serve(self) -> None:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        try:
            loop.run_until_complete(self._open())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in start()
            self._failure = error
            self._started.set()
            return
        self._beat(time.monotonic())
        self._started.set()
        loop.run_forever()
        loop.close()

    async def _open(self) -> None:
        self._engine = Engine(
            self._settings, self._registry, self._slots, classifier=self.classifier
        )

    async def _close(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.engine.close()

    def _beat(self, due: float) -> None:
        self.beat = time.monotonic()
        self.lag = max(0.0, self.beat - due)
        assert self._loop is not None
        # Counted here: the loop changes the set that a thread would walk.
        self.tasks = len(asyncio.all_tasks(self._loop))
        if self.on_beat is not None and self._engine is not None:
            self.on_beat(self._engine)
        self._loop.call_later(self._beat_every, self._beat, self.beat + self._beat_every)

    def _watch(self) -> None:
        """End this process once the loop is stuck: gunicorn sees only its own accept thread."""
        limit = self._settings.loop_stuck_after
        while self._engine is not None:
            time.sleep(self._beat_every)
            late = time.monotonic() - self.beat
            if self._engine is not None and late > limit:
                # Past the queue of log records, which nobody will write any more.
                sys.stderr.write(f"event loop stuck for {late:.0f} s; stacks follow, worker ends\n")
                sys.stderr.flush()
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                os._exit(STUCK_STATUS)
