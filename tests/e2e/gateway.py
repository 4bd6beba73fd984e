"""A real LiteLLM in front of and behind the service: client → LiteLLM → proxy → LiteLLM → model."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

MASTER_KEY = "sk-gateway-master"
PROXY_KEY = "proxy-key-of-the-handles"


def litellm_program() -> str:
    """Where the Makefile has put LiteLLM; the tests are run by ``make test``."""
    program = os.environ.get("LITELLM")
    assert program, "LITELLM is not set: run these tests with `make test`"
    return program


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
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, models: Sequence[Mapping[str, Any]], **general: Any) -> Gateway:
        """Start it and wait until it answers (it takes seven to fifteen seconds)."""
        # JSON is YAML too.
        config = {
            "model_list": list(models),
            "general_settings": {"master_key": MASTER_KEY, **general},
        }
        return self.start_from(json.dumps(config).encode(), {})

    def start_from(self, config: bytes, variables: Mapping[str, str]) -> Gateway:
        """The same with a file as it is, and with variables that it names."""
        (self._folder / "config.yaml").write_bytes(config)
        environ = {
            **variables,
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            # Its price list would be fetched from the network at every start.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        options = f"--config config.yaml --host 127.0.0.1 --port {self.port}"
        with (self._folder / "litellm.log").open("ab") as log:
            self._process = subprocess.Popen(
                [litellm_program(), *options.split()],
                cwd=self._folder,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert self._process.poll() is None, self.log[-3000:]
            try:
                if httpx.get(f"{self.url}/health/liveliness", timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError(f"LiteLLM is not up: {self.log[-3000:]}")

    @property
    def log(self) -> str:
        return (self._folder / "litellm.log").read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    stop = kill
