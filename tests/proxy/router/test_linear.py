"""The small linear model: what it reads, and what it says of a question."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.chat import Chat
from proxy.registry import discover
from proxy.router.linear import BUCKETS, FILE, Linear, decide, features, shares, shipped


def chat(content: Any) -> Chat:
    return Chat(({"role": "user", "content": content},))


@pytest.mark.parametrize("content", ["", " \n\t", [{"type": "image_url", "image_url": {}}], None])
def test_a_question_without_words_is_not_decided(content: Any) -> None:
    assert decide(chat(content)) is None
    assert shares(chat(content)) is None


def test_the_decision_is_the_largest_share_of_one() -> None:
    asked = chat("Hello there, how are you?")
    found = shares(asked)
    assert found is not None
    assert sum(found.values()) == pytest.approx(1.0)
    assert decide(asked) == ("none", max(found.values()))


def test_tasks_of_several_kinds_are_told_apart() -> None:
    def slug(text: str) -> str:
        found = decide(chat(text))
        assert found is not None
        return found[0]

    assert slug("Thanks a lot!") == "none"
    assert slug("Write a haiku about a slow train.") == "bon"
    assert slug("Write a Python function that checks whether a string is a palindrome.") == "rto"


@pytest.mark.parametrize(
    "text", ["🙂", "\0", "\ud83d", "日本の首都はどこですか。", "x " * 500_000], ids=range(5)
)
def test_text_of_any_kind_is_read(text: str) -> None:
    assert decide(chat(text)) is not None


def test_of_a_long_question_the_beginning_and_the_end_are_read() -> None:
    middle = "a b c d " * 10_000
    known = features(f"Prove it. {middle} In French.")
    assert known == features(f"Prove it. {middle}{middle[: len(middle) // 20]} In French.")
    assert known != features(f"Prove it. {middle} In Polish.")


def test_every_digit_is_as_good_as_another() -> None:
    assert features("What is 17 + 25?") == features("what is  90 + 11?")
    assert features("What is 17 + 25?") != features("What is 17 - 25?")


def test_what_is_written_can_be_read() -> None:
    model = shipped()
    assert Linear.read(model.written()) == model
    assert [len(each) for each in model.weights] == [BUCKETS] * len(model.labels)


def test_it_knows_nothing_but_approaches_and_is_small() -> None:
    registry = discover()
    assert all(label in registry for label in shipped().labels)
    assert FILE.stat().st_size <= 200_000
