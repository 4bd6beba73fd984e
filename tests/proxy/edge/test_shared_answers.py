"""Answers that are shared, as clients see them: the word for it, the bill, and whose they are."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, content_of, events, eventually

from optictl.simulator import Behaviour, SimulatorThread
from proxy.settings import Limits, Sharing
from proxy.upstream.config import PoolConfig, ProviderConfig

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


def streamed(proxy: InProcess, **members: Any) -> list[Any]:
    """The events of a stream."""
    return events(ask(proxy, **members).get_data(as_text=True))


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

    @pytest.mark.parametrize("model", ["none-sim", "re2-sim"])
    def test_of_a_stream_is_the_same_stream_without_its_bill(
        self, make_proxy: MakeProxy, sim: SimulatorThread, model: str
    ) -> None:
        proxy = make_proxy(sharing=CACHE)
        options = {"include_usage": True}
        paid, free = (
            streamed(proxy, model=model, stream=True, stream_options=options) for _ in range(2)
        )
        assert len(sim.log.records) == 1
        assert content_of(free) == content_of(paid) != ""
        assert len(free) == len(paid)
        (*_, costly, _), (*_, last, done) = paid, free
        assert done == "[DONE]"
        assert (costly["optillm"]["calls"], last["optillm"]["calls"]) == (1, 0)
        assert last["optillm"]["shared"] == {"cache": 1}
        assert (costly["usage"]["total_tokens"] > 0, last["usage"]["total_tokens"]) == (True, 0)

    def test_of_a_stream_is_no_answer_in_json(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        proxy = make_proxy(sharing=CACHE)
        ask(proxy)
        streamed(proxy, stream=True)
        assert ask(proxy).headers["x-optillm-shared"] == "cache"
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

    def test_of_streams_is_one_word_for_word(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=50, latency=0.1, chunk_interval=0.02)
        proxy = make_proxy(sharing=FLIGHT)
        answers = side_by_side(proxy, *({"stream": True} for _ in range(3)))
        assert len(sim.log.records) == 1
        said = [answer.get_data(as_text=True).split("\n\n") for answer in answers]
        # What follows the words tells whose call it was.
        assert len({tuple(each[:-3]) for each in said}) == 1
        ends = [events("\n\n".join(each))[-2]["optillm"] for each in said]
        assert sorted(end["calls"] for end in ends) == [0, 0, 1]
        assert [end.get("shared") for end in ends if not end["calls"]] == [{"flight": 1}] * 2

    def test_a_client_that_leaves_its_stream_to_another(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=100, chunk_interval=0.02)
        proxy = make_proxy(sharing=FLIGHT)
        leaving = ask(proxy, stream=True)
        next(iter(leaving.response))
        staying = ask(InProcess(proxy.app), stream=True)
        leaving.close()
        told = events(staying.get_data(as_text=True))
        assert told[-2]["optillm"]["calls"] == 1
        (call,) = sim.log.records
        assert call.content == content_of(told)
        assert not call.peer_left

    def test_clients_that_all_leave_their_stream_end_it(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(tokens=1000, chunk_interval=0.02)
        proxy = make_proxy(sharing=FLIGHT)
        for answer in [ask(InProcess(proxy.app), stream=True) for _ in range(3)]:
            assert sim.log.inflight == 1
            answer.close()
        assert eventually(lambda: sim.log.inflight == 0)
        (call,) = sim.log.records
        assert call.peer_left

    def test_whoever_runs_out_of_time_leaves_the_call_to_the_others(
        self, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=2.5)
        proxy = make_proxy(sharing=FLIGHT)
        hurried: list[Any] = []

        def leave() -> None:
            body = {"temperature": 0, "optillm_budget": {"max_seconds": 1.2}}
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_late_is_made_elsewhere_and_given_up(
    make_proxy: MakeProxy, sim: SimulatorThread, stream: bool
) -> None:
    with SimulatorThread(Behaviour()) as other:
        providers = tuple(ProviderConfig(name, on.url) for name, on in (("p", sim), ("q", other)))
        pool = PoolConfig(providers, strategy="failover")
        proxy = make_proxy(base_url="", pool=pool, sharing=Sharing(hedge=True))
        for _ in range(20):
            ask(proxy, stream=stream).get_data()
        sim.reset()
        sim.behave(latency=60.0)
        answer = ask(proxy, stream=stream, optillm_trace=True)
        told = events(answer.get_data(as_text=True))[-2] if stream else answer.json
        assert [call["provider"] for call in told["optillm"]["trace"]] == ["p", "q"]
        assert [call["why"] for call in told["optillm"]["trace"]] == ["overtaken", None]
        assert eventually(lambda: sim.log.inflight == 0)
        (call,) = sim.log.records
        assert call.peer_left
        assert len(other.log.records) == 1
