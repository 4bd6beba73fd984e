"""The conversation log and the log of the real service: several workers, kills, full disks."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Service, StartService, chat_body, eventually

from optictl.simulator import SimulatorThread


def entries(folder: Path) -> list[dict[str, Any]]:
    """All lines that are written by now."""
    if not folder.is_dir():
        return []
    texts = (file.read_text() for file in sorted(folder.glob("conversations_*.jsonl")))
    return [json.loads(line) for text in texts for line in text.split("\n")[:-1]]


def ask(service: Service, content: str = "hello", **members: Any) -> int:
    body = chat_body(content=content, **members)
    return httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=30.0).status_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "conversations"


def test_two_workers_write_whole_lines_and_flush_at_the_end(
    start_service: StartService, folder: Path
) -> None:
    service = start_service(
        *("--log-conversations", "--conversation-log-dir", str(folder), "--workers", "2")
    )
    with ThreadPoolExecutor(8) as clients:
        asked = list(clients.map(lambda n: ask(service, f"{n} " * 3000), range(60)))
    assert asked == [200] * 60
    assert service.stop() == 0
    written = entries(folder)
    said = {entry["client_request"]["messages"][0]["content"] for entry in written}
    assert said == {f"{n} " * 3000 for n in range(60)}
    assert len(written) == 60


def test_the_variables_of_optillm_turn_it_on(start_service: StartService, folder: Path) -> None:
    service = start_service(
        env={"OPTILLM_LOG_CONVERSATIONS": "true", "OPTILLM_CONVERSATION_LOG_DIR": str(folder)}
    )
    assert ask(service) == 200
    assert eventually(lambda: len(entries(folder)) == 1)


def test_it_goes_where_optillm_puts_it(start_service: StartService, tmp_path: Path) -> None:
    service = start_service("--log-conversations", env={"HOME": str(tmp_path)})
    assert ask(service) == 200
    assert eventually(lambda: len(entries(tmp_path / ".optillm/conversations")) == 1)


def test_under_systemd_it_goes_where_the_service_may_write(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service("--log-conversations", env={"STATE_DIRECTORY": str(tmp_path)})
    assert ask(service) == 200
    assert eventually(lambda: len(entries(tmp_path / "conversations")) == 1)


def test_a_client_that_leaves_is_told_with_what_it_got(
    sim: SimulatorThread, start_service: StartService, folder: Path
) -> None:
    sim.behave(chunk_interval=0.1, tokens=400)
    service = start_service("--log-conversations", "--conversation-log-dir", str(folder))
    url, body = f"{service.url}/v1/chat/completions", chat_body(stream=True)
    with httpx.stream("POST", url, json=body, timeout=30.0) as response:
        got = next(line for line in response.iter_lines() if '"content":"A' in line)
    assert got
    assert eventually(lambda: len(entries(folder)) == 1)
    (entry,) = entries(folder)
    assert entry["error"] == "client_gone"
    (choice,) = entry["final_response"]["choices"]
    assert choice["message"]["content"].startswith("A")
    assert choice["finish_reason"] is None
    assert entry["provider_calls"][0]["response"]["choices"] == [choice]


def test_a_killed_worker_leaves_whole_lines(start_service: StartService, folder: Path) -> None:
    service = start_service("--log-conversations", "--conversation-log-dir", str(folder))
    (worker,) = service.workers()
    with ThreadPoolExecutor(4) as clients:
        for number in range(20):
            clients.submit(ask, service, f"{number} " * 100_000)
        assert eventually(lambda: len(entries(folder)) > 2)
        os.kill(worker, signal.SIGKILL)
    (file,) = folder.iterdir()
    with file.open("a") as torn:
        torn.write('{"timestamp": "2026-')
    assert eventually(lambda: service.workers() not in ([], [worker]))
    assert eventually(lambda: file.read_bytes().endswith(b"\n"))
    service.wait_healthy()
    assert ask(service, "after") == 200
    assert eventually(
        lambda: entries(folder)[-1]["client_request"]["messages"][0]["content"] == "after"
    )


def test_a_disk_that_is_full_in_the_middle_of_a_line_stops_nothing(
    start_service: StartService, folder: Path
) -> None:
    service = start_service("--log-conversations", "--conversation-log-dir", str(folder))
    assert ask(service, "short") == 200
    assert eventually(lambda: len(entries(folder)) == 1)
    (worker,) = service.workers()
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    for _ in range(3):
        assert ask(service, "long " * 100_000) == 200
    assert eventually(lambda: "conversations are not written at present" in service.log)
    (file,) = folder.iterdir()
    assert eventually(lambda: file.read_bytes().endswith(b"\n"))
    assert len(entries(folder)) == 1
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert eventually(lambda: len(entries(folder)) == 4)
    assert service.log.count("conversations are not written") == 1


def test_a_folder_that_vanishes_comes_back(start_service: StartService, folder: Path) -> None:
    service = start_service("--log-conversations", "--conversation-log-dir", str(folder))
    assert ask(service) == 200
    assert eventually(lambda: len(entries(folder)) == 1)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    assert ask(service) == 200
    assert eventually(lambda: "conversations are not written at present" in service.log)
    folder.unlink()
    assert eventually(lambda: len(entries(folder)) == 1)
    assert eventually(lambda: "conversations are written again" in service.log)


def test_every_line_of_a_json_log_is_json(start_service: StartService) -> None:
    service = start_service("--log-format", "json", "--log", "debug", "--workers", "2")
    assert ask(service, model="re2&bon-sim") == 200
    assert eventually(lambda: "Using approach(es)" in service.log)
    os.kill(service.workers()[0], signal.SIGKILL)
    assert eventually(lambda: "SIGKILL" in service.log)
    service.stop()
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert {"optillm.server", "optillm.requests", "gunicorn.error"} <= {
        line["logger"] for line in lines
    }
    (request,) = (line for line in lines if line["logger"] == "optillm.requests")
    assert request["msg"] == "Using approach(es) ['re2', 'bon'], operation AND, with model sim"
    assert (request["status"], request["stream"]) == (200, False)
