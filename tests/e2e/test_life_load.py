"""The service under clients that are many, slow, silent, or never hang up."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from conftest import Service, SimulatorThread, StartService, chat_body, eventually
from driving import completion
from raw_http import CHAT, Wire, request_bytes
from scraped import Scraped

from optictl.simulator import Fault

ROOT = Path(__file__).parents[2]
ODD = Path(__file__).parent / "odd_service.py"
#: 16 MB of text, more than all buffers between client and upstream hold.
LONG = {"tokens": 4_000_000, "chunk_chars": 16_000}


def odd(start_service: StartService, *flags: str, **settings: Any) -> Service:
    """The service with ``settings`` that have no flag."""
    return start_service(
        "--with",
        json.dumps(settings),
        *flags,
        script=ODD,
        env={"PYTHONPATH": str(ROOT)},
    )


def health(service: Service) -> int:
    """Its status; none of what these tests do to a service may hold it up for so long."""
    return httpx.get(f"{service.url}/health", timeout=9.0).status_code


def in_flight(service: Service) -> float:
    """How many chats are admitted and not answered."""
    text = httpx.get(f"{service.url}/metrics", timeout=30.0).text
    return Scraped(text).value("optillm_requests_in_flight")


def chat(service: Service, **members: Any) -> httpx.Response:
    return httpx.post(service.url + CHAT, json=chat_body(**members), timeout=30.0)


@contextmanager
def waiting_chats(service: Service, sim: SimulatorThread, count: int) -> Iterator[None]:
    """So many chats whose upstream never answers."""
    with ExitStack() as open_:
        for _ in range(count):
            wire = open_.enter_context(Wire(service.port))
            wire.send(request_bytes(chat_body()))
        assert eventually(lambda: sim.log.inflight == count)
        yield


def test_health_and_metrics_answer_while_every_chat_slot_waits(
    start_service: StartService, sim: SimulatorThread
) -> None:
    """Admission: fewer chats than threads are let in; the surplus is refused, not queued."""
    sim.behave(faults=(Fault("hang"),))
    service = start_service("--threads", "4")
    with waiting_chats(service, sim, 3):
        # The thread that is left serves them one after the other, however many come.
        for path in ("/health", "/health/live", "/health/ready", "/metrics", "/v1/models"):
            assert httpx.get(service.url + path, timeout=30.0).status_code == 200
        answers = [chat(service) for _ in range(3)]
        for refused in answers:
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.headers["x-optillm-error"] == "overloaded"
            assert refused.json()["error"]["code"] == "overloaded"
            assert refused.json()["error"]["type"] == "overloaded_error"
        assert in_flight(service) == 3
    # Who has left makes room.
    sim.behave(faults=())
    assert eventually(lambda: chat(service).status_code == 200)


def test_clients_that_stop_reading_give_their_threads_back(
    start_service: StartService, sim: SimulatorThread
) -> None:
    """SO_SNDTIMEO: otherwise each holds its thread, its slot and its upstream call for ever."""
    sim.behave(**LONG, chunk_interval=0.001)
    service = odd(start_service, threads=5, socket_timeout=3.0)
    with ExitStack() as open_:
        for _ in range(4):
            wire = open_.enter_context(Wire(service.port, window=4096))
            wire.send(request_bytes(chat_body(stream=True)))
            assert wire.response().status == 200
        assert chat(service, stream=True).status_code == 503
        # Some may have ended by themselves: sockets on the way hold many megabytes.
        assert eventually(lambda: sim.log.calls == 4 and sim.log.inflight == 0)
        sim.behave(tokens=24)
        assert eventually(lambda: chat(service).status_code == 200)
        assert health(service) == 200


def test_a_body_that_stalls_is_408_and_gives_its_slot_back(
    start_service: StartService, sim: SimulatorThread
) -> None:
    service = odd(start_service, threads=3, socket_timeout=5.0)
    data = request_bytes(chat_body())
    with Wire(service.port) as first, Wire(service.port) as second:
        for wire in (first, second):
            wire.send(data[:-10])
        # Not by a chat: it would take the slot that the second of them comes for.
        assert eventually(lambda: in_flight(service) == 2)
        assert chat(service).status_code == 503
        assert health(service) == 200
        for wire in (first, second):
            response = wire.response()
            assert response.status == 408
            assert json.loads(response.read())["error"]["code"] == "body_timeout"
            assert wire.ended()
        assert chat(service).status_code == 200
    assert "Traceback" not in service.log


def test_a_head_that_stalls_gives_its_thread_back(start_service: StartService) -> None:
    service = odd(start_service, threads=2, socket_timeout=0.5)
    with Wire(service.port) as first, Wire(service.port) as second:
        for wire in (first, second):
            wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: pro")
        assert first.ended()
        assert second.ended()
        assert health(service) == 200
    assert eventually(lambda: service.log.count("client stalled") == 2)
    assert "Traceback" not in service.log


def test_connections_on_which_nothing_is_asked_take_no_thread(start_service: StartService) -> None:
    """Pools open them in advance. They do not hold up a stop either."""
    service = start_service("--threads", "2", "--graceful-timeout", "60")
    with ExitStack() as open_:
        silent = [open_.enter_context(Wire(service.port)) for _ in range(8)]
        # gunicorn itself would wait 5 s for each, in a thread.
        assert health(service) == 200
        # The first byte may come late.
        assert silent[0].send(request_bytes(chat_body())).response().status == 200
        assert service.stop(within=30.0) == 0


def test_clients_that_never_hang_up_do_not_hold_up_the_others(
    start_service: StartService,
) -> None:
    """The server's side of a close must not wait on the thread that accepts."""
    service = start_service()
    ask = b"GET /health HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n"
    with ExitStack() as open_:
        wires = [open_.enter_context(Wire(service.port)).send(ask) for _ in range(10)]
        assert wires[0].response().status == 200
        assert health(service) == 200
        assert [wire.response().status for wire in wires[1:]] == [200] * 9
        # In the end the server closes its side too.
        worker = service.workers()[0]
        assert eventually(lambda: len(connections(worker, service.port)) == 0)


def connections(pid: int, port: int) -> list[str]:
    """The sockets of ``pid`` that are connected to its own ``port``."""
    held = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    listening = "0A"
    return [
        row[9]
        for row in rows
        if row[1].endswith(f":{port:04X}") and row[3] != listening and f"socket:[{row[9]}]" in held
    ]


def test_a_slow_reader_gets_every_byte_and_memory_does_not_grow_with_it(
    start_service: StartService, sim: SimulatorThread
) -> None:
    """Backpressure: what the client has not read waits upstream, not in the proxy."""
    sim.behave(**LONG)
    service = odd(start_service, socket_timeout=2.0)
    worker = service.workers()[0]
    assert chat(service, max_tokens=10).status_code == 200
    before = resident(worker)
    most, received = before, 0
    with Wire(service.port, window=65536) as wire:
        wire.send(request_bytes(chat_body(stream=True)))
        response = wire.response()
        text = b""
        while data := response.read1(1 << 20):
            received += len(data)
            text = (text + data)[-2000:]
            most = max(most, resident(worker))
            time.sleep(0.01)
    assert received > 16_000_000
    assert text.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"stop"' in text
    assert most - before < 10_000_000


def resident(pid: int) -> int:
    """Bytes of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Descriptors for the clients and the upstream, which are this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
def test_700_requests_wait_at_once_under_a_soft_limit_of_1024_descriptors(
    start_service: StartService,
) -> None:
    """Each takes two descriptors; and a client's may be above what select() can watch."""
    count = 700
    listener = socket.create_server(("127.0.0.1", 0), backlog=count)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    service = odd(start_service, "--descriptors", "1024", "--base-url", url, threads=800)

    async def ask(session: aiohttp.ClientSession) -> tuple[int, bytes]:
        async with session.post(service.url + CHAT, json=chat_body()) as response:
            return response.status, await response.read()

    async def all_of_them() -> list[tuple[int, bytes]]:
        waiting, everybody = 0, asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.Response:
            nonlocal waiting
            waiting += request.path == CHAT
            if waiting == count:
                everybody.set()
            # Nobody is answered before all are there.
            await everybody.wait()
            return web.json_response(completion("together"))

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.SockSite(runner, listener, backlog=count).start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(60):
            answers = await asyncio.gather(*(ask(session) for _ in range(count)))
        await runner.cleanup()
        return answers

    answers = asyncio.run(all_of_them())
    assert [answer for answer in answers if answer[0] != 200] == []
    assert "Traceback" not in service.log


def test_an_idle_connection_is_kept_and_serves_many_requests(start_service: StartService) -> None:
    """Gateways keep connections for long: a server that drops one first loses a request."""
    service = start_service()
    ask = request_bytes(chat_body())
    with Wire(service.port) as wire:
        for turn in range(100):
            response = wire.send(ask).response()
            assert response.status == 200
            assert json.loads(response.read())["choices"]
            if turn == 0:
                # gunicorn's own default is 2 s.
                time.sleep(3)
        assert len(connections(service.workers()[0], service.port)) == 1
