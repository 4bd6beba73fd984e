"""How many second attempts a service allows itself."""

from __future__ import annotations

from proxy.upstream.retries import RetryBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(budget: RetryBudget) -> int:
    count = 0
    while budget.take():
        count += 1
    return count


def test_fifty_to_begin_with() -> None:
    assert taken(RetryBudget(Clock())) == 50


def test_one_for_each_five_calls() -> None:
    budget = RetryBudget(Clock())
    taken(budget)
    for _ in range(101):
        budget.called()
    assert taken(budget) == 20


def test_five_a_second_come_back() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    taken(budget)
    clock.now += 2
    assert taken(budget) == 10


def test_no_more_than_fifty_are_saved() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(10_000):
        budget.called()
    clock.now += 10_000
    assert taken(budget) == 50


def test_a_steady_outage_at_a_steady_rate_is_met_by_a_fifth_and_a_few_more() -> None:
    """100 calls a second, all of which fail."""
    clock = Clock()
    budget = RetryBudget(clock)
    taken(budget)
    retries = 0
    for _ in range(1000):
        clock.now += 0.01
        budget.called()
        retries += budget.take()
    assert 245 <= retries <= 251
