"""``/metrics`` of a service with several workers: what is shown does not depend on who is asked."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
from conftest import Service, SimulatorThread, StartService, chat_body, eventually
from raw_http import CHAT, Wire, request_bytes
from scraped import Scraped

DONE = {"approach": "none", "status": "200", "code": "ok"}


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """While they are stopped, the other workers take all that comes."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def scraped(service: Service) -> Scraped:
    response = httpx.get(f"{service.url}/metrics", timeout=30.0)
    assert response.status_code == 200
    return Scraped(response.text)


def ask(service: Service, count: int) -> None:
    for _ in range(count):
        answer = httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0)
        assert answer.status_code == 200


def seen_by_each(service: Service, name: str, **labels: str) -> list[float]:
    """What each worker says, the others being stopped meanwhile."""
    workers = service.workers()
    found = []
    for worker in workers:
        with stopped(*(each for each in workers if each != worker)):
            found.append(scraped(service).value(name, **labels))
    return found


def serving(service: Service, count: int) -> bool:
    return eventually(lambda: scraped(service).value("optillm_workers") == count)


def test_both_workers_tell_of_both(start_service: StartService) -> None:
    service = start_service("--workers", "2")
    assert serving(service, 2)
    first, second = service.workers()
    with stopped(first):
        ask(service, 2)
    with stopped(second):
        ask(service, 3)
    assert seen_by_each(service, "optillm_requests_total", **DONE) == [5, 5]
    assert seen_by_each(service, "optillm_request_seconds_count", approach="none") == [5, 5]
    assert seen_by_each(service, "optillm_upstream_calls_total", outcome="ok") == [5, 5]


def test_a_killed_workers_counts_stay_and_what_it_held_is_gone(
    start_service: StartService, sim: SimulatorThread
) -> None:
    service = start_service("--workers", "2")
    assert serving(service, 2)
    victim, other = service.workers()
    with stopped(other):
        ask(service, 3)
        sim.behave(latency=60.0)
        wires = ExitStack()
        wire = wires.enter_context(Wire(service.port))
        wire.send(request_bytes(chat_body()))
        assert eventually(lambda: scraped(service).value("optillm_requests_in_flight") == 1)
        assert eventually(lambda: scraped(service).value("optillm_upstream_calls_in_flight") == 1)
        os.kill(victim, signal.SIGKILL)
    with wires:
        assert eventually(lambda: victim not in service.workers() and len(service.workers()) == 2)
    assert serving(service, 2)
    sim.behave(latency=0.0)
    seen = scraped(service)
    assert seen.value("optillm_requests_in_flight") == 0
    assert seen.value("optillm_upstream_calls_in_flight") == 0
    assert seen.value("optillm_requests_lost_total") == 1
    ask(service, 4)
    assert seen_by_each(service, "optillm_requests_total", **DONE) == [7, 7]


def test_reloads_keep_the_counts_and_leave_nothing_behind(start_service: StartService) -> None:
    service = start_service("--workers", "2")
    assert serving(service, 2)
    opened = Path(f"/proc/{service.process.pid}/fd")
    before = len(list(opened.iterdir()))
    for turn in range(1, 4):
        ask(service, 2)
        old = set(service.workers())
        service.signal(signal.SIGHUP)
        assert eventually(lambda old=old: not old & set(service.workers()))  # type: ignore[misc]
        assert serving(service, 2)
        assert seen_by_each(service, "optillm_requests_total", **DONE) == [2 * turn] * 2
    assert len(list(opened.iterdir())) <= before


def test_a_worker_that_finishes_its_last_stream_counts_until_then(
    start_service: StartService, sim: SimulatorThread
) -> None:
    service = start_service("--workers", "1")
    assert serving(service, 1)
    sim.behave(latency=6.0)
    with Wire(service.port) as wire:
        wire.send(request_bytes(chat_body()))
        assert eventually(lambda: sim.log.inflight == 1)
        service.signal(signal.SIGHUP)
        assert serving(service, 2)
        assert scraped(service).value("optillm_requests_in_flight") == 1
        assert wire.response().status == 200
    assert serving(service, 1)
    assert scraped(service).value("optillm_requests_total", **DONE) == 1


def test_a_client_that_leaves(start_service: StartService, sim: SimulatorThread) -> None:
    service = start_service()
    sim.behave(latency=60.0)
    with Wire(service.port) as wire:
        wire.send(request_bytes(chat_body("moa-sim")))
        assert eventually(lambda: sim.log.inflight == 3)
    gone = {"approach": "moa", "status": "499", "code": "client_gone"}
    assert eventually(lambda: scraped(service).value("optillm_requests_total", **gone) == 1)
    seen = scraped(service)
    assert seen.value("optillm_upstream_calls_total", outcome="cancelled") == 3
    assert seen.value("optillm_calls_cancelled_total", approach="moa", why="client_gone") == 3
    assert seen.value("optillm_request_seconds_count") == 0


def test_a_refused_reload_shows(start_service: StartService, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-clients")
    key.chmod(0o600)
    service = start_service("--optillm-api-key-file", str(key))
    headers = {"Authorization": "Bearer sk-clients"}

    def refused() -> float:
        text = httpx.get(f"{service.url}/metrics", headers=headers, timeout=30.0).text
        return Scraped(text).value("optillm_reload_refused")

    assert refused() == 0
    assert httpx.get(f"{service.url}/metrics", timeout=30.0).status_code == 401
    key.unlink()
    service.signal(signal.SIGHUP)
    assert eventually(lambda: refused() == 1)


def test_a_provider_that_went_away_with_a_reload_is_no_longer_shown(
    start_service: StartService, sim: SimulatorThread, tmp_path: Path
) -> None:
    config = tmp_path / "proxy_config.yaml"

    def name(provider: str) -> None:
        entry = {"name": provider, "base_url": sim.url, "api_key": ""}
        config.write_text(json.dumps({"providers": [entry]}))

    name("first")
    service = start_service("--base-url", "", "--proxy-config", str(config))

    def shown() -> set[str]:
        return scraped(service).labels("optillm_provider_up", "provider")

    assert eventually(lambda: shown() == {"first"})
    # The third takes the place on the board that the first has left.
    for provider in ("second", "third"):
        name(provider)
        service.signal(signal.SIGHUP)
        assert eventually(lambda provider=provider: shown() == {provider})  # type: ignore[misc]
