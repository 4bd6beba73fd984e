"""A real LiteLLM in front of and behind the service: client → LiteLLM → proxy → LiteLLM → model."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import httpx

MASTER_KEY = "sk-gateway-master"
PROXY_KEY = "proxy-key-of-the-handles"


class Forks:
    """The process that every LiteLLM of this one is a fork of."""

    def __init__(self) -> None:
        program = os.environ.get("LITELLM")
        assert program, "LITELLM is not set: run these tests with `make test`"
        self._process = subprocess.Popen(
            # The Makefile has put LiteLLM into an environment of its own.
            [Path(program).with_name("python"), Path(__file__).with_name("litellm_forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": gettempdir()},
        )
        atexit.register(self._end)

    def start(self, folder: Path, options: str, variables: Mapping[str, str]) -> int:
        """A LiteLLM in ``folder``: its pid."""
        asked = {"folder": str(folder), "words": options.split(), "variables": variables}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def _end(self) -> None:
        self._process.communicate()


@cache
def forks() -> Forks:
    """Started for the first LiteLLM; it ends with this process."""
    return Forks()


def base_model(name: str, upstream: str) -> dict[str, Any]:
    """A LiteLLM entry that goes straight to a backend."""
    return _entry(name, {"model": f"openai/{name}", "api_base": upstream, "api_key": "none"})


def handle(name: str, selector: str, proxy: str, **params: Any) -> dict[str, Any]:
    """A LiteLLM entry that goes to the service, with what an operator has to set on it."""
    entry = _entry(
        name,
        {
            "model": f"openai/{selector}",
            "api_base": f"{proxy}/v1",
            "api_key": PROXY_KEY,
            "num_retries": 0,
            "cooldown_time": 0,
            "timeout": 900,
            "stream_timeout": 120,
            "keepalive_seconds": 15,
            **params,
        },
    )
    entry["model_info"] = {"mode": "chat", "health_check_model": "openai/optictl-health"}
    return entry


def _entry(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": dict(params)}


class Gateway:
    """One LiteLLM process."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._process: int | None = None  # its descriptor
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, models: Sequence[Mapping[str, Any]], **general: Any) -> Gateway:
        """Start it and wait until it answers."""
        # JSON is YAML too.
        config = {
            "model_list": list(models),
            "general_settings": {"master_key": MASTER_KEY, **general},
        }
        return self.start_from(json.dumps(config).encode(), {})

    def start_from(self, config: bytes, variables: Mapping[str, str]) -> Gateway:
        """The same with a file as it is, and with variables that it names."""
        (self._folder / "config.yaml").write_bytes(config)
        environ = {**variables, "PATH": os.environ["PATH"], "HOME": str(self._folder)}
        options = f"--config config.yaml --host 127.0.0.1 --port {self.port}"
        self._process = os.pidfd_open(forks().start(self._folder, options, environ))
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert not self._ended(within=0.05), self.log[-3000:]
            try:
                if httpx.get(f"{self.url}/health/liveliness", timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                continue
        raise AssertionError(f"LiteLLM is not up: {self.log[-3000:]}")

    @property
    def log(self) -> str:
        return (self._folder / "litellm.log").read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            assert self._ended(within=10)
            os.close(self._process)
            self._process = None

    stop = kill

    def _ended(self, within: float) -> bool:
        """A descriptor of a process is readable once that has ended."""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        return bool(poll.poll(within * 1000))
