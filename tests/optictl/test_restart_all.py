"""``optictl restart --all``: in order, each waited for, no further than the first that fails."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator

import httpx
import pytest
from boxes import MakeBox, make_box
from fake_manager import FakeManager
from typer.testing import CliRunner

from optictl.box import Box
from optictl.cli import build
from optictl.errors import NeedsRoot, UnitFailed, UnknownUnit, UsageError
from optictl.restart_all import restart_all
from optictl.systemd import Unit

__all__ = ["make_box"]  # a fixture, used by name

ORDER = ("litellm.service", "optillm-proxy.service", "open-webui.service")
SITE = f"""
proxy: {{base_model: sim}}
restart_order: [{", ".join(ORDER)}]
neighbours:
  - {{name: LiteLLM, url: "http://127.0.0.1:4000/health/liveliness", unit: litellm.service}}
  - {{name: search, url: "http://127.0.0.1:8888"}}
"""


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


def units() -> list[Unit]:
    return [Unit(name, load="loaded", active="active", sub="running") for name in ORDER]


class Clock:
    """Time passes while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def manager_of(box: Box) -> FakeManager:
    assert isinstance(box.machine.manager, FakeManager)
    return box.machine.manager


def answers(*statuses: int) -> httpx.MockTransport:
    """These, then the last for ever."""
    left: Iterator[int] = iter(statuses)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(next(left, statuses[-1]))

    return httpx.MockTransport(answer)


def test_in_order_each_waited_for(make_box: MakeBox) -> None:
    said: list[str] = []
    clock = Clock()
    box = make_box(SITE, units=units(), at={"http://127.0.0.1:4000": answers(503, 503, 200)})
    done = restart_all(box, said.append, clock=clock, sleep=clock.sleep)
    assert [each.unit for each in done] == list(ORDER)
    assert manager_of(box).changes == [
        (verb, name) for name in ORDER for verb in ("reset_failed", "restart")
    ]
    where = "HTTP 503, not 200, at http://127.0.0.1:4000/health/liveliness"
    assert said == [
        "litellm.service: restarting",
        f"litellm.service: waiting: LiteLLM: {where}",
        "litellm.service: ok",
        "optillm-proxy.service: restarting",
        "optillm-proxy.service: ok",
        "open-webui.service: restarting",
        "open-webui.service: ok",
    ]
    assert clock.now == 0.5


def test_one_that_does_not_answer_stops_it(make_box: MakeBox) -> None:
    clock = Clock()
    box = make_box(SITE, units=units(), at={"http://127.0.0.1:4000": answers(503)})
    with pytest.raises(UnitFailed) as failed:
        restart_all(box, lambda text: None, timeout=30, clock=clock, sleep=clock.sleep)
    first, last = str(failed.value).splitlines()
    assert first.startswith("litellm.service is restarted, and after 30 s still: LiteLLM: HTTP 503")
    assert first.endswith("its log: journalctl -u litellm.service")
    assert last == "not restarted: optillm-proxy.service, open-webui.service"
    assert clock.now >= 30
    assert ("restart", "optillm-proxy.service") not in manager_of(box).changes


def test_one_that_does_not_come_up_stops_it(make_box: MakeBox) -> None:
    manager = FakeManager(*units(), fails={"restart"}, said=["no such model"])
    box = make_box(SITE, manager=manager)
    with pytest.raises(UnitFailed, match=r"no such model\nnot restarted: optillm-proxy"):
        restart_all(box, lambda text: None)


def test_one_that_dies_while_it_is_waited_for_is_not_waited_for_longer(
    make_box: MakeBox,
) -> None:
    clock = Clock()
    box = make_box(SITE, units=units(), at={"http://127.0.0.1:4000": answers(503)})
    manager = manager_of(box)

    def dies(seconds: float) -> None:
        clock.sleep(seconds)
        manager.units[ORDER[0]] = Unit(ORDER[0], load="loaded", active="failed", result="exit-code")

    with pytest.raises(UnitFailed, match=r"litellm\.service failed \(exit-code\)"):
        restart_all(box, lambda text: None, clock=clock, sleep=dies)
    assert clock.now < 1


def test_a_unit_that_there_is_not_is_told_before_anything_restarts(
    make_box: MakeBox,
) -> None:
    box = make_box(SITE, units=units()[:2])
    with pytest.raises(UnknownUnit, match=r"no open-webui\.service.*Nothing was restarted"):
        restart_all(box, lambda text: None)
    assert manager_of(box).changes == []


def test_a_site_without_an_order_cannot_be_meant(make_box: MakeBox) -> None:
    with pytest.raises(UsageError, match="names no unit in restart_order"):
        restart_all(make_box(), lambda text: None)


def test_only_root_may(make_box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    box = make_box(SITE, units=units())
    with pytest.raises(NeedsRoot):
        restart_all(box, lambda text: None)
    assert manager_of(box).changes == []


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_tells_how_far_it_is_and_answers_in_json(
    make_box: MakeBox, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    site = "proxy: {base_model: sim}\nrestart_order: [litellm.service]"
    box = make_box(site, units=units())
    command = importlib.import_module("optictl.commands.restart")
    monkeypatch.setattr(command, "open_machine", lambda *given, **more: box.machine)
    result = CliRunner().invoke(build(), ["restart", "--all", *(["--json"] if as_json else [])])
    assert result.exit_code == 0
    assert result.stderr == "litellm.service: restarting\nlitellm.service: ok\n"
    if as_json:
        found = json.loads(result.stdout)
        assert found["data"] == [{"unit": "litellm.service", "outcome": "restarted"}]
    else:
        assert result.stdout == ""
