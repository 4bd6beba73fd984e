"""Answers that are shared, as clients see them: the word for it, the bill, and whose they are."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of, eventually

from optictl.simulator import SimulatorThread
from proxy.settings import Limits, Sharing

CACHE = Sharing(cache_ttl=60.0)
FLIGHT = Sharing(single_flight=True)


def ask(proxy: InProcess, key: str = "alice", **members: Any) -> Any:
    body = {
        "model": "sim",
        "messages": [{"role": "user", "content": "What is 17 * 23?"}],
        "temperature": 0,
        **members,
    }
    response = proxy.post(json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200, response.text
    return response


def side_by_side(proxy: InProcess, *requests: dict[str, Any]) -> list[Any]:
    """The answers of requests that are under way together."""
    answers: list[Any] = [None] * len(requests)

    def one(index: int) -> None:
        # A client of its own: Flask's is for one thread.
        client = InProcess(proxy.app)
        answers[index] = ask(client, **requests[index])

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


class TestCache:
    @pytest.mark.parametrize("model", ["sim", "none-sim", "re2-sim"])
    def test_says_so_and_costs_nothing(
        self, make_proxy: MakeProxy, sim: SimulatorThread, model: str
    ) -> None:
        proxy = make_proxy(sharing=CACHE)
        paid, free = ask(proxy, model=model), ask(proxy, model=model)
        assert len(sim.log.records) == 1
        assert free.json["choices"] == paid.json["choices"]
        assert paid.json["usage"]["total_tokens"] > 0
        assert free.json["usage"]["total_tokens"] == 0
        assert free.json["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
        assert "shared" not in paid.json["optillm"]
        assert "x-optillm-shared" not in paid.headers
        told = free.json["optillm"]
        assert (told["calls"], told["rounds"], told["unreported_calls"]) == (0, 0, 0)
        assert told["shared"] == {"cache": 1}
        assert (free.headers["x-optillm-shared"], free.headers["x-optillm-calls"]) == ("cache", "0")

    def test_is_no_one_else_s(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        proxy = make_proxy(sharing=CACHE)
        for key in ("alice", "bob", "alice", "bob"):
            ask(proxy, key)
        assert len(sim.log.records) == 2

    def test_is_seen_in_the_trace(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(sharing=CACHE)
        traces = [ask(proxy, optillm_trace=True).json["optillm"]["trace"] for _ in range(2)]
        made, shared = (trace[0] for trace in traces)
        assert (made["provider"], made["shared"], made["outcome"]) == ("upstream", False, "ok")
        assert (shared["provider"], shared["shared"], shared["outcome"]) == ("cache", True, "ok")
        assert (shared["prompt_tokens"], shared["completion_tokens"]) == (0, 0)

    def test_a_request_that_needs_more_than_it_finds_says_how_much(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = make_proxy(sharing=CACHE)
        ask(proxy, model="re2-sim")
        answered = ask(proxy, model="none|re2-sim")
        assert answered.json["optillm"]["shared"] == {"cache": 1}
        assert answered.json["optillm"]["calls"] == 1
        assert "x-optillm-shared" not in answered.headers

    def test_no_budget_is_spent_on_it(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(sharing=CACHE, limits=Limits(max_total_tokens=100_000))
        budget = {"max_calls": 1}
        for _ in range(2):
            answered = ask(proxy, optillm_budget=budget)
            assert answered.json["optillm"]["exhausted"] is None

    @pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
    def test_lasts_as_long_whatever_the_clock_on_the_wall_does(
        self,
        make_proxy: MakeProxy,
        sim: SimulatorThread,
        monkeypatch: pytest.MonkeyPatch,
        jump: float,
    ) -> None:
        proxy = make_proxy(sharing=CACHE)
        ask(proxy)
        at = time.time()
        monkeypatch.setattr(time, "time", lambda: at + jump)
        assert ask(proxy).headers["x-optillm-shared"] == "cache"
        assert len(sim.log.records) == 1

    def test_streams_are_asked_for(self, make_proxy: MakeProxy, sim: SimulatorThread) -> None:
        proxy = make_proxy(sharing=CACHE)
        for _ in range(2):
            assert content_of(proxy.stream(temperature=0))
        assert len(sim.log.records) == 2

    def test_is_off_unless_it_is_asked_for(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = make_proxy()
        assert [ask(proxy).json["optillm"]["calls"] for _ in range(2)] == [1, 1]
        assert len(sim.log.records) == 2


class TestSingleFlight:
    def test_one_pays_and_the_others_say_so(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=1.0)
        proxy = make_proxy(sharing=FLIGHT)
        answers = side_by_side(proxy, {}, {}, {}, {"key": "bob"})
        assert len(sim.log.records) == 2
        assert sorted(answer.json["optillm"]["calls"] for answer in answers) == [0, 0, 1, 1]
        for answer in answers:
            calls, tokens = answer.json["optillm"]["calls"], answer.json["usage"]["total_tokens"]
            assert bool(tokens) == bool(calls)
            assert answer.headers.get("x-optillm-shared") == (None if calls else "flight")

    def test_whoever_runs_out_of_time_leaves_the_call_to_the_others(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=1.5)
        proxy = make_proxy(sharing=FLIGHT)
        hurried: list[Any] = []

        def leave() -> None:
            body = {"temperature": 0, "optillm_budget": {"max_seconds": 0.5}}
            hurried.append(InProcess(proxy.app).ask(**body))

        leaving = threading.Thread(target=leave)
        leaving.start()
        assert eventually(lambda: bool(sim.log.records))
        staying = proxy.ask(temperature=0)
        leaving.join(60)
        assert hurried[0].status_code == 504
        assert staying.json["optillm"]["calls"] == 1
        assert staying.json["usage"]["total_tokens"] > 0
        (call,) = sim.log.records
        assert not call.peer_left


@pytest.mark.parametrize("stream", [False, True])
def test_batches_leave_together(make_proxy: MakeProxy, sim: SimulatorThread, stream: bool) -> None:
    """Each would wait a minute for another one; no pair waits for the answers of the other."""
    proxy = make_proxy(sharing=Sharing(batch_size=2, batch_wait=60.0))
    answers = side_by_side(proxy, *({"stream": stream} for _ in range(4)))
    assert all(answer.get_data() for answer in answers)
    assert len(sim.log.records) == 4
