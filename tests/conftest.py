"""Fixtures: a simulated upstream, the app in this process, and the real service as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest
import trustme
import typer.main
from hypothesis import HealthCheck, settings
from jinja2 import Environment, FileSystemBytecodeCache

from benchmarks.processes import free_port
from optictl import render
from optictl.simulator import Behaviour, SimulatorThread
from proxy.app import App, create_app
from proxy.registry import Registry
from proxy.settings import Settings

# A loaded machine is no finding, and a suite that gates a merge asks the same questions each time.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# A shell gives what it runs in the background an ignored SIGINT, which commands would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing to test where there is no compiler: not a skip, which a run that gates a merge refuses.
collect_ignore = [] if which("cc") else ["router/test_compiled_steps.py"]

QUESTION = "What is 17 * 23?"
#: No sample is right, and hardly two are alike.
SPLIT: Mapping[str, Any] = {"probability": 0.0, "distractors": (1.0,) * 50}


def chat_body(model: str = "sim", content: Any = QUESTION, **members: Any) -> dict[str, Any]:
    """A chat completion request of one user turn."""
    return {"model": model, "messages": [{"role": "user", "content": content}], **members}


def events(stream: str) -> list[Any]:
    """The data of a server-sent event stream: parsed JSON, and "[DONE]" as it is."""
    data = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def content_of(chunks: list[Any], index: int = 0) -> str:
    """The text that a stream's chunks say for one choice."""
    choices = (c for chunk in chunks if chunk != "[DONE]" for c in chunk.get("choices", ()))
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


def eventually(condition: Callable[[], bool], within: float = 30.0) -> bool:
    """Whether ``condition`` comes true in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture(scope="session", autouse=True)
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is the same for all tests, and takes longer than most of them."""
    folder = tmp_path_factory.mktemp("prepared")
    authority = folder / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    with pytest.MonkeyPatch.context() as patch:
        # Each HTTP client would read the certificates of all the world's authorities.
        patch.setenv("SSL_CERT_FILE", str(authority))
        # Each command line would be inspected for what all of our commands take.
        inspected = typer.main.get_params_from_function
        patch.setattr(typer.main, "get_params_from_function", cache(inspected))
        # Each site would compile the same templates.
        compiled = FileSystemBytecodeCache(str(folder))
        patch.setattr(render, "Environment", partial(Environment, bytecode_cache=compiled))
        yield


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that no system knows."""
    return trustme.CA()


@pytest.fixture
def ca_bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def sim() -> Iterator[SimulatorThread]:
    """A simulated upstream without latency that is always right."""
    with SimulatorThread(Behaviour()) as simulator:
        yield simulator


class InProcess:
    """The app with its engine running, without a server in front."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.http = app.test_client()

    def post(self, path: str = "/v1/chat/completions", **kwargs: Any) -> Any:
        return self.http.post(path, **kwargs)

    def ask(self, model: str = "sim", content: Any = QUESTION, **members: Any) -> Any:
        """One chat request; the response with ``.json`` and ``.status_code``."""
        return self.post(json=chat_body(model, content, **members))

    def text(self, model: str = "sim", content: Any = QUESTION, **members: Any) -> str:
        """The answer's text of a request that must succeed."""
        response = self.ask(model, content, **members)
        assert response.status_code == 200, response.text
        text: str = response.json["choices"][0]["message"]["content"]
        return text

    def stream(self, model: str = "sim", content: Any = QUESTION, **members: Any) -> list[Any]:
        """The events of a streamed request that must begin well."""
        response = self.ask(model, content, stream=True, **members)
        assert response.status_code == 200, response.text
        return events(response.get_data(as_text=True))


MakeProxy = Callable[..., InProcess]


@pytest.fixture
def make_proxy(sim: SimulatorThread) -> Iterator[MakeProxy]:
    """Make the app in front of ``sim`` with any `Settings`, and any registry."""
    with ExitStack() as running:

        def make(registry: Registry | None = None, **settings: Any) -> InProcess:
            app = create_app(
                Settings(**{"base_url": sim.url, "model": "sim", **settings}), registry
            )
            app.engine.start()
            running.callback(app.engine.stop)
            return InProcess(app)

        yield make


@pytest.fixture
def proxy(make_proxy: MakeProxy) -> InProcess:
    """The app in front of ``sim`` with default settings."""
    return make_proxy()


class Service:
    """``optictl serve`` as a process."""

    def __init__(
        self, command: list[str], port: int, log: Path, env: dict[str, str], **popen: Any
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log_file = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env=env, stdout=out, stderr=subprocess.STDOUT, **popen
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_healthy(self, within: float = 60.0) -> Service:
        end = time.monotonic() + within
        while time.monotonic() < end:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log}"
            try:
                if httpx.get(f"{self.url}/health", timeout=1.0).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"not healthy within {within} s: {self.log}")

    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, within: float = 60.0) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise


def start_process(
    flags: list[str],
    log: Path,
    *,
    script: Path | None = None,
    env: dict[str, str] | None = None,
    **popen: Any,
) -> Service:
    """``optictl serve``, or a script that serves otherwise, on a free port."""
    port = free_port()
    program = [str(script)] if script else ["-c", "from optictl.cli import main; main()", "serve"]
    command = [sys.executable, *program, "--port", str(port), *flags]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPTILLM", "OPENAI"))}
    return Service(command, port, log, {**clean, **(env or {})}, **popen)


StartService = Callable[..., Service]


@pytest.fixture
def start_service(sim: SimulatorThread, tmp_path: Path) -> Iterator[StartService]:
    """Start the real service in front of ``sim`` with any flags; all are stopped in the end."""
    services: list[Service] = []

    def start(
        *flags: str,
        script: Path | None = None,
        env: dict[str, str] | None = None,
        healthy: bool = True,
        **popen: Any,
    ) -> Service:
        upstream = [] if "--base-url" in flags else ["--base-url", sim.url]
        log = tmp_path / f"service-{len(services)}.log"
        service = start_process([*upstream, *flags], log, script=script, env=env, **popen)
        services.append(service)
        return service.wait_healthy() if healthy else service

    yield start
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait(5)
