"""When the head of a stream leaves: with the first reply, or once the router has chosen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SPLIT, InProcess, MakeProxy, content_of, events
from driving import app_with, example

from optictl.simulator import Fault, SimulatorThread
from proxy.chat import Chat, Reply
from proxy.llm import LLM
from proxy.router import ladder as rungs
from proxy.run import stream

Approach = Callable[..., Any]

OPEN = "Which number comes to mind?"


@pytest.fixture(autouse=True)
def no_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is sure: the router draws samples."""
    monkeypatch.setattr(rungs.linear, "shares", lambda _: None)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens a stream is not the time."""
    monkeypatch.setattr(stream, "HOLD_HEAD", 60.0)


@pytest.fixture
def spread(sim: SimulatorThread) -> None:
    """The samples come one after another, and do not agree."""
    sim.behave(latency=0.1, sigma=1.0, **SPLIT)


def asked(proxy: InProcess, model: str, **members: Any) -> tuple[str | None, str]:
    """The header as it left, and the whole body."""
    response = proxy.ask(model, OPEN, stream=True, **members)
    assert response.status_code == 200, response.text
    return response.headers.get("x-optillm-router"), response.get_data(as_text=True)


def waiting_for_the_head(*, notes: bool = True) -> tuple[threading.Event, Approach]:
    """An approach that has got a reply, and says no more until the head of its stream has left."""
    left = threading.Event()

    @example
    async def waiting(chat: Chat, llm: LLM) -> Reply:
        await llm.answer(chat.messages)
        if notes:
            llm.note("a reply is here")
        assert await asyncio.to_thread(left.wait, 30), "the head is held"
        return Reply.of("done")

    return left, waiting


@pytest.mark.usefixtures("patient", "spread")
class TestTheHeadWaitsForTheRouter:
    @pytest.mark.parametrize(
        "model",
        ["router-sim", "re2&router-sim", "cot_reflection&router-sim", "router&cot_reflection-sim"],
    )
    def test_alone_and_in_a_pipeline(self, proxy: InProcess, model: str) -> None:
        header, body = asked(proxy, model)
        assert header is not None
        assert header.startswith("self_consistency; source=probe; confidence=0.")
        assert content_of(events(body))

    def test_with_what_is_told_meanwhile(self, proxy: InProcess) -> None:
        header, body = asked(proxy, "router-sim", optillm_trace=True)
        assert header is not None
        assert "source=probe" in header
        # The first call was sent long before the choice, and is told behind the role.
        parts = body.split("\n\n")
        assert '"role":"assistant"' in parts[0]
        assert parts[1].startswith(": call ")
        assert body.index(": call ") < body.index(": router: ")

    def test_beside_another_branch(self, make_proxy: MakeProxy) -> None:
        left, waiting = waiting_for_the_head()
        proxy = app_with(make_proxy, waiting)
        response = proxy.ask("example|router-sim", OPEN, stream=True)
        left.set()
        assert "source=probe" in response.headers["x-optillm-router"]
        body = response.get_data(as_text=True)
        assert body.index('"role":"assistant"') < body.index(": a reply is here")
        assert content_of(events(body), 0) == "done"
        assert content_of(events(body), 1)


@pytest.mark.usefixtures("spread")
def test_but_not_for_long(proxy: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HOLD_HEAD", 0.0)
    monkeypatch.setattr(stream, "HOLD_ROUTED", 0.0)
    header, body = asked(proxy, "router-sim")
    assert header is None
    assert events(body)[-2]["optillm"]["router"]["source"] == "probe"


@pytest.mark.usefixtures("spread")
def test_for_samples_longer_than_for_a_reply(
    proxy: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HOLD_HEAD", 0.001)
    header, _ = asked(proxy, "router-sim")
    assert header is not None
    assert "source=probe" in header


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("members", [{}, {"optillm_trace": True}, {"optillm_progress": True}])
def test_an_error_before_the_first_reply_has_its_status(
    proxy: InProcess, sim: SimulatorThread, members: dict[str, Any]
) -> None:
    sim.behave(faults=(Fault(400),))
    response = proxy.ask("router-sim", "Hello", stream=True, **members)
    assert response.status_code == 400


@pytest.mark.usefixtures("patient")
def test_without_a_router_it_leaves_with_the_first_reply(make_proxy: MakeProxy) -> None:
    left, waiting = waiting_for_the_head(notes=False)
    response = app_with(make_proxy, waiting).ask("example-sim", OPEN, stream=True)
    left.set()
    assert "x-optillm-router" not in response.headers
    assert content_of(events(response.get_data(as_text=True))) == "done"
