"""The process that holds the classifier: one to a service, asked over a Unix socket.

    python -m proxy.router.sidecar SOCKET SETTINGS PARENT

Lines of JSON both ways. It says its state at once and whenever that changes:
``{"phase": "ready", "why": "bf16"}``. A question, ``{"id", "query", "history", "system", "effort",
"within"}``, is answered by ``{"id", "shares"}``: a share for each label, or null where it could not
be read in time. A dot on stdout every second says that all is well; a supervisor ends it without.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import orjson

from proxy.router.checkpoint import find
from proxy.router.config import RouterSettings, State, Unusable
from proxy.router.model import ENVIRONMENT, load
from proxy.router.rests import Rests, ratio_for
from proxy.router.tokenise import Question, Tokeniser

_log = logging.getLogger("optillm.router")

#: Seconds that a question waits for others, and how many are taken together.
_WINDOW = 0.005
_BATCH = 16
#: Questions that wait; one too many is answered at once, by null.
_QUEUE = 1024
#: Bytes of a question, at most.
_LINE = 1 << 20
_BEAT = 1.0
#: Seconds for a load, with the gate of int8, and for a batch: more is a hang.
_LOAD_LIMIT = 900.0
_BATCH_LIMIT = 30.0
#: Of the time that a request waits, what reading its question may take.
_SHARE = 0.8
#: Tokens of a question that are read however slow the machine is.
_LEAST = 64
#: Rounds of warming up: the first is slow, the others find out how much can be read in time.
_ROUNDS = 5
#: Rounds of a trial, of which the best counts, and seconds until one that failed is repeated.
_TRIALS = 3
_AGAIN = 60.0
#: Requests go first where the CPU is short, before a load above all.
_NICE = 5
_NICE_TO_LOAD = 19

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question, who has asked it, and when he stops waiting (monotonic seconds)."""

    id: int
    question: Question
    effort: float
    until: float
    by: asyncio.StreamWriter


class Decider:
    """A classifier and all it takes to ask it. Of one thread at a time."""

    def __init__(self, settings: RouterSettings) -> None:
        """Load it and warm it up; takes seconds. Raises `Unusable`."""
        checkpoint = find(settings)
        cores = len(os.sched_getaffinity(0))
        threads = settings.threads or cores
        self._settings = settings
        self._tokeniser = Tokeniser(checkpoint.tokenizer)
        rests = Rests(ratio_for(cores))
        with ThreadPoolExecutor(1, initializer=_yield_to_requests) as aside:
            self._classifier = load(
                checkpoint,
                settings.precision,
                threads,
                lambda work: aside.submit(rests.during, work).result(),
                rests.rest,
            )
        # What loading took besides the weights, 100 MB and more, glibc would keep for later.
        ctypes.CDLL(None).malloc_trim(0)
        #: How many tokens of a question are read: what the machine can do in time.
        self.tokens = min(_LEAST, settings.max_tokens)
        for _ in range(_ROUNDS):
            shares, _ = self._shares([[0] * self.tokens], [settings.effort])
        if not _finite(shares[0]):
            raise Unusable(f"{checkpoint.weights}: what it decides is no number; fetch it again")
        self.note = f"{self._classifier.note}, {threads} threads, {self.tokens} tokens"

    def too_slow(self) -> str:
        """Why no question can be read in time; empty where one can."""
        tokens = [0] * min(_LEAST, self._settings.max_tokens)
        trials = [self._shares([tokens], [self._settings.effort]) for _ in range(_TRIALS)]
        took, within = min(seconds for _, seconds in trials), self._settings.within
        if took <= within:
            return ""
        return f"too slow: {len(tokens)} tokens take {took:.2f} s, and requests wait {within:g} s"

    def decide(self, batch: Sequence[_Asked]) -> list[Sequence[float] | None]:
        """The shares for each question, in order.

        None for one that nobody waits for any more, or that comes to no numbers.
        """
        ids = [self._tokeniser.encode(asked.question, self.tokens) for asked in batch]
        shares: list[Sequence[float] | None] = [None] * len(batch)
        for group in grouped([len(tokens) for tokens in ids], self.tokens):
            now = time.monotonic()
            awaited = [index for index in group if batch[index].until > now]
            if awaited:
                found, _ = self._shares(
                    [ids[index] for index in awaited], [batch[index].effort for index in awaited]
                )
                for index, one in zip(awaited, found, strict=True):
                    shares[index] = one if _finite(one) else None
        return shares

    def _shares(
        self, ids: Sequence[Sequence[int]], efforts: Sequence[float]
    ) -> tuple[list[Sequence[float]], float]:
        """The shares for each question, and the seconds that it took."""
        began = time.perf_counter()
        found = self._classifier.shares(ids, efforts, self._settings.temperature)
        size = len(ids) * max(map(len, ids))
        took = time.perf_counter() - began
        self.tokens = reach(
            self.tokens, size, took, self._settings.within * _SHARE, self._settings.max_tokens
        )
        return found, took


def _finite(shares: Sequence[float]) -> bool:
    return all(map(isfinite, shares))


def reach(tokens: int, size: int, took: float, budget: float, most: int) -> int:
    """How many tokens to read of the next question, when ``size`` of them took ``took`` seconds.

    Fewer where that was more than ``budget``; more, up to ``most``, where twice as many fit well.
    """
    if took > budget:
        return min(tokens, max(_LEAST, tokens // 2))
    if size >= tokens and 3 * took < budget:
        return min(most, 2 * tokens)
    return tokens


def grouped(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of ``lengths`` that are computed together: alike, and no longer than one question.

    A group's longest sequence times its number is at most ``most``, so that little is padded and
    nobody waits for others' sake longer than for a long question.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and lengths[index] * (len(group) + 1) > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


class Sidecar:
    """Answers on one loop, with the classifier on one thread beside it."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._state = State("loading")
        self._clients: set[asyncio.StreamWriter] = set()
        self._queue: asyncio.Queue[_Asked] = asyncio.Queue(_QUEUE)
        self._thread = ThreadPoolExecutor(1)
        #: When what the thread is at becomes a hang.
        self._overdue = float("inf")

    async def serve(self, path: str, parent: int) -> None:
        """Answer on ``path`` as long as the process ``parent`` is there."""
        await asyncio.start_unix_server(self._client, path, limit=_LINE)
        work = asyncio.create_task(self._work())
        while os.getppid() == parent and not work.done():
            if time.monotonic() < self._overdue:
                # A pipe that nobody reads, or no more, is no reason to stop.
                with suppress(BlockingIOError, BrokenPipeError):
                    os.write(sys.stdout.fileno(), b".")
            await asyncio.wait([work], timeout=_BEAT)
        if work.done():
            work.result()

    async def _work(self) -> None:
        try:
            decider = await self._beside(_LOAD_LIMIT, lambda: Decider(self._settings))
        except Unusable as error:
            _log.error("no classifier: %s", error)
            self._become(State("absent", str(error)))
            await asyncio.Event().wait()
            return
        while why := await self._beside(_BATCH_LIMIT, decider.too_slow):
            # Once, not every minute.
            if self._state.phase != "absent":
                _log.warning("no classifier: %s", why)
            self._become(State("absent", why))
            await asyncio.sleep(_AGAIN)
        _log.info("classifier ready: %s", decider.note)
        self._become(State("ready", decider.note))
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(_WINDOW)
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            shares = await self._beside(_BATCH_LIMIT, lambda: decider.decide(batch))  # noqa: B023
            for asked, one in zip(batch, shares, strict=True):
                _say(asked.by, {"id": asked.id, "shares": one})

    async def _beside(self, limit: float, work: Callable[[], _T]) -> _T:
        self._overdue = time.monotonic() + limit
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._overdue = float("inf")

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            _say(writer, asdict(self._state))
            while line := await reader.readline():
                self._ask(orjson.loads(line), writer)
        except OSError:
            pass  # a worker that has ended
        finally:
            self._clients.discard(writer)
            writer.close()

    def _ask(self, said: dict[str, Any], by: asyncio.StreamWriter) -> None:
        asked = _Asked(
            said["id"],
            Question(said["query"], said["history"], said["system"]),
            said["effort"],
            time.monotonic() + said["within"],
            by,
        )
        try:
            self._queue.put_nowait(asked)
        except asyncio.QueueFull:
            _say(by, {"id": asked.id, "shares": None})

    def _become(self, state: State) -> None:
        self._state = state
        for client in self._clients:
            _say(client, asdict(state))


def _yield_to_requests() -> None:
    """Have this thread compute where and when requests leave it room: on one core, last in line.

    To Linux both are a thread's own: those that decide keep theirs. A priority alone would not do,
    since it does not count between services, nor between sessions.
    """
    # A service may be kept from either.
    with suppress(PermissionError):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE_TO_LOAD)


def _say(writer: asyncio.StreamWriter, what: dict[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(orjson.dumps(what) + b"\n")


def main(path: str, settings: str, parent: str) -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    # A service may be kept from it.
    with suppress(PermissionError):
        os.nice(_NICE)
    # Told to a whole group at times, while the master still lets requests finish.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(ENVIRONMENT)
    # Nobody but the service and root may ask.
    os.umask(0o077)
    # Left by one that was killed.
    Path(path).unlink(missing_ok=True)
    sidecar = Sidecar(RouterSettings(**orjson.loads(settings)))
    asyncio.run(sidecar.serve(path, int(parent)))


if __name__ == "__main__":
    main(*sys.argv[1:])
