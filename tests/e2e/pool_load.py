"""The real service in front of simulated providers, under a steady load of approaches."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import aiohttp
from conftest import Service, chat_body, content_of, events, eventually, start_process
from raw_http import CHAT

from optictl.simulator import Behaviour, SimulatorThread, gold
from proxy.errors import ProxyError

#: Seconds between two health checks; nobody is left alone for longer.
INTERVAL = 1.0
#: Seconds that a call may be silent where a test has one fall silent: more than a starved machine
#: takes to answer.
SILENCE = 3.0
#: The same where none falls silent.
PATIENCE = 20.0
#: Seconds that one request may take.
DEADLINE = 30.0
#: What a loaded machine may take on top.
MARGIN = 10.0
#: Calls that each provider takes at once.
MOST = 4
#: Seconds that a hang-up may lie unread on a machine that stalls.
UNREAD = 0.3
#: Fast enough to be quick, slow enough for calls to overlap and for streams to have a middle.
USUAL = Behaviour(latency=0.03, tokens=24, chunk_interval=0.004, judge_separation=10.0)

_QUESTION = re.compile(r"What is \d+ \* \d+\?")


@dataclass(frozen=True, slots=True)
class Ask:
    model: str
    stream: bool = False


MIX = tuple(
    Ask(model, stream)
    for model in ("sim", "bon-sim", "moa-sim", "self_consistency-sim", "sim")
    for stream in (False, True)
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request; times in seconds of `time.monotonic`."""

    ask: Ask
    question: str
    began: float
    ended: float
    #: 0 where the connection broke.
    status: int
    #: Of the error, wherever it was said.
    code: str | None
    text: str
    finish: str | None
    #: What the answer says that it took; None for an error.
    calls: int | None
    #: Codes and providers of the calls that were made for it; for JSON alone.
    trace: Sequence[Mapping[str, Any]]
    retry_after: str | None

    @property
    def right(self) -> bool:
        boxed = f"\\boxed{{{gold(self.question)}}}"
        return self.status == 200 and self.code is None and boxed in self.text

    @property
    def broke_off(self) -> bool:
        """It was a stream that went wrong after some of its content was out."""
        return self.ask.stream and self.status == 200 and bool(self.text)


class Load:
    """Clients that ask one request after the other, each of the mix in its turn."""

    def __init__(
        self,
        service: Service,
        mix: Sequence[Ask] = MIX,
        *,
        clients: int = 8,
        pause: float = 0.05,
        keep_alive: bool = True,
    ) -> None:
        self._service = service
        self._mix = mix
        self._clients = clients
        self._pause = pause
        self._keep_alive = keep_alive
        self._over = Event()
        self._number = 0
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="load")
        self.outcomes: list[Outcome] = []

    def more(self, count: int) -> None:
        """Until so many more requests have ended."""
        wanted = len(self.outcomes) + count
        assert eventually(
            lambda: len(self.outcomes) >= wanted or self._failure is not None, within=90.0
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Until every request has ended."""
        self._over.set()
        self._thread.join()
        assert self._failure is None, self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._ask_all())
        except Exception as bug:  # noqa: BLE001 - handed to the thread that waits
            self._failure = bug

    async def _ask_all(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=not self._keep_alive)
        limit = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as http,
            asyncio.TaskGroup() as clients,
        ):
            for number in range(self._clients):
                clients.create_task(self._client(http, number))

    async def _client(self, http: aiohttp.ClientSession, turn: int) -> None:
        while not self._over.is_set():
            self.outcomes.append(await self._ask(http, self._mix[turn % len(self._mix)]))
            turn += 1
            await asyncio.sleep(self._pause)

    async def _ask(self, http: aiohttp.ClientSession, ask: Ask) -> Outcome:
        self._number += 1
        question = f"What is {self._number} * 23?"
        body = chat_body(ask.model, question, stream=ask.stream, optillm_trace=not ask.stream)
        began = time.monotonic()
        status, said, retry_after = 0, "", None
        try:
            async with http.post(self._service.url + CHAT, json=body) as response:
                status, retry_after = response.status, response.headers.get("Retry-After")
                said = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status, said = 0, json.dumps({"error": {"code": f"{type(error).__name__}: {error}"}})
        streamed = ask.stream and status == 200
        return Outcome(
            ask,
            question,
            began,
            time.monotonic(),
            status,
            retry_after=retry_after,
            **(_streamed(said) if streamed else _whole(said)),
        )


def _whole(said: str) -> dict[str, Any]:
    answer = json.loads(said)
    if "error" in answer:
        return {**_nothing(), "code": str(answer["error"]["code"])}
    (choice,) = answer["choices"]
    return {
        "code": None,
        "text": choice["message"]["content"] or "",
        "finish": choice["finish_reason"],
        "calls": answer["optillm"]["calls"],
        "trace": answer["optillm"]["trace"],
    }


def _streamed(said: str) -> dict[str, Any]:
    chunks = events(said)
    text = content_of(chunks)
    if not chunks or chunks[-1] != "[DONE]":
        code = str(chunks[-1]["error"]["code"]) if chunks and "error" in chunks[-1] else "no end"
        return {**_nothing(), "code": code, "text": text}
    last = chunks[-2]
    ends = [c["finish_reason"] for chunk in chunks[:-1] for c in chunk["choices"]]
    finish = next(end for end in reversed(ends) if end)
    return {**_nothing(), "text": text, "finish": finish, "calls": last["optillm"]["calls"]}


def _nothing() -> dict[str, Any]:
    return {"code": None, "text": "", "finish": None, "calls": None, "trace": ()}


def codes() -> set[str]:
    """Every code that the proxy itself gives an error."""

    def kinds(kind: type[ProxyError]) -> Iterator[type[ProxyError]]:
        yield kind
        for special in kind.__subclasses__():
            yield from kinds(special)

    return {kind.code for kind in kinds(ProxyError)} | {"queue_timeout"}


def provider(sim: SimulatorThread | str, **members: Any) -> dict[str, Any]:
    """An entry of ``providers``, but for its name."""
    url = sim if isinstance(sim, str) else sim.url
    return {"base_url": url, "api_key": "", "max_concurrent": MOST, **members}


def write_config(path: Path, providers: Mapping[str, Mapping[str, Any]], **sections: Any) -> Path:
    """A proxy_config.yaml that loses no time; ``sections`` replace its own."""
    config = {
        "providers": [{"name": name, **members} for name, members in providers.items()],
        "routing": {
            "strategy": "round_robin",
            "health_check": {"enabled": True, "interval": INTERVAL, "timeout": PATIENCE},
        },
        "timeouts": {"request": PATIENCE, "connect": 5},
        **sections,
    }
    # JSON is YAML.
    path.write_text(json.dumps(config, indent=2))
    return path


@contextmanager
def serving(
    folder: Path, *flags: str, env: Mapping[str, str] | None = None, healthy: bool = True
) -> Iterator[Service]:
    """``optictl serve`` without an upstream of its own, at home in ``folder``."""
    number = len(list(folder.glob("service-*.log")))
    service = start_process(
        list(flags),
        folder / f"service-{number}.log",
        env={"HOME": str(folder), **(env or {})},
    )
    try:
        yield service.wait_healthy() if healthy else service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait(5)


@dataclass(frozen=True, slots=True)
class Pooled:
    """The service, and the providers behind it by name."""

    service: Service
    sims: Mapping[str, SimulatorThread]

    def check(
        self,
        outcomes: Sequence[Outcome],
        *,
        excused: Callable[[Outcome], bool] = lambda _: False,
        unheard: bool = False,
    ) -> None:
        """What holds whatever happens. Those that are ``excused`` may not be right.

        ``unheard``: calls may have been sent to where nobody listened.
        """
        known = codes()
        for outcome in outcomes:
            assert outcome.ended - outcome.began < DEADLINE + MARGIN, outcome
            if outcome.code is not None and not outcome.code.startswith("simulated_"):
                assert outcome.code in known, outcome
        wrong = [outcome for outcome in outcomes if not outcome.right and not excused(outcome)]
        assert not wrong, "\n".join(map(self.story, wrong))
        assert "Traceback" not in self.service.log
        assert eventually(lambda: not any(sim.log.inflight for sim in self.sims.values()))
        assert max(map(peak, self.sims.values())) <= MOST
        self._check_accounts(outcomes, unheard=unheard)

    def story(self, outcome: Outcome) -> str:
        """What a request met, for people."""
        calls = [
            f"{name} {call.role} {call.fault or call.status}"
            for name, sim in self.sims.items()
            for call in sim.log.records
            if question_of(call.body) == outcome.question
        ]
        return f"{outcome}: {calls}"

    def _check_accounts(self, outcomes: Sequence[Outcome], *, unheard: bool) -> None:
        """Each call belongs to a request, and each answer says how many calls it took."""
        seen = Counter(
            question_of(call.body) for sim in self.sims.values() for call in sim.log.records
        )
        assert seen.total() == sum(sim.log.calls for sim in self.sims.values())
        assert seen.keys() <= {outcome.question for outcome in outcomes}
        for outcome in outcomes:
            if outcome.calls is None:
                continue
            cancelled = any(call["outcome"] == "cancelled" for call in outcome.trace)
            cancelled |= outcome.ask.stream and outcome.ask.model.startswith("self_consistency")
            if cancelled or unheard:
                # One that was cancelled as it was sent may never have arrived.
                assert 1 <= seen[outcome.question] <= outcome.calls, outcome
            else:
                assert seen[outcome.question] == outcome.calls, outcome


def question_of(body: Mapping[str, Any] | None) -> str:
    found = _QUESTION.search(json.dumps(body))
    assert found is not None, body
    return found[0]


@contextmanager
def three(folder: Path, *, silence: float = PATIENCE) -> Iterator[Pooled]:
    """Three providers, ``a``, ``b`` and ``c``, and the service that shares calls out to them.

    A call that is silent for ``silence`` seconds is given up.
    """
    with ExitStack() as running:
        sims = {
            name: running.enter_context(
                SimulatorThread(USUAL, models=("sim", "elsewhere"), limit=100_000)
            )
            for name in "abc"
        }
        config = write_config(
            folder / "proxy_config.yaml",
            {name: provider(sim) for name, sim in sims.items()},
            timeouts={"request": silence, "connect": 5},
        )
        flags = ("--proxy-config", str(config), "--request-timeout", str(DEADLINE))
        service = running.enter_context(serving(folder, *flags))
        yield Pooled(service, sims)


def peak(*sims: SimulatorThread) -> int:
    """The most calls at one instant, of all of them together.

    A hang-up and the call that takes its place are read in any order: those that were hung up on
    count as ended a little earlier.
    """
    turns: list[tuple[float, int]] = []
    for sim in sims:
        for call in sim.log.records:
            turns.append((call.start, 1))
            if call.end is not None:
                turns.append((max(call.start, call.end - UNREAD * call.peer_left), -1))
    most = now = 0
    for _, step in sorted(turns):
        now += step
        most = max(most, now)
    return most


def used_again(sim: SimulatorThread, within: float = INTERVAL + MARGIN) -> bool:
    """Whether more calls reach it in time."""
    before = sim.log.calls
    return eventually(lambda: sim.log.calls > before, within)
