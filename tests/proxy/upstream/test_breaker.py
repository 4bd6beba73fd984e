"""When a provider is left alone, and when it is tried again."""

from __future__ import annotations

import pytest

from proxy.upstream.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock, longest: float = 30.0) -> Breaker:
    breaker = Breaker(clock, longest)
    breaker.failed(certain=True)
    return breaker


def trial(breaker: Breaker) -> None:
    assert breaker.permits
    breaker.begin()
    assert not breaker.permits


class TestClosed:
    def test_permits_everything(self) -> None:
        breaker = Breaker(Clock(), 30.0)
        for _ in range(5):
            assert breaker.permits
            breaker.begin()
        assert breaker.state == "closed"

    def test_opens_after_three_failures_in_a_row(self) -> None:
        breaker = Breaker(Clock(), 30.0)
        for _ in range(2):
            breaker.failed()
        breaker.succeeded()
        for _ in range(2):
            breaker.failed()
        assert breaker.state == "closed"
        breaker.failed()
        assert breaker.state == "open"
        assert not breaker.permits

    def test_opens_at_once_where_it_is_certain(self) -> None:
        assert opened(Clock()).state == "open"


class TestOpen:
    def test_is_half_open_after_a_second(self) -> None:
        clock = Clock()
        breaker = opened(clock)
        clock.now += 0.79
        assert breaker.state == "open"
        clock.now += 0.22
        assert breaker.state == "half-open"

    def test_learns_nothing_from_calls_of_before(self) -> None:
        clock = Clock()
        breaker = opened(clock)
        at = breaker.retry_at
        for _ in range(10):
            breaker.failed()
        assert breaker.retry_at == at

    def test_is_closed_by_an_answer_to_a_call_of_before(self) -> None:
        breaker = opened(Clock())
        breaker.succeeded()
        assert breaker.state == "closed"


class TestHalfOpen:
    def test_permits_one_call(self) -> None:
        clock = Clock()
        breaker = opened(clock)
        clock.now += 1
        trial(breaker)

    def test_is_closed_by_an_answer(self) -> None:
        clock = Clock()
        breaker = opened(clock)
        clock.now += 1
        trial(breaker)
        breaker.succeeded()
        assert (breaker.state, breaker.permits) == ("closed", True)
        breaker.failed()
        assert breaker.state == "closed"

    def test_permits_another_after_one_that_told_nothing(self) -> None:
        clock = Clock()
        breaker = opened(clock)
        clock.now += 1
        for _ in range(3):
            trial(breaker)
            breaker.undecided()
        assert breaker.state == "half-open"

    def test_waits_twice_as_long_after_each_failed_trial_but_not_for_ever(self) -> None:
        clock = Clock()
        breaker = opened(clock, longest=30.0)
        for pause in (1, 2, 4, 8, 16, 30, 30):
            assert 0.8 * pause <= breaker.retry_at - clock.now <= pause
            clock.now = breaker.retry_at
            trial(breaker)
            breaker.failed()
            assert breaker.state == "open"

    def test_begins_anew_after_a_recovery(self) -> None:
        clock = Clock()
        breaker = opened(clock)
        for _ in range(3):
            clock.now = breaker.retry_at
            trial(breaker)
            breaker.failed()
        breaker.succeeded()
        breaker.failed(certain=True)
        assert breaker.retry_at - clock.now <= 1

    def test_a_failed_health_check_is_as_good_as_a_trial(self) -> None:
        """It saves a client's call from being one."""
        clock = Clock()
        breaker = opened(clock)
        clock.now += 1
        breaker.failed(certain=True)
        assert breaker.state == "open"
        assert breaker.retry_at - clock.now > 1


def test_those_that_fail_together_do_not_come_back_together() -> None:
    clock = Clock()
    assert len({opened(clock).retry_at for _ in range(20)}) == 20


@pytest.mark.parametrize("longest", [0.5, 2.0])
def test_the_longest_pause_is_the_operator_s(longest: float) -> None:
    clock = Clock()
    breaker = opened(clock, longest)
    for _ in range(6):
        assert breaker.retry_at - clock.now <= longest
        clock.now = breaker.retry_at
        trial(breaker)
        breaker.failed()
