"""A real LiteLLM and the real service on a site of files, as the commands find and leave it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from conftest import QUESTION, Service, free_port
from gateway import MASTER_KEY, Gateway

from optictl.ensemble_listing import listed
from optictl.ensembling import refuse_loops, switched
from optictl.errors import GatewayFailed
from optictl.foreground import foreground
from optictl.install import Done, install_site
from optictl.machine import Machine
from optictl.simulator import Behaviour, SimulatorThread
from optictl.site_loading import load
from optictl.system import RealSystem
from optictl.systemd import Unit
from optictl.unit_file import environment_file

NAME = "opt-chat-balanced-m"
MEMBERS = {"mlx-large", "mlx-medium", "mlx-small"}
AUTHORIZED = {"Authorization": f"Bearer {MASTER_KEY}"}
HANDLES = b'{"handle": "mlx-large", "notes": "theirs"}\r\n'


class Manager:
    """Of systemd's part only this matters here: every unit runs as soon as it is there."""

    scope = "user"

    def __init__(self) -> None:
        self.known = False

    def show(self, unit: str) -> Unit:
        if not self.known:
            return Unit(unit)
        return Unit(unit, load="loaded", active="active", sub="running", file_state="enabled")

    def daemon_reload(self) -> None:
        self.known = True

    def journal(self, *units: str, lines: int = 10) -> list[str]:
        return []

    def journal_command(self, *units: str) -> list[str]:
        return ["journalctl"]

    def _nothing(self, *units: str) -> None: ...

    enable = disable = start = stop = restart = reload = reset_failed = _nothing

    def make_user(self, name: str, home: Path) -> None: ...


class World:
    """Three base models behind LiteLLM, and the service in front of it again."""

    def __init__(self, folder: Path, sim: SimulatorThread, stack: ExitStack) -> None:
        self.sim, self.stack, self.folder = sim, stack, folder
        self.port, self.gateway = free_port(), Gateway(free_port(), folder / "litellm")
        # Where LiteLLM reads it: what it includes stands beside it.
        self.router, self.env = folder / "litellm/config.yaml", folder / "env.local"
        self.models = folder / "litellm/optictl_models.yaml"
        self.handles = folder / "handles.jsonl"
        self.told: list[str] = []
        self.comes_back = True
        self._proxy: Service | None = None
        entries = "".join(
            f"  # {name}\n  - model_name: {name}\n    litellm_params:\n"
            f"      {{model: openai/{name}, api_base: {sim.url}, api_key: none}}\n"
            for name in sorted(MEMBERS)
        )
        settings = "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}"
        self.router.write_text(f"# theirs\nmodel_list:\n{entries}{settings}")
        self.env.write_text(f"LITELLM_MASTER_KEY={MASTER_KEY}\r\nX=1")
        self.handles.write_bytes(HANDLES)
        (folder / "optictl.yaml").write_text(
            "service: {scope: user}\n"
            f"proxy: {{base_model: mlx-medium, port: {self.port}}}\n"
            f"upstream:\n  base_url: {self.gateway.url}/v1\n"
            f"  key: {{env_file: {self.env}, name: LITELLM_MASTER_KEY}}\n"
            f"gateway:\n  router: {self.router}\n  env_file: {self.env}\n"
            f"  handles: {self.handles}\n  base_url: {self.gateway.url}/v1\n"
            f"  master_key: {{env_file: {self.env}, name: LITELLM_MASTER_KEY}}\n"
            "models: {large: mlx-large, medium: mlx-medium, small: mlx-small}\n"
        )
        self.manager = Manager()
        self.machine = self.declared()

    def declared(self) -> Machine:
        loaded = load(self.folder / "optictl.yaml", {})
        return Machine(
            loaded, RealSystem(), self.manager, systemd=252, restart_gateway=self.restart
        )

    def start_anew(self) -> None:
        """The service knows its files only from a start: without systemd nobody reloads it."""
        assert self._proxy is not None
        self._proxy.process.kill()
        self._proxy.process.wait(10)
        self._proxy = None
        self.machine = self.declared()

    def include(self, line: bytes = b"") -> None:
        """Our models in a file of ours; ``line``: theirs, which includes it."""
        site = self.folder / "optictl.yaml"
        site.write_text(site.read_text().replace("gateway:", "gateway:\n  mode: include"))
        self.router.write_bytes(line + self.router.read_bytes())
        self.machine = self.declared()

    def files(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.router, self.env, self.handles)]

    def restart(self, tell: Callable[[str], None]) -> None:
        """LiteLLM with its files as they are, and the service as the unit would start it."""
        self.gateway.kill()
        if not self.comes_back:
            self.comes_back = True
            raise GatewayFailed("the gateway has not come back within 1 s")
        self.gateway.start_from(self.router.read_bytes(), environment_file(self.env.read_bytes()))
        if self._proxy is None:
            service = self.stack.enter_context(foreground(self.machine))
            program = [sys.executable, "-c", "from optictl.cli import main; main()"]
            environ = {**os.environ, **service.variables}
            log = self.folder / "proxy.log"
            self._proxy = Service([*program, *service.words], self.port, log, environ)
            self.stack.callback(self._proxy.process.wait, 10)
            self.stack.callback(self._proxy.process.kill)
            self._proxy.wait_healthy()

    def switch(self, name: str = NAME, *, off: bool = False) -> Done:
        return self.install(switched(self.machine.anew(), name, off=off))

    def route(self, *, off: bool = False) -> Done:
        return self.install(self.machine.anew().routed_as(not off))

    def install(self, changed: Machine) -> Done:
        return install_site(
            changed,
            agree=lambda proposal: refuse_loops(changed, proposal),
            tell=self.told.append,
            note="test",
        )

    def state(self) -> str:
        """What the list of ensembles says of it."""
        [found] = listed(self.machine.anew(), NAME)
        return found.state

    def ask(self, model: str) -> httpx.Response:
        return httpx.post(
            f"{self.gateway.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": QUESTION}]},
            headers=AUTHORIZED,
            timeout=60,
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with SimulatorThread(Behaviour(latency=0)) as sim, ExitStack() as stack:
        made = World(tmp_path, sim, stack)
        stack.callback(made.gateway.stop)
        yield made
