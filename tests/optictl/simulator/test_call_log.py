"""The log counts what happened at the upstream, hang-ups included."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from optictl.simulator import Behaviour, CallLog, Simulator, SimulatorThread

MESSAGES = [{"role": "user", "content": "What is 17 * 23 + 5?"}]


async def ask(http: aiohttp.ClientSession, sim: Simulator, **more: Any) -> None:
    body = {"model": "m", "messages": MESSAGES, **more}
    async with http.post(f"{sim.url}/chat/completions", json=body) as response:
        await response.read()


async def settled(sim: Simulator) -> None:
    async with asyncio.timeout(2):
        while sim.log.inflight:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [False, True])
def test_peak_and_rounds_of_two_waves(stream: bool) -> None:
    async def run() -> None:
        async with Simulator(Behaviour(latency=0.06)) as sim, aiohttp.ClientSession() as http:
            await asyncio.gather(*(ask(http, sim, stream=stream) for _ in range(5)))
            assert sim.log.inflight == 0
            await asyncio.gather(*(ask(http, sim, stream=stream) for _ in range(3)))
            log = sim.log
            assert (log.calls, log.choices, log.peak, log.rounds) == (8, 8, 5, 2)
            assert max(call.concurrency for call in log.records) == 5
            log.clear()
            assert (log.calls, log.choices, log.peak, log.rounds) == (0, 0, 0, 0)

    asyncio.run(run())


def test_rounds_are_the_longest_chain_not_the_number_of_waves() -> None:
    async def run() -> None:
        async with Simulator(Behaviour(latency=0.05)) as sim, aiohttp.ClientSession() as http:

            async def chain(length: int) -> None:
                for _ in range(length):
                    await ask(http, sim)

            await asyncio.gather(chain(1), chain(3), chain(2))
            assert (sim.log.calls, sim.log.peak, sim.log.rounds) == (6, 3, 3)

    asyncio.run(run())


def test_a_stall_of_the_machine_is_no_latency() -> None:
    async def run() -> None:
        async with Simulator(Behaviour(latency=0.1)) as sim, aiohttp.ClientSession() as http:
            tasks = [asyncio.create_task(ask(http, sim))]
            async with asyncio.timeout(2):
                while not sim.log.inflight:
                    await asyncio.sleep(0.001)
            time.sleep(0.3)  # that is the stall
            # What came meanwhile is read only after what was due meanwhile.
            tasks.append(asyncio.create_task(ask(http, sim)))
            await asyncio.gather(*tasks)
            assert (sim.log.calls, sim.log.peak, sim.log.rounds) == (2, 2, 1)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("stream", "behaviour"),
    [
        (False, Behaviour(latency=30)),
        (True, Behaviour(latency=30)),
        (True, Behaviour(chunk_interval=0.01, tokens=10_000)),
    ],
)
def test_a_peer_that_leaves_is_noticed(stream: bool, behaviour: Behaviour) -> None:
    async def run() -> None:
        async with Simulator(behaviour) as sim, aiohttp.ClientSession() as http:
            tasks = [asyncio.create_task(ask(http, sim, stream=stream)) for _ in range(3)]
            async with asyncio.timeout(2):
                while sim.log.inflight < 3:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.03)
            assert sim.log.inflight == 3
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await settled(sim)
            assert sim.log.dropped == 3
            assert all(call.peer_left for call in sim.log.records)

    asyncio.run(run())


def test_a_server_that_stops_does_not_blame_the_peer() -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as http:
            async with Simulator(Behaviour(latency=30)) as sim:
                task = asyncio.create_task(ask(http, sim))
                async with asyncio.timeout(2):
                    while not sim.log.inflight:
                        await asyncio.sleep(0.001)
            with pytest.raises(aiohttp.ClientError):
                await task
            assert (sim.log.dropped, sim.log.inflight) == (0, 0)

    asyncio.run(run())


def test_a_record_holds_what_was_asked_and_answered() -> None:
    async def run() -> None:
        async with Simulator() as sim, aiohttp.ClientSession(headers={"X-Hop": "me"}) as http:
            await ask(http, sim, n=2, vendor_field=1)
            [call] = sim.log.records
            assert call.body == {"model": "m", "messages": MESSAGES, "n": 2, "vendor_field": 1}
            assert call.headers["x-hop"] == "me"
            assert (call.model, call.role, call.stream, call.status) == ("m", "solver", False, 200)
            assert (call.choices, call.peer_left) == (2, False)
            assert call.completion_tokens > 20
            assert "396" in (call.content or "")

    asyncio.run(run())


def test_a_log_without_bodies_keeps_counts_only() -> None:
    async def run() -> None:
        async with (
            Simulator(keep_bodies=False, limit=2) as sim,
            aiohttp.ClientSession() as http,
        ):
            for _ in range(5):
                await ask(http, sim)
            assert (sim.log.calls, sim.log.choices, len(sim.log.records)) == (5, 5, 2)
            last = sim.log.records[-1]
            assert (last.index, last.body, last.headers, last.content) == (4, None, {}, None)

    asyncio.run(run())


@pytest.mark.parametrize(("overlap", "rounds"), [(-0.01, 2), (0.002, 2), (0.02, 1)])
def test_a_hang_up_seen_a_moment_late_still_ends_a_round(overlap: float, rounds: int) -> None:
    log = CallLog()
    first, second = log.begin({}), log.begin({})
    for call in (first, second):
        log.finish(call)
    first.end = first.start + 0.1
    second.start = first.end - overlap
    second.end = second.start + 0.1
    assert log.rounds == rounds


def test_clearing_leaves_calls_in_flight_in_flight() -> None:
    log = CallLog()
    call = log.begin({})
    log.clear()
    assert (log.calls, log.inflight, log.peak) == (0, 1, 1)
    log.finish(call, peer_left=True)
    assert (log.inflight, log.dropped) == (0, 0)


def test_only_the_first_end_of_a_call_counts() -> None:
    log = CallLog()
    call = log.begin({})
    log.finish(call)
    log.finish(call, peer_left=True)
    assert (log.dropped, call.peer_left) == (0, False)


def test_the_log_of_a_thread_is_whole_when_the_answer_is_read() -> None:
    async def run(sim: Any) -> None:
        async with aiohttp.ClientSession() as http:
            for _ in range(20):
                await ask(http, sim)
                assert sim.log.inflight == 0
                await ask(http, sim, stream=True)
                assert sim.log.inflight == 0

    with SimulatorThread(Behaviour(chunk_interval=0.0001)) as sim:
        asyncio.run(run(sim))
        assert sim.log.calls == 40
