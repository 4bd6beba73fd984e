"""What the service counts: requests that die with their worker, and what leaving clients leave."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import aiohttp
import httpx
import pytest
from conftest import Service, SimulatorThread, StartService, chat_body, eventually
from raw_http import CHAT, Wire, request_bytes

ROOT = Path(__file__).parents[2]
ODD = Path(__file__).parent / "odd_service.py"


def metric(service: Service, name: str) -> float:
    """Its value, of the worker that happens to answer."""
    text = httpx.get(f"{service.url}/metrics", timeout=30.0).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def reload_state(service: Service) -> Any:
    """What /health/ready says of the last reload; its status speaks of other things."""
    response = httpx.get(f"{service.url}/health/ready", timeout=30.0)
    assert response.status_code == 200
    return response.json()["reload"]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While it is stopped, the other worker takes all that comes."""
    os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


class Systemd:
    """Hears what a service has to say."""

    def __init__(self, address: Path) -> None:
        self.messages: list[str] = []
        self._over = Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._socket.settimeout(0.1)
        self._thread = Thread(target=self._listen)

    def _listen(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                self.messages.append(self._socket.recv(4096).decode())

    def heard(self, status: str) -> bool:
        """Whether it does so in time; the service may have said other things before."""
        return eventually(lambda: status in self.statuses())

    def statuses(self) -> list[str]:
        """Without where it serves."""
        lines = [line for message in self.messages for line in message.splitlines()]
        return [line.partition(": ")[2] for line in lines if line.startswith("STATUS=serving on ")]

    def __enter__(self) -> Systemd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with Systemd(tmp_path / "notify") as systemd:
        yield systemd


def test_the_requests_of_a_killed_worker_are_counted_and_the_others_are_served(
    start_service: StartService, sim: SimulatorThread, systemd: Systemd, tmp_path: Path
) -> None:
    service = start_service("--workers", "2", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert systemd.heard("2 workers, 0 requests")
    assert metric(service, "optillm_requests_lost_total") == 0
    victim, other = service.workers()
    sim.behave(latency=3.0)
    sim.behave(latency=60.0, model="never")
    with ExitStack() as open_:

        def ask(count: int, model: str) -> list[Wire]:
            before = sim.log.inflight
            wires = [open_.enter_context(Wire(service.port)) for _ in range(count)]
            for wire in wires:
                wire.send(request_bytes(chat_body(model)))
            assert eventually(lambda: sim.log.inflight == before + count)
            return wires

        with stopped(other):
            lost = ask(3, "never")
        with stopped(victim):
            kept = ask(2, "sim")
            os.kill(victim, signal.SIGKILL)
        assert [wire.ended() for wire in lost] == [True] * 3
        assert [wire.response().status for wire in kept] == [200] * 2
    sim.behave(latency=0.0)
    died = f"worker {victim} died (signal 9) with 3 requests in flight"
    assert eventually(lambda: f"ERROR optillm.server {died}" in service.log)
    assert metric(service, "optillm_requests_lost_total") == 3
    assert eventually(lambda: len(service.workers()) == 2)
    assert systemd.heard("2 workers, 0 requests; 3 requests lost with a worker")

    # One that holds nothing takes nothing along; nor does one that ends as it was told.
    first, second = service.workers()
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: first not in service.workers() and len(service.workers()) == 2)
    service.signal(signal.SIGHUP)
    assert eventually(lambda: second not in service.workers() and len(service.workers()) == 2)
    service.wait_healthy()
    assert httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0).status_code == 200
    assert metric(service, "optillm_requests_lost_total") == 3
    assert service.stop() == 0
    assert service.log.count(" died (") == 1


def test_the_requests_of_a_worker_that_ends_itself_are_counted(start_service: StartService) -> None:
    service = start_service(
        "--with",
        json.dumps({"loop_stuck_after": 1.5}),
        script=ODD,
        env={"PYTHONPATH": str(ROOT)},
    )
    (worker,) = service.workers()
    with Wire(service.port) as stuck, Wire(service.port) as waiting:
        stuck.send(request_bytes(chat_body("stuck-sim")))
        waiting.send(request_bytes(chat_body("stuck-sim")))
        died = f"worker {worker} died (status 70) with 2 requests in flight"
        assert eventually(lambda: died in service.log)
    service.wait_healthy()
    assert metric(service, "optillm_requests_lost_total") == 2


def test_systemd_hears_what_the_service_is_at(
    start_service: StartService, sim: SimulatorThread, systemd: Systemd, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("old")
    key.chmod(0o600)
    service = start_service(
        "--optillm-api-key-file", str(key), env={"NOTIFY_SOCKET": str(tmp_path / "notify")}
    )
    where = f"serving on 127.0.0.1:{service.port}"
    assert systemd.heard("1 worker, 0 requests")
    assert systemd.messages[0] == f"READY=1\nSTATUS={where}: 1 worker, 0 requests"
    sim.behave(latency=60.0)
    with ExitStack() as open_:
        for _ in range(3):
            wire = open_.enter_context(Wire(service.port))
            wire.send(request_bytes(chat_body(), Authorization="Bearer old"))
        assert systemd.heard("1 worker, 3 requests, 3 calls under way")
    assert eventually(lambda: systemd.statuses()[-1] == "1 worker, 0 requests")
    sim.behave(latency=0.0)

    # A reload that is refused is told to all who ask, until one is accepted.
    assert reload_state(service) is None
    key.write_text("")
    service.signal(signal.SIGHUP)
    refused = f"--optillm-api-key-file: {key}: the key is empty"
    assert systemd.heard(f"1 worker, 0 requests; reload refused: {refused}")
    assert reload_state(service) == f"refused, the previous configuration serves: {refused}"
    asked = httpx.post(
        service.url + CHAT,
        json=chat_body(),
        headers={"Authorization": "Bearer old"},
        timeout=30.0,
    )
    assert asked.status_code == 200
    key.write_text("new")
    service.signal(signal.SIGHUP)
    assert eventually(lambda: reload_state(service) is None)
    assert eventually(lambda: systemd.statuses()[-1] == "1 worker, 0 requests")

    # For systemd both were reloads that began and ended.
    begun = [n for n, said in enumerate(systemd.messages) if said.startswith("RELOADING=1\n")]
    assert len(begun) == 2
    for start, end in zip(begun, [*begun[1:], None], strict=True):
        _, stamp = systemd.messages[start].split("\nMONOTONIC_USEC=")
        assert 0 <= time.clock_gettime(time.CLOCK_MONOTONIC) - int(stamp) / 1e6 < 100
        assert "READY=1" in systemd.messages[start:end]
    service.signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    assert eventually(lambda: "STOPPING=1" in systemd.messages)
    assert "WATCHDOG=1" in systemd.messages


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker holds while nobody asks it anything."""

    tasks: float
    descriptors: int

    @classmethod
    def by(cls, service: Service, worker: int) -> Held:
        return cls(metric(service, "optillm_tasks"), len(os.listdir(f"/proc/{worker}/fd")))  # noqa: PTH208


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Descriptors for the clients and the upstream, which are this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


#: A model whose streams end when somebody leaves.
ENDLESS = "endless"


async def stream_all(url: str, leaves_after: list[int | None]) -> list[bool]:
    """As many streams at once; whether each came to its end.

    Some clients leave: after so many pieces of content, or (0) before there is an answer.
    """

    async def one(session: aiohttp.ClientSession, leaves: int | None) -> bool:
        body = chat_body("sim" if leaves is None else ENDLESS, stream=True)
        text = b""
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(0.25 if leaves == 0 else None),
                session.post(url + CHAT, json=body) as response,
            ):
                assert response.status == 200
                async for piece in response.content.iter_any():
                    text += piece
                    if leaves is not None and text.count(b'"content"') >= leaves:
                        return False
        return text.endswith(b"data: [DONE]\n\n")

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await asyncio.gather(*(one(session, leaves) for leaves in leaves_after))


@pytest.mark.usefixtures("descriptors")
def test_500_streams_of_which_half_are_left_at_random_leave_nothing_behind(
    start_service: StartService, sim: SimulatorThread
) -> None:
    slow: dict[str, Any] = {"latency": 0.5, "chunk_interval": 0.25, "chunk_chars": 60}
    sim.behave(tokens=75, **slow)
    sim.behave(model=ENDLESS, tokens=75_000, **slow)
    pool = 520
    service = start_service("--threads", str(pool))
    (worker,) = service.workers()
    alone = threads(worker)
    assert all(asyncio.run(stream_all(service.url, [None] * 500)))

    def settled() -> bool:
        return sim.log.inflight == 0 and metric(service, "optillm_requests_in_flight") == 0

    assert eventually(settled)
    time.sleep(2.5)  # tasks are counted once a second, closed connections linger for two
    before = Held.by(service, worker)
    idle = sim.log.peak

    chance = random.Random(500)
    leaves = [*(chance.randint(0, 5) for _ in range(250)), *(None for _ in range(250))]
    chance.shuffle(leaves)
    ended = asyncio.run(stream_all(service.url, leaves))
    assert all(end for end, left in zip(ended, leaves, strict=True) if left is None)
    assert eventually(settled)
    dropped = sim.log.dropped
    assert sum(bool(left) for left in leaves) <= dropped <= 250
    # Connections upstream are kept for the next call, those of dropped calls are not; and there
    # are new ones where the first 500 have not all been there at the same time.
    most = before.descriptors - dropped + (500 - idle)

    def clean() -> bool:
        after = Held.by(service, worker)
        return (
            settled()
            and after.tasks <= before.tasks
            and after.descriptors <= most
            # The server's pool keeps its threads.
            and threads(worker) <= alone + pool
        )

    assert eventually(clean), (before, most, Held.by(service, worker))
    assert "Traceback" not in service.log
    assert service.stop() == 0
