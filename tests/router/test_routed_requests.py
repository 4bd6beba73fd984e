"""The whole way: a service, its sidecar, a checkpoint of the real layout, and requests for both."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import chat_body, eventually, free_port
from tiny import write_checkpoint

from optictl.simulator import Behaviour, SimulatorThread
from proxy.router.checkpoint import LABELS

OPEN = "Compare the French and the American revolution."


@contextmanager
def serving(upstream: str, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = str(free_port())
    code = "import sys; from optictl.cli import optillm; sys.exit(optillm())"
    arguments = ["--base-url", upstream, "--model", "sim", "--port", port, *flags]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield process, http
    finally:
        process.kill()
        process.wait()


def state(http: httpx.Client) -> Any:
    try:
        return http.get("/health/ready").json()["router"]
    except httpx.TransportError:
        return None


@pytest.mark.router
def test_every_worker_asks_the_one_classifier(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path)
    flags = ["--router-model", str(model), "--router-min-confidence", "0", "--workers", "2"]
    with SimulatorThread(Behaviour()) as sim, serving(sim.url, *flags) as (process, http):
        assert eventually(lambda: state(http) == "ready", within=90)
        sources = set()
        for number in range(8):
            # Of a connection of its own, so that either worker gets some.
            body = chat_body("sim", f"{OPEN} Take {number} or so.", optillm_options={"samples": 1})
            answer = httpx.post(f"{http.base_url}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            told = answer.json()["optillm"]["router"]
            assert told["approach"] in LABELS
            assert answer.headers["x-optillm-router"].startswith(told["approach"])
            sources.add(told["source"])
        assert "classifier" in sources
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: state(http) == "ready", within=90)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
