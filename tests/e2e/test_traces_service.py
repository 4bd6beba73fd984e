"""Traces and usage of the real service: across workers, their deaths, reloads and restarts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
from conftest import Service, StartService, chat_body, eventually

REQUESTS = 12


def ask(service: Service, identity: str) -> None:
    """One request on a connection of its own, so that the workers share them out."""
    answer = httpx.post(
        f"{service.url}/v1/chat/completions",
        json=chat_body(),
        headers={"x-request-id": identity},
        timeout=60.0,
    )
    assert answer.status_code == 200


def listed(service: Service, path: str = "/traces?limit=1000") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{service.url}{path}", timeout=60.0).json()["data"]
    return found


def all_are_there(service: Service, count: int) -> bool:
    return eventually(lambda: len(listed(service)) == count)


def test_every_worker_knows_of_all_requests_those_of_dead_workers_too(
    start_service: StartService,
) -> None:
    service = start_service("--workers", "3")
    for number in range(REQUESTS):
        ask(service, f"r{number}")
    assert all_are_there(service, REQUESTS)
    for pid in service.workers():
        os.kill(pid, signal.SIGKILL)
    service.wait_healthy()
    # Connections anew, to whichever worker there is now.
    for _ in range(6):
        # In the order in which they were written: each worker does so ten times a second.
        assert {each["id"] for each in listed(service)} == {f"r{n}" for n in range(REQUESTS)}
    service.signal(signal.SIGHUP)
    ask(service, "after")
    assert all_are_there(service, REQUESTS + 1)
    assert listed(service)[0]["id"] == "after"


def test_usage_survives_kills_and_restarts(start_service: StartService, tmp_path: Path) -> None:
    # As systemd names it to a unit with a StateDirectory.
    state = {"STATE_DIRECTORY": str(tmp_path)}
    service = start_service("--workers", "2", env=state)

    def requests() -> int:
        return sum(row["requests"] for row in listed(service, "/usage"))

    for number in range(REQUESTS):
        ask(service, f"r{number}")
    assert eventually(lambda: requests() == REQUESTS)
    for pid in service.workers():
        os.kill(pid, signal.SIGKILL)
    service.process.kill()
    service.process.wait(10)
    service = start_service("--workers", "2", env=state)
    ask(service, "again")
    assert eventually(lambda: requests() == REQUESTS + 1)
    assert httpx.get(f"{service.url}/usage", timeout=30.0).json()["kept"] == "file"
    assert service.stop() == 0


def test_workers_write_one_log_of_whole_lines_to_their_last_request(
    start_service: StartService, tmp_path: Path
) -> None:
    log = tmp_path / "traces.jsonl"
    log.write_text('{"half a li')
    service = start_service("--workers", "2", "--trace-log", str(log))
    for number in range(REQUESTS):
        ask(service, f"r{number}")
    # At once, with what was not written yet.
    assert service.stop() == 0
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(each["id"] for each in told) == sorted(f"r{n}" for n in range(REQUESTS))


def test_a_log_that_cannot_be_written_is_refused_at_the_start(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service("--trace-log", str(tmp_path / "gone" / "x.jsonl"), healthy=False)
    assert service.process.wait(60) == 2
    assert "--trace-log" in service.log
