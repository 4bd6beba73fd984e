"""The real process with a tiny checkpoint: what a worker gets while it loads, runs, hangs, dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import eventually
from tiny import reference_logits, write_checkpoint

from proxy.chat import Chat
from proxy.router import sidecar
from proxy.router.checkpoint import LABELS
from proxy.router.client import Router
from proxy.router.config import RouterSettings, State
from proxy.router.sidecar import grouped, reach
from proxy.router.supervisor import Supervisor
from proxy.router.tokenise import Question, Tokeniser

pytestmark = pytest.mark.router


def asking(text: str) -> Chat:
    return Chat(({"role": "user", "content": text},))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@asynccontextmanager
async def served(folder: Path, **members: Any) -> AsyncIterator[tuple[Supervisor, Router]]:
    settings = RouterSettings(**{
        "model": str(folder), "threads": 1, "precision": "fp32", "within": 30.0, **members
    })  # fmt: skip
    supervisor = Supervisor()
    supervisor.renew(settings)
    assert supervisor.absent == ""
    router = Router(settings, supervisor.address)
    router.start()
    try:
        yield supervisor, router
    finally:
        await router.close()
        supervisor.stop()


async def reached(router: Router, phase: str, supervisor: Supervisor) -> None:
    async with asyncio.timeout(90):
        while router.state.phase != phase:
            supervisor.tick()
            await asyncio.sleep(0.05)


def expected(folder: Path, text: str, effort: float) -> str:
    ids = Tokeniser(folder / "tokenizer.json").encode(Question(text), 512)
    return LABELS[int(reference_logits(folder, ids, effort).argmax())]


def test_a_decision_is_the_reference_s_from_the_process_too(folder: Path) -> None:
    questions = [f"What is {number} times {number + 7}?" for number in range(200)]

    async def scenario() -> None:
        async with served(folder) as (supervisor, router):
            assert router.state.phase == "loading"
            assert await router.decide(asking("Why?")) is None
            await reached(router, "ready", supervisor)
            assert router.state.why.startswith("fp32, 1 threads, ")
            decisions = await asyncio.gather(
                *(router.decide(asking(text), effort=0.3) for text in questions)
            )
            labels = [decision.label for decision in decisions if decision is not None]
            assert labels == [expected(folder, text, 0.3) for text in questions]
            assert all(
                sum(decision.shares.values()) == pytest.approx(1.0, abs=1e-4)
                for decision in decisions
                if decision is not None
            )

    asyncio.run(scenario())


def test_a_crash_and_a_hang_cost_a_decision_and_nothing_else(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, within=0.25) as (supervisor, router):
            await reached(router, "ready", supervisor)
            first = supervisor.pid
            assert first is not None
            os.kill(first, signal.SIGSTOP)
            began = time.monotonic()
            assert await router.decide(asking("Why?")) is None
            assert time.monotonic() - began < 5
            os.kill(first, signal.SIGTERM)
            os.kill(first, signal.SIGCONT)
            async with asyncio.timeout(30):
                while await router.decide(asking("Why?")) is None:
                    await asyncio.sleep(0.05)
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(30):
                while router.state.phase == "ready":
                    await asyncio.sleep(0.01)
            assert await router.decide(asking("Why?")) is None
            await reached(router, "ready", supervisor)
            assert supervisor.pid != first

    asyncio.run(scenario())


def test_a_hang_while_it_loads_is_ended(folder: Path) -> None:
    now = [time.monotonic()]

    async def scenario() -> None:
        settings = RouterSettings(model=str(folder), threads=1)
        supervisor = Supervisor(clock=lambda: now[0])
        supervisor.renew(settings)
        supervisor.tick()
        first = supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        router = Router(settings, supervisor.address)
        router.start()
        assert await router.decide(asking("Why?")) is None
        assert router.state.phase == "loading"
        supervisor.tick()
        assert supervisor.pid == first
        now[0] += 61
        supervisor.tick()
        assert supervisor.pid is None
        await router.close()
        supervisor.stop()

    asyncio.run(scenario())


#: A classifier whose shares are how many questions it was asked together; it hangs where told.
FAKE = """
import sys, time
from proxy.router import sidecar

class Decider:
    note = "fake"
    def __init__(self, settings):
        if WHERE == "load":
            time.sleep(600)
    def too_slow(self):
        return ""
    def decide(self, batch):
        if WHERE == "decision":
            time.sleep(600)
        time.sleep(0.3)
        return [[float(len(batch))] * 13 for _ in batch]

sidecar.Decider = Decider
sidecar._LOAD_LIMIT = sidecar._BATCH_LIMIT = SECONDS
sidecar._BEAT = 0.02
sidecar.main(*sys.argv[1:])
"""


def fake(folder: Path, where: str, limit: float, clock: Callable[[], float]) -> Supervisor:
    code = FAKE.replace("WHERE", repr(where)).replace("SECONDS", str(limit))
    supervisor = Supervisor(command=(sys.executable, "-c", code), clock=clock)
    supervisor.renew(RouterSettings(model=str(folder)))
    supervisor.tick()
    return supervisor


@pytest.mark.parametrize("where", ["load", "decision"])
def test_a_thread_that_hangs_is_silent_and_ended(folder: Path, where: str) -> None:
    now = [0.0]

    async def scenario() -> None:
        supervisor = fake(folder, where, 0.2, lambda: now[0])
        router = Router(RouterSettings(model=str(folder)), supervisor.address)
        router.start()
        if where == "decision":
            await reached(router, "ready", supervisor)
            began = time.monotonic()
            assert await router.decide(asking("Why?")) is None
            assert time.monotonic() - began < 5
        first = supervisor.pid

        def ended() -> bool:
            now[0] += 61
            supervisor.tick()
            return supervisor.pid != first

        async with asyncio.timeout(60):
            # While it beats, no clock ends it.
            while not ended():
                await asyncio.sleep(0.1)
        await router.close()
        supervisor.stop()

    asyncio.run(scenario())


def test_questions_that_come_together_are_decided_together(folder: Path) -> None:
    async def scenario() -> None:
        supervisor = fake(folder, "nowhere", 60, time.monotonic)
        router = Router(RouterSettings(model=str(folder), within=30.0), supervisor.address)
        router.start()
        await reached(router, "ready", supervisor)
        asked = (router.decide(asking(f"Why {number}?")) for number in range(40))
        found = await asyncio.gather(*asked)
        alone = await router.decide(asking("Why?"))
        sizes = [one.confidence for one in found if one is not None]
        assert max(sizes) == 16
        # However few of them the first batch has met.
        assert len(sizes) == 40
        assert sum(1 / size for size in sizes) < 4.5
        assert alone is not None
        assert alone.confidence == 1
        await router.close()
        supervisor.stop()

    asyncio.run(scenario())


def test_one_that_is_too_slow_says_so(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, within=1e-6) as (supervisor, router):
            await reached(router, "absent", supervisor)
            assert router.state.why.startswith("too slow: 64 tokens take 0.")
            assert router.state.why.endswith(" s, and requests wait 1e-06 s")

    asyncio.run(scenario())


def test_one_that_was_too_slow_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faster:
        note = "faster"
        trials = iter(["too slow", "too slow", ""])

        def __init__(self, _: RouterSettings) -> None: ...

        def too_slow(self) -> str:
            return next(self.trials)

    states: list[State] = []

    async def scenario() -> None:
        ours = sidecar.Sidecar(RouterSettings())
        monkeypatch.setattr(ours, "_become", states.append)
        work = asyncio.create_task(ours._work())
        async with asyncio.timeout(30):
            while len(states) < 3:
                await asyncio.sleep(0.01)
        work.cancel()

    monkeypatch.setattr(sidecar, "Decider", Faster)
    monkeypatch.setattr(sidecar, "_AGAIN", 0.01)
    asyncio.run(scenario())
    slow = State("absent", "too slow")
    assert states == [slow, slow, State("ready", "faster")]


@pytest.fixture
def spoilt(folder: Path, tmp_path: Path) -> Callable[[str, int], Path]:
    """A checkpoint of which one row of one tensor is no number."""

    def spoilt(name: str, row: int) -> Path:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights[name][row] = float("nan")
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        for other in ("config.json", "tokenizer.json"):
            (tmp_path / other).symlink_to(folder / other)
        return tmp_path

    return spoilt


def test_weights_that_are_no_numbers_are_told(spoilt: Callable[[str, int], Path]) -> None:
    broken = spoilt("classifier.weight", 3)

    async def scenario() -> None:
        async with served(broken) as (supervisor, router):
            await reached(router, "absent", supervisor)
            told = f"{broken}/model.safetensors: what it decides is no number; fetch it again"
            assert router.state.why == told

    asyncio.run(scenario())


def test_a_decision_that_is_no_number_is_none(
    folder: Path, spoilt: Callable[[str, int], Path]
) -> None:
    _, token, _ = Tokeniser(folder / "tokenizer.json").encode(Question("Z"), 8)
    # Warming up does not meet it.
    broken = spoilt("base_model.embeddings.tok_embeddings.weight", token)

    async def scenario() -> None:
        async with served(broken) as (supervisor, router):
            await reached(router, "ready", supervisor)
            found = await asyncio.gather(*(router.decide(asking(text)) for text in "AZ"))
            assert found[0] is not None
            assert found[1] is None

    asyncio.run(scenario())


def threads(pid: int | None) -> list[tuple[int, set[int]]]:
    """Of each thread of a process, how nice it is, and its cores; one may just be ending."""
    folder = Path(f"/proc/{pid}/task")
    found = []
    for each in folder.iterdir() if folder.exists() else ():
        with suppress(ProcessLookupError):
            thread = int(each.name)
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            found.append((nice, os.sched_getaffinity(thread)))
    return found


def test_a_load_is_last_in_line_and_what_decides_is_not(folder: Path) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0) + 5

    async def scenario() -> None:
        async with served(folder, threads=2) as (supervisor, router):
            async with asyncio.timeout(30):
                while not any(nice == 19 for nice, _ in threads(supervisor.pid)):
                    supervisor.tick()
                    await asyncio.sleep(0.01)
            assert [len(cores) for nice, cores in threads(supervisor.pid) if nice == 19] == [1]
            await reached(router, "ready", supervisor)
            assert await router.decide(asking("Why?")) is not None
            everywhere = usual, os.sched_getaffinity(0)
            assert eventually(lambda: all(one == everywhere for one in threads(supervisor.pid)))

    asyncio.run(scenario())


def test_a_tokenizer_that_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "tokenizer.json").write_text("{")

    async def scenario() -> None:
        async with served(tmp_path) as (supervisor, router):
            await reached(router, "absent", supervisor)
            assert f"{tmp_path}/tokenizer.json: " in router.state.why
            assert await router.decide(asking("Why?")) is None

    asyncio.run(scenario())


def test_it_ends_with_the_process_that_has_started_it(folder: Path, tmp_path: Path) -> None:
    settings = orjson.dumps({"model": str(folder)}).decode()
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'proxy.router.sidecar', *sys.argv[1:],"
        " str(os.getpid())], stdout=subprocess.DEVNULL)\n"
        "print(child.pid)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "socket"), settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert eventually(lambda: not Path(f"/proc/{int(done.stdout)}").exists(), within=90)


def test_alike_questions_are_computed_together_and_long_ones_alone() -> None:
    assert list(grouped([30, 10, 60, 20, 50, 200], 128)) == [[1, 3, 0], [4, 2], [5]]
    assert list(grouped([], 128)) == []


def test_a_machine_reads_what_it_can_read_in_time() -> None:
    assert reach(256, 256, took=0.3, budget=0.2, most=512) == 128
    assert reach(64, 64, took=9.0, budget=0.2, most=512) == 64
    assert reach(256, 256, took=0.05, budget=0.2, most=512) == 512
    assert reach(512, 512, took=0.05, budget=0.2, most=512) == 512
    assert reach(256, 20, took=0.01, budget=0.2, most=512) == 256
    assert reach(256, 256, took=0.15, budget=0.2, most=512) == 256
    assert reach(32, 32, took=9.0, budget=0.2, most=32) == 32
