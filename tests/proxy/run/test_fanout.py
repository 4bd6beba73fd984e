"""A request's own calls, bounded: as many at once as the operator allows, and none for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MakeProxy
from driving import app_with, example

from optictl.simulator import SimulatorThread
from proxy.chat import Chat, Reply
from proxy.llm import LLM


@pytest.mark.parametrize(("limit", "peak"), [(1, 1), (5, 5), (16, 16)])
def test_a_wide_request_has_so_many_calls_under_way(
    make_proxy: MakeProxy, sim: SimulatorThread, limit: int, peak: int
) -> None:
    # Long against what it takes to send that many.
    sim.behave(latency=0.02 * limit, n="refused")
    proxy = make_proxy(max_fanout=limit)
    options = {"samples": 20, "stop": "off"}
    answer = proxy.ask("self_consistency-sim", optillm_options=options)
    assert answer.json["optillm"]["calls"] == 20
    assert sim.log.peak == peak


def test_a_call_inside_a_stream_does_not_wait_for_it(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    @example
    async def asking_while_reading(chat: Chat, llm: LLM) -> Reply:
        async def one(nth: int) -> Reply:
            async with llm.stream(chat.messages, nth=nth) as stream:
                async for _ in stream:
                    await llm.ask(chat.messages)
                    break
            return await llm.answer(chat.messages, nth=nth)

        async with llm.fan(one(nth) for nth in range(4)) as landed:
            replies = [reply async for reply in landed]
        return replies[0]

    proxy = app_with(make_proxy, asking_while_reading, max_fanout=1)
    assert proxy.ask("example-sim").status_code == 200


def test_wide_requests_side_by_side_all_come_to_their_end(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    sim.behave(latency=0.01)
    proxy = make_proxy()
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda _: proxy.ask("cepo-sim"), range(32)))
    assert {answer.status_code for answer in answers} == {200}
