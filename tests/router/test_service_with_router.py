"""A service with a classifier: it starts no later, and leaves no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from conftest import eventually, free_port
from tiny import write_checkpoint


@contextmanager
def serving(model: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    code = (
        "import sys\n"
        "from proxy.router.config import RouterSettings\n"
        "from proxy.server import serve\n"
        "from proxy.settings import Settings\n"
        "sys.exit(serve(Settings(base_url='http://127.0.0.1:9/v1', port=int(sys.argv[1]),"
        " graceful_timeout=3.0, router=RouterSettings(model=sys.argv[2], threads=1))))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(port), str(model)])
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def sidecar_of(master: int) -> int | None:
    for pid in map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()):
        # One that has just ended is reaped at any moment.
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"proxy.router.sidecar" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def test_a_service_whose_classifier_cannot_be_loaded_serves(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        assert eventually(lambda: answers(url))
        assert sidecar_of(process.pid) is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.router
def test_a_service_serves_while_its_classifier_hangs_and_takes_it_along(tmp_path: Path) -> None:
    with serving(write_checkpoint(tmp_path)) as (process, url):
        assert eventually(lambda: sidecar_of(process.pid) is not None)
        # The workers start first.
        assert answers(url)
        sidecar = sidecar_of(process.pid)
        assert sidecar is not None
        subprocess.run(["kill", "-STOP", str(sidecar)], check=True)
        assert eventually(lambda: answers(url))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert not Path(f"/proc/{sidecar}").exists()


@pytest.mark.router
def test_a_classifier_that_is_killed_is_started_again_beside_the_requests(tmp_path: Path) -> None:
    with serving(write_checkpoint(tmp_path)) as (process, url):
        assert eventually(lambda: answers(url))
        assert eventually(lambda: sidecar_of(process.pid) is not None)
        first = sidecar_of(process.pid)
        subprocess.run(["kill", "-KILL", str(first)], check=True)
        assert eventually(lambda: sidecar_of(process.pid) not in (None, first))
        assert answers(url)
