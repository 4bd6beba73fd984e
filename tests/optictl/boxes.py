"""A `Box` around a machine in memory, with any services in the place of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_manager import FakeManager

from optictl.box import Box
from optictl.checking import Checked, chosen, discover, run_checks
from optictl.fake_system import FakeSystem
from optictl.machine import Machine
from optictl.site_loading import load
from optictl.systemd import Unit

PID = 4242
SERVICE = Unit(
    "optillm-proxy.service",
    load="loaded",
    active="active",
    sub="running",
    file_state="enabled",
    main_pid=PID,
    since="Sat 2026-11-21 06:00:00 UTC",
    status_text="1 worker",
)
SOCKET = Unit(
    "optillm-proxy.socket", load="loaded", active="active", sub="running", file_state="enabled"
)
PROXY = "http://127.0.0.1:4020"

Answer = Callable[[httpx.Request], httpx.Response]
MakeBox = Callable[..., Box]


def refuse(request: httpx.Request) -> httpx.Response:
    """Nobody listens there."""
    raise httpx.ConnectError("[Errno 111] Connection refused", request=request)


@pytest.fixture
def make_box(tmp_path: Path) -> Iterator[MakeBox]:
    """Make a box of a site's text, units, and who answers at which address."""
    boxes: list[Box] = []

    def make(
        site: str = "proxy: {base_model: sim}",
        *,
        units: Sequence[Unit] = (SERVICE, SOCKET),
        manager: FakeManager | bool | None = True,
        at: Mapping[str, Answer | httpx.BaseTransport] | None = None,
        environ: Mapping[str, str] | None = None,
        run: Callable[[Sequence[str]], str] = lambda command: "",
        proc: Path | None = None,
        timeout: float = 5.0,
    ) -> Box:
        path = tmp_path / "optictl.yaml"
        path.write_text(site)
        mounts: dict[str, httpx.BaseTransport | None] = {
            url: each if isinstance(each, httpx.BaseTransport) else httpx.MockTransport(each)
            for url, each in (at or {}).items()
        }
        machine = Machine(
            load(path, {}),
            FakeSystem(),
            FakeManager(*units) if manager is True else (manager or None),
            systemd=252,
        )
        http = httpx.Client(
            mounts=mounts, transport=httpx.MockTransport(refuse), timeout=timeout, trust_env=False
        )
        boxes.append(
            Box(
                machine,
                timeout=timeout,
                environ=environ or {},
                http=http,
                proc=proc or tmp_path / "proc",
                run=run,
            )
        )
        return boxes[-1]

    yield make
    for box in boxes:
        box.http.close()


def install(box: Box) -> FakeSystem:
    """Every file of the site, as it should be; the disk that they are on."""
    system = disk(box)
    for artifact in box.machine.artifacts:
        system.put(artifact.path, artifact.content, artifact.mode)
    return system


def disk(box: Box) -> FakeSystem:
    assert isinstance(box.machine.system, FakeSystem)
    return box.machine.system


def found(name: str, box: Box) -> Any:
    """What the check of this name finds."""
    return checked(name, box).finding


def checked(name: str, box: Box) -> Checked:
    [each] = run_checks(chosen(discover(), [name]), box)
    return each
