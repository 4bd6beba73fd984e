"""The sidecar is started without a wait, started again when it ends, and ended when it hangs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import Checkpoint
from proxy.router.config import RouterSettings, Unusable
from proxy.router.supervisor import SOCKET, Supervisor

SETTINGS = RouterSettings()
CHECKPOINT = Checkpoint(Path("/models/router"), (1, 2))
LIVELY = "import sys, time\nwhile True: sys.stdout.write('.'); sys.stdout.flush(); time.sleep(0.01)"
SILENT = "import time\ntime.sleep(600)"
SHORT = "raise SystemExit(1)"

Make = Callable[..., Supervisor]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(clock: Clock) -> Iterator[Make]:
    made: list[Supervisor] = []

    def make(code: str, find: Any = lambda _: CHECKPOINT) -> Supervisor:
        made.append(Supervisor(command=(sys.executable, "-c", code), find=find, clock=clock))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def running(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}").exists()


def test_one_for_which_int8_was_found_to_be_better_is_loaded_anew(
    supervisor: Make, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, (1, 2))
    sidecar = supervisor(LIVELY, lambda _: checkpoint)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    first = sidecar.pid
    remember(checkpoint, Calibration(1.0, 0.2, 0.1))
    sidecar.renew(SETTINGS)
    sidecar.tick()
    second = sidecar.pid
    assert second not in {None, first}
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.pid == second


def test_one_that_is_well_stays(supervisor: Make, clock: Clock) -> None:
    sidecar = supervisor(LIVELY)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    first = sidecar.pid
    for _ in range(3):
        clock.now += 1000
        assert sidecar._process is not None
        assert sidecar._process.stdout is not None
        assert eventually(sidecar._beats)
        sidecar._heard = clock.now
        sidecar.tick()
    assert sidecar.pid == first
    assert sidecar.absent == ""


def test_one_that_ends_is_started_again_later_each_time(supervisor: Make, clock: Clock) -> None:
    sidecar = supervisor(SHORT)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    address = sidecar.address

    def ended() -> bool:
        sidecar.tick()
        return sidecar.pid is None

    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert eventually(ended)
        clock.now += pause - 0.1
        sidecar.tick()
        assert sidecar.pid is None
        clock.now += 0.2
        sidecar.tick()
        assert sidecar.pid is not None
    assert sidecar.address == address


@pytest.mark.parametrize(
    ("code", "how"),
    [(SHORT, "status 1"), ("import os\nos.kill(os.getpid(), 9)", "signal 9")],
)
def test_how_it_has_ended_is_told_though_somebody_else_reaps_all_children(
    supervisor: Make, caplog: pytest.LogCaptureFixture, code: str, how: str
) -> None:
    sidecar = supervisor(code)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.pid is not None
    os.waitid(os.P_PID, sidecar.pid, os.WEXITED | os.WNOWAIT)
    sidecar.reap()
    with suppress(ChildProcessError):
        os.waitpid(sidecar.pid, 0)
    sidecar.tick()
    assert f"ended ({how}); started again in 1 s" in caplog.text


def test_one_that_is_silent_is_ended(supervisor: Make, clock: Clock) -> None:
    sidecar = supervisor(SILENT)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    first = sidecar.pid
    clock.now += 59
    sidecar.tick()
    assert running(first)
    clock.now += 2
    sidecar.tick()
    assert not running(first)
    clock.now += 2
    sidecar.tick()
    assert running(sidecar.pid)


def test_a_program_that_is_not_there_is_tried_again(clock: Clock) -> None:
    sidecar = Supervisor(command=("/nowhere/python",), find=lambda _: CHECKPOINT, clock=clock)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.pid is None
    sidecar.stop()


def test_a_reload_keeps_one_that_would_be_the_same(supervisor: Make) -> None:
    found = [CHECKPOINT, CHECKPOINT, Checkpoint(CHECKPOINT.folder, (1, 3))]
    sidecar = supervisor(SILENT, lambda _: found.pop(0))
    sidecar.renew(SETTINGS)
    sidecar.tick()
    first, address = sidecar.pid, sidecar.address
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.pid == first
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.pid != first
    assert not running(first)
    assert sidecar.address == address


def test_it_is_not_told_the_keys_of_the_service(
    supervisor: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    sidecar = supervisor(SILENT)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    environ = Path(f"/proc/{sidecar.pid}/environ")
    assert eventually(lambda: b"PATH=" in environ.read_bytes())
    assert b"sk-secret" not in environ.read_bytes()


def test_it_is_told_where_the_model_was_found(supervisor: Make) -> None:
    sidecar = supervisor(SILENT)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    command = Path(f"/proc/{sidecar.pid}/cmdline")
    assert eventually(lambda: b'"model":"/models/router"' in command.read_bytes())


def test_why_there_is_none_is_told(supervisor: Make) -> None:
    def nothing(_: RouterSettings) -> Checkpoint:
        raise Unusable("torch is not installed")

    sidecar = supervisor(SILENT, nothing)
    assert sidecar.absent == "no classifier is set up"
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.absent == "torch is not installed"
    assert sidecar.pid is None
    assert sidecar.address == ""
    sidecar.renew(None)
    assert sidecar.absent == "no classifier is set up"


def test_a_stop_leaves_nothing_behind(supervisor: Make) -> None:
    sidecar = supervisor(SILENT)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    pid, folder = sidecar.pid, Path(sidecar.address).parent
    assert folder.stat().st_mode & 0o077 == 0
    sidecar.stop()
    assert not running(pid)
    assert not folder.exists()
    sidecar.tick()
    assert sidecar.pid is None


def test_a_service_of_systemd_is_asked_in_its_runtime_directory(
    supervisor: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    # As a service that was killed leaves it.
    (tmp_path / "router").mkdir()
    sidecar = supervisor(SILENT)
    sidecar.renew(SETTINGS)
    sidecar.tick()
    assert sidecar.address == f"{tmp_path}/{SOCKET}"
    sidecar.stop()
    assert list(tmp_path.iterdir()) == []
