"""What a provider that complains of too much is still sent."""

from __future__ import annotations

import pytest

from proxy.errors import UpstreamOverloaded, UpstreamRateLimited
from proxy.upstream.window import Window


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def complaint(retry_after: float | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("slow down", retry_after=retry_after)


def width(window: Window) -> int:
    """How many calls it takes at present."""
    window.under_way = 0
    while not window.full and window.under_way < 10_000:
        window.under_way += 1
    return window.under_way


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def window(clock: Clock) -> Window:
    return Window(clock)


def test_takes_everything_at_first(window: Window) -> None:
    assert not window.closed
    assert width(window) == 10_000


def test_is_closed_for_as_long_as_it_is_told(window: Window, clock: Clock) -> None:
    said = complaint(7.0)
    window.overloaded(said)
    assert window.complaint is said
    clock.now += 6.99
    assert window.closed
    clock.now += 0.02
    assert not window.closed


def test_a_shorter_pause_does_not_shorten_a_longer_one(window: Window, clock: Clock) -> None:
    window.overloaded(complaint(7.0))
    window.overloaded(complaint(1.0))
    assert window.closed_until == clock.now + 7


def test_waits_longer_each_time_where_it_is_told_nothing(window: Window, clock: Clock) -> None:
    for pause in (0, 0.5, 1, 2, 4, 8, 16, 30, 30):
        window.overloaded(UpstreamOverloaded("busy"))
        assert 0.8 * pause <= window.closed_until - clock.now <= pause
        clock.now = window.closed_until
    window.answered()
    window.overloaded(UpstreamOverloaded("busy"))
    assert not window.closed


def test_is_halved_once_for_calls_that_complain_together(window: Window, clock: Clock) -> None:
    window.under_way = 16
    for _ in range(16):
        window.overloaded(complaint(1.0))
    assert width(window) == 8
    clock.now += 1
    window.overloaded(complaint(1.0))
    assert width(window) == 4


def test_never_shuts_for_good(window: Window, clock: Clock) -> None:
    for _ in range(20):
        window.overloaded(complaint(1.0))
        clock.now += 1
    assert width(window) == 1


def test_opens_by_one_with_each_round_of_answers(window: Window) -> None:
    window.under_way = 8
    window.overloaded(complaint(0.0))
    for expected in (4, 5, 6, 7):
        assert width(window) == expected
        for _ in range(expected + 1):
            window.answered()


def test_is_forgotten_in_the_end(window: Window) -> None:
    window.under_way = 2
    window.overloaded(complaint(0.0))
    for _ in range(256 * 257):
        window.answered()
    assert width(window) == 10_000


def test_doubles_with_every_two_seconds_without_a_complaint(window: Window, clock: Clock) -> None:
    window.under_way = 4
    window.overloaded(complaint(1.0))
    clock.now += 1
    for expected in (2, 4, 8, 16):
        assert width(window) == expected
        clock.now += 2
    clock.now += 20
    assert width(window) == 10_000


def test_a_pause_of_nothing_is_over_at_once(window: Window) -> None:
    window.overloaded(complaint(0.0))
    assert not window.closed
