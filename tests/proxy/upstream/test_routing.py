"""Who is asked first."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
from endpoints import FakeEndpoint, asked, pooled, run

import proxy.upstream.routing
from proxy.errors import UpstreamUnreachable
from proxy.upstream.config import ProviderConfig
from proxy.upstream.port import Call
from proxy.upstream.routing import strategies

WEIGHTS = [
    (2.0, 1.0),
    (5.0, 3.0, 1.0),
    (0.7, 0.2, 0.1),
    (1.0, 1.0, 1.0),
    (97.0, 2.0, 1.0),
    (1000.0, 1.5),
]


def providers(*weights: float) -> list[ProviderConfig]:
    return [
        ProviderConfig(f"p{number}", "http://x.test", weight=weight)
        for number, weight in enumerate(weights)
    ]


class TestWeighted:
    @pytest.mark.parametrize("weights", WEIGHTS)
    def test_shares_are_those_of_the_weights(self, weights: tuple[float, ...]) -> None:
        strategy = strategies()["weighted"](itertools.count().__next__)
        candidates = providers(*weights)
        counts = Counter(strategy.pick(candidates).name for _ in range(10_000))
        for provider in candidates:
            share = provider.weight / sum(weights)
            assert abs(counts[provider.name] / 10_000 - share) <= 0.02 * share

    def test_are_spread_and_not_in_runs(self) -> None:
        strategy = strategies()["weighted"](itertools.count().__next__)
        candidates = providers(2.0, 1.0)
        names = [strategy.pick(candidates).name for _ in range(9)]
        assert names == ["p0", "p1", "p0"] * 3

    def test_the_shares_of_those_that_are_left_stay(self) -> None:
        strategy = strategies()["weighted"](itertools.count().__next__)
        everybody = providers(4.0, 2.0, 1.0)
        for _ in range(70):
            strategy.pick(everybody)
        counts = Counter(strategy.pick(everybody[1:]).name for _ in range(300))
        assert counts == {"p1": 200, "p2": 100}
        # And nobody has saved up for a rush.
        again = Counter(strategy.pick(everybody).name for _ in range(70))
        assert again == {"p0": 40, "p1": 20, "p2": 10}

    def test_of_calls_at_once_through_a_pool(self) -> None:
        async def test() -> None:
            ends = [
                FakeEndpoint("a", weight=5.0),
                FakeEndpoint("spare", weight=100.0, fallback_only=True),
                FakeEndpoint("b", weight=3.0),
                FakeEndpoint("c", weight=2.0),
            ]
            async with pooled(*ends, strategy="weighted") as pool:
                for _ in range(10):
                    await asyncio.gather(*(asked(pool) for _ in range(100)))
            counts = {end.config.name: len(end.calls) for end in ends}
            assert counts == {"a": 500, "b": 300, "c": 200, "spare": 0}

        run(test)


class TestRoundRobin:
    def test_is_exact_for_calls_at_once(self) -> None:
        async def slow(call: Call) -> str:
            await asyncio.sleep(len(str(call.body["seed"])) * 0.01)
            return "ok"

        async def test() -> None:
            ends = [FakeEndpoint(name, slow) for name in "abc"]
            async with pooled(*ends, strategy="round_robin") as pool:
                await asyncio.gather(*(asked(pool, body={"seed": n}) for n in range(300)))
            assert [len(end.calls) for end in ends] == [100, 100, 100]
            assert [call.body["seed"] for call in ends[1].calls] == list(range(1, 300, 3))

        run(test)

    def test_takes_turns_with_the_other_workers(self) -> None:
        turns = itertools.count()
        workers = [strategies()["round_robin"](turns.__next__) for _ in range(2)]
        candidates = providers(1.0, 1.0, 1.0)
        picks = [workers[number % 2].pick(candidates).name for number in range(300)]
        assert set(Counter(picks).values()) == {100}

    def test_goes_on_among_those_that_are_well(self) -> None:
        async def test() -> None:
            dead = FakeEndpoint("b", lambda _: UpstreamUnreachable("no", refused=True))
            a, c = FakeEndpoint("a"), FakeEndpoint("c")
            async with pooled(a, dead, c, strategy="round_robin") as pool:
                for _ in range(101):
                    await asked(pool)
            assert len(dead.calls) == 1
            assert abs(len(a.calls) - len(c.calls)) <= 1

        run(test)


class TestFailover:
    def test_is_the_order_of_the_file(self) -> None:
        async def test() -> None:
            gone: set[str] = set()

            def respond(name: str) -> FakeEndpoint:
                error = UpstreamUnreachable("no", refused=True)
                return FakeEndpoint(name, lambda _: error if name in gone else name)

            ends = [respond(name) for name in ("z", "y", "x")]
            async with pooled(*ends, strategy="failover") as pool:
                assert {await asked(pool) for _ in range(5)} == {"z"}
                gone.add("z")
                assert {await asked(pool) for _ in range(5)} == {"y"}
                gone.add("y")
                assert {await asked(pool) for _ in range(5)} == {"x"}
                gone.clear()
                await asyncio.sleep(2.0)
                assert {await asked(pool) for _ in range(5)} == {"z"}

        run(test)


def test_a_strategy_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "last.py").write_text(
        "class Last:\n"
        "    def pick(self, candidates):\n"
        "        return candidates[-1]\n"
        "def make(counter):\n"
        "    return Last()\n"
    )
    path = [*proxy.upstream.routing.__path__, str(tmp_path)]
    monkeypatch.setattr(proxy.upstream.routing, "__path__", path)

    async def test() -> None:
        async with pooled(FakeEndpoint("a"), FakeEndpoint("b"), strategy="last") as pool:
            assert await asked(pool) == "b"

    try:
        assert set(strategies()) == {"failover", "last", "round_robin", "weighted"}
        run(test)
    finally:
        del sys.modules["proxy.upstream.routing.last"]
        monkeypatch.delattr(proxy.upstream.routing, "last", raising=False)
