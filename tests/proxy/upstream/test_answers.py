"""Kept answers: for how long, and how many."""

from __future__ import annotations

from proxy.upstream.answers import Answers, Kept

ROOM = 10_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def of(size: int) -> Kept:
    return Kept(b"x" * size)


def test_an_answer_is_there_until_its_time_is_over() -> None:
    clock = Clock()
    answers = Answers(60.0, ROOM, clock)
    answers.put(b"k", of(10))
    clock.now += 59.9
    assert answers.get(b"k") == of(10)
    clock.now += 0.2
    assert answers.get(b"k") is None
    assert answers.get(b"other") is None


def test_the_oldest_make_room() -> None:
    answers = Answers(60.0, ROOM, Clock())
    for i in range(10):
        answers.put(bytes([i]), of(4000))
        assert answers.held <= ROOM
    assert [i for i in range(10) if answers.get(bytes([i]))] == [8, 9]


def test_small_ones_count_for_what_they_take() -> None:
    answers = Answers(60.0, ROOM, Clock())
    for i in range(10_000):
        answers.put(i.to_bytes(4, "big"), of(1))
    assert sum(answers.get(i.to_bytes(4, "big")) is not None for i in range(10_000)) < 20


def test_one_that_is_larger_than_all_may_be_is_not_kept_and_displaces_none() -> None:
    answers = Answers(60.0, ROOM, Clock())
    answers.put(b"small", of(10))
    answers.put(b"large", of(ROOM))
    assert answers.get(b"large") is None
    assert answers.get(b"small") == of(10)


def test_what_is_over_is_let_go_of_with_the_next_one() -> None:
    clock = Clock()
    answers = Answers(60.0, ROOM, clock)
    for i in range(5):
        answers.put(bytes([i]), of(100))
    one = answers.held / 5
    clock.now += 61
    answers.put(b"new", of(100))
    assert answers.held == one


def test_a_newer_answer_replaces_an_older_one() -> None:
    clock = Clock()
    answers = Answers(60.0, ROOM, clock)
    answers.put(b"k", of(100))
    clock.now += 50
    answers.put(b"k", of(200))
    clock.now += 50
    assert answers.get(b"k") == of(200)
    answers.put(b"k", of(ROOM))
    assert answers.get(b"k") is None
    assert answers.held == 0
