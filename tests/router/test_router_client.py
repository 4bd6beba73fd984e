"""A worker gets a decision in time or none, whatever becomes of the process that it asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.chat import Chat
from proxy.router.checkpoint import LABELS
from proxy.router.client import Decision, Router
from proxy.router.config import RouterSettings, State

SHARES = [0.04] * 6 + [0.52] + [0.04] * 6
READY = {"phase": "ready", "why": "bf16"}


def asking(text: str = "Why?") -> Chat:
    return Chat(({"role": "user", "content": text},))


class FakeSidecar:
    """Says that it is ready, then what ``answer`` makes of each question; None is silence."""

    def __init__(self, path: str, answer: Callable[[dict[str, Any]], Any]) -> None:
        self._path = path
        self._answer = answer
        self.asked: list[dict[str, Any]] = []
        self.writer: asyncio.StreamWriter | None = None
        self.said: dict[str, Any] = READY

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=1 << 20)

    async def end(self) -> None:
        self._server.close()
        if self.writer is not None:
            self.writer.close()
        Path(self._path).unlink()

    def say(self, what: dict[str, Any]) -> None:
        assert self.writer is not None
        self.writer.write(orjson.dumps(what) + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.say(self.said)
        while line := await reader.readline():
            self.asked.append(orjson.loads(line))
            if (shares := self._answer(self.asked[-1])) is not None:
                self.say({"id": self.asked[-1]["id"], "shares": shares})
        writer.close()


@asynccontextmanager
async def pair(
    folder: Path, answer: Callable[[dict[str, Any]], Any] = lambda _: SHARES, **settings: Any
) -> AsyncIterator[tuple[Router, FakeSidecar]]:
    sidecar = FakeSidecar(str(folder / "socket"), answer)
    await sidecar.start()
    router = Router(RouterSettings(**settings), str(folder / "socket"))
    router.start()
    try:
        await until(lambda: router.state.phase == "ready")
        yield router, sidecar
    finally:
        await router.close()
        if Path(folder / "socket").exists():
            await sidecar.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_decision_is_a_label_and_how_sure_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, min_confidence=0.5) as (router, sidecar):
            decision = await router.decide(asking(), effort=0.2)
            assert decision is not None
            assert (decision.label, decision.confidence) == ("self_consistency", 0.52)
            assert decision.sure
            assert sidecar.asked[0] == {
                "id": 1, "query": "Why?", "history": "", "system": "", "effort": 0.2, "within": 0.25
            }  # fmt: skip
            assert router.state == State("ready", "bf16")

    asyncio.run(scenario())


def test_what_is_below_the_threshold_is_not_sure(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, min_confidence=0.53) as (router, sidecar):
            decision = await router.decide(asking())
            assert decision is not None
            assert not decision.sure
            assert sidecar.asked[0]["effort"] == 0.7

    asyncio.run(scenario())


def test_a_decision_among_some_is_shared_out_among_them() -> None:
    decision = Decision(dict(zip(LABELS, SHARES, strict=True)), 0.5)
    assert decision.among({"none", "self_consistency", "unknown"}) == Decision(
        {"none": pytest.approx(1 / 14), "self_consistency": pytest.approx(13 / 14)}, 0.5
    )
    assert decision.among({"unknown"}) is None


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_nothing_in_words_is_not_asked(tmp_path: Path, text: str) -> None:
    async def scenario() -> None:
        async with pair(tmp_path) as (router, sidecar):
            assert await router.decide(asking(text)) is None
            assert not sidecar.asked

    asyncio.run(scenario())


def test_a_load_that_takes_long_is_spoken_of(tmp_path: Path) -> None:
    router = Router(RouterSettings(), str(tmp_path / "socket"))
    assert router.state == State("loading")
    router._loading_since -= 130
    assert router.state == State("loading", "the classifier has been loading for 130 s")


def test_a_hang_costs_one_wait_and_no_more_until_it_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, lambda asked: None if asked["id"] == 1 else SHARES) as (
            router,
            sidecar,
        ):
            began = time.monotonic()
            assert await router.decide(asking()) is None
            assert await router.decide(asking()) is None
            # By default 0.25 s, and once.
            assert 0.2 < time.monotonic() - began < 5
            assert [asked["id"] for asked in sidecar.asked] == [1]
            assert router.state == State("ready", "bf16")
            router._late[1] -= 12
            assert router.state == State("loading", "the classifier has not answered for 12 s")
            sidecar.say({"id": 1, "shares": None})
            await until(lambda: not router._late)
            assert router.state == State("ready", "bf16")
            assert await router.decide(asking()) is not None

    asyncio.run(scenario())


def test_a_question_that_came_too_late_has_no_decision(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, lambda _: None, within=30.0) as (router, sidecar):
            decision = asyncio.create_task(router.decide(asking()))
            await until(lambda: bool(sidecar.asked))
            sidecar.say({"id": 1, "shares": None})
            assert await decision is None

    asyncio.run(scenario())


def test_a_crash_ends_the_wait_and_the_next_process_is_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, lambda _: None, within=30.0) as (router, sidecar):
            decision = asyncio.create_task(router.decide(asking()))
            await until(lambda: bool(sidecar.asked))
            await sidecar.end()
            assert await decision is None
            assert router.state.phase == "loading"
            assert "has ended" in router.state.why
            assert await router.decide(asking()) is None
            sidecar._answer = lambda _: SHARES
            await sidecar.start()
            await until(lambda: router.state.phase == "ready")
            assert await router.decide(asking()) is not None

    asyncio.run(scenario())


def test_a_request_that_is_cancelled_leaves_the_others_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, lambda _: None, within=30.0) as (router, sidecar):
            both = [asyncio.create_task(router.decide(asking())) for _ in range(2)]
            await until(lambda: len(sidecar.asked) == 2)
            both[0].cancel()
            sidecar.say({"id": 1, "shares": SHARES})
            sidecar.say({"id": 2, "shares": SHARES})
            assert await both[1] is not None
            await until(lambda: not router._late)

    asyncio.run(scenario())


def test_what_the_process_says_of_itself_is_the_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path) as (router, sidecar):
            sidecar.say({"phase": "absent", "why": "no tokenizer"})
            await until(lambda: router.state == State("absent", "no tokenizer"))
            assert await router.decide(asking()) is None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("absent", "phase"), [("torch is not installed", "absent"), ("", "loading")]
)
def test_without_a_process_nothing_is_waited_for(tmp_path: Path, absent: str, phase: str) -> None:
    async def scenario() -> None:
        router = Router(RouterSettings(within=30.0), str(tmp_path / "socket"), absent)
        router.start()
        await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            assert await router.decide(asking()) is None
        assert router.state == State(phase, absent)
        await router.close()

    asyncio.run(scenario())


def test_200_at_once_are_each_given_their_own(tmp_path: Path) -> None:
    def answer(asked: dict[str, Any]) -> Any:
        shares = [0.0] * 13
        shares[int(asked["query"]) % 13] = 1.0
        return shares

    async def scenario() -> None:
        async with pair(tmp_path, answer, within=30.0) as (router, _):
            questions: list[Awaitable[Decision | None]] = [
                router.decide(asking(str(number))) for number in range(200)
            ]
            decisions = await asyncio.gather(*questions)
            labels = [decision.label for decision in decisions if decision is not None]
            assert labels == [LABELS[number % 13] for number in range(200)]

    asyncio.run(scenario())
