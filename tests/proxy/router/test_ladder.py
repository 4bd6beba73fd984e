"""The ladder: which rung decides, what is remembered, and of whom."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from fake_sidecar import sure_of

from proxy.chat import Chat
from proxy.router import ladder as rungs
from proxy.router.checkpoint import LABELS
from proxy.router.client import Decision, Router, no_classifier
from proxy.router.config import RouterSettings, State
from proxy.router.ladder import Asked, Choice, Ladder
from proxy.router.memory import Memory

ALLOWED = ("none", "moa", "bon", "rto", "leap", "self_consistency")
OPEN = "Compare the French and the American revolution."


class Classifier(Router):
    """Says what it is told to; None is no decision in time."""

    def __init__(self, shares: list[float] | None, **settings: Any) -> None:
        super().__init__(RouterSettings(**settings), "")
        self.shares = shares
        self.efforts: list[float | None] = []

    async def decide(self, chat: Chat, effort: float | None = None) -> Decision | None:
        self.efforts.append(effort)
        if self.shares is None:
            return None
        shares = dict(zip(LABELS, self.shares, strict=True))
        return Decision(shares, self.settings.min_confidence)


@pytest.fixture(autouse=True)
def linear(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the linear model says of every question: at first, that it does not know."""
    shares: dict[str, float] = {}
    monkeypatch.setattr(rungs.linear, "shares", lambda _: shares)
    return shares


def asked(
    *texts: str,
    allowed: tuple[str, ...] = ALLOWED,
    effort: float = 0.7,
    tenant: str = "",
    system: str = "",
    **params: Any,
) -> Asked:
    messages: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
    for text in texts[:-1]:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "So."}]
    messages.append({"role": "user", "content": texts[-1]})
    return Asked(Chat(tuple(messages), params), allowed, effort, tenant)


def choices(ladder: Ladder, *all_asked: Asked) -> list[tuple[str, str]]:
    async def scenario() -> list[Choice]:
        return [await ladder.choose(each) for each in all_asked]

    return [(choice.slug, choice.source) for choice in asyncio.run(scenario())]


def test_what_may_only_be_one_thing_is_asked_of_nobody() -> None:
    classifier = Classifier(sure_of("moa"))
    assert choices(Ladder(classifier), asked(OPEN, allowed=("bon",))) == [("bon", "explicit")]
    assert not classifier.efforts


def test_features_go_before_all_models(linear: dict[str, float]) -> None:
    linear["bon"] = 1.0
    classifier = Classifier(sure_of("moa"))
    found = choices(Ladder(classifier), asked("What is 17 * 23?"))
    assert found == [("self_consistency", "features")]
    assert not classifier.efforts


def test_features_that_speak_for_what_is_not_allowed_are_passed_over() -> None:
    found = choices(Ladder(Classifier(sure_of("moa"))), asked("1 + 1 = ?", allowed=("none", "moa")))
    assert found == [("moa", "classifier")]


SURE, FAIRLY, HARDLY = (
    {"bon": 0.995, "none": 0.005},
    {"bon": 0.9, "none": 0.1},
    {"bon": 0.4, "none": 0.3, "leap": 0.3},
)


@pytest.mark.parametrize(
    ("small", "large", "found"),
    [
        (SURE, sure_of("moa"), ("bon", "linear")),
        (FAIRLY, sure_of("moa"), ("moa", "classifier")),
        (FAIRLY, sure_of("moa", 0.3), ("bon", "linear")),
        (FAIRLY, None, ("bon", "linear")),
        (HARDLY, sure_of("moa", 0.3), ("none", "default")),
        (HARDLY, None, ("none", "default")),
    ],
)
def test_whoever_is_sure_first_decides(
    linear: dict[str, float],
    small: Mapping[str, float],
    large: list[float] | None,
    found: tuple[str, str],
) -> None:
    linear |= small
    assert choices(Ladder(Classifier(large)), asked(OPEN)) == [found]


@pytest.mark.parametrize(("absent", "again"), [("", "linear"), ("not installed", "cache")])
def test_what_the_smaller_model_says_for_one_that_is_only_late_is_not_remembered(
    linear: dict[str, float], absent: str, again: str
) -> None:
    linear.update(FAIRLY)
    classifier = Classifier(None)
    classifier._state = State("absent", absent) if absent else State("loading")
    found = choices(Ladder(classifier), asked(OPEN), asked(OPEN))
    assert found == [("bon", "linear"), ("bon", again)]


def test_the_threshold_is_the_operators() -> None:
    unsure = Classifier(sure_of("moa", 0.3), min_confidence=0.25)
    assert choices(Ladder(unsure), asked(OPEN)) == [("moa", "classifier")]


def test_the_effort_reaches_the_classifier() -> None:
    classifier = Classifier(sure_of("moa"))
    choices(Ladder(classifier), asked(OPEN, effort=0.2))
    assert classifier.efforts == [0.2]


def test_a_question_is_remembered_however_it_is_spaced_and_capitalised() -> None:
    classifier = Classifier(sure_of("moa"))
    found = choices(
        Ladder(classifier),
        asked(OPEN),
        asked("  compare THE french\nand the American revolution. "),
        asked(OPEN, effort=0.1),
        asked(OPEN, tenant="another"),
    )
    assert [source for _, source in found] == ["classifier", "cache", "classifier", "classifier"]


def test_what_nobody_knew_is_asked_again() -> None:
    classifier = Classifier(None)
    ladder = Ladder(classifier)
    assert choices(ladder, asked(OPEN)) == [("none", "default")]
    classifier.shares = sure_of("moa")
    assert choices(ladder, asked(OPEN)) == [("moa", "classifier")]


def test_later_turns_stay_with_the_first_ones_approach() -> None:
    classifier = Classifier(sure_of("moa"))
    ladder = Ladder(classifier)
    choices(ladder, asked(OPEN, system="Be brief."))
    classifier.shares = sure_of("bon")
    later = [
        asked(OPEN, "And which of them lasted longer?", system="Be brief."),
        asked(OPEN, "And which of them lasted longer?", system="Be long."),
        asked(OPEN, "And why is that?", system="Be brief.", allowed=("none", "bon")),
    ]
    assert choices(ladder, *later) == [
        ("moa", "affinity"),
        ("bon", "classifier"),
        ("bon", "classifier"),
    ]


def test_a_greeting_binds_no_conversation() -> None:
    classifier = Classifier(sure_of("moa"))
    found = choices(Ladder(classifier), asked("Hello there!"), asked("Hello there!", OPEN))
    assert found == [("none", "features"), ("moa", "classifier")]


def test_maths_at_the_beginning_binds_what_follows() -> None:
    found = choices(
        Ladder(no_classifier()), asked("What is 17 * 23?"), asked("What is 17 * 23?", "So?")
    )
    assert found == [("self_consistency", "features"), ("self_consistency", "affinity")]


@pytest.mark.parametrize(
    "content",
    [
        "",
        " \n\t",
        "\N{GRINNING FACE}\0\ud800",
        [{"type": "image_url", "image_url": {"url": "data:,"}}],
    ],
)
def test_what_says_nothing_in_words_is_left_to_one_call(content: Any) -> None:
    chat = Chat(({"role": "user", "content": content},))
    [(slug, _)] = choices(Ladder(no_classifier()), Asked(chat, ALLOWED, 0.7))
    assert slug == "none"


def test_a_question_of_1_mb_is_chosen_for_and_remembered() -> None:
    found = choices(Ladder(Classifier(sure_of("moa"))), *[asked("So what? " * 120_000)] * 2)
    assert found == [("moa", "classifier"), ("moa", "cache")]


def test_a_memory_has_room_for_so_many() -> None:
    memory: Memory[int] = Memory(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert [memory.get(key) for key in "abc"] == [1, None, 3]
    assert len(memory) == 2


def test_a_choice_reads_as_a_header_and_as_json() -> None:
    choice = Choice("moa", "classifier", 0.8349)
    assert str(choice) == "moa; source=classifier; confidence=0.83"
    assert choice.as_json() == {"approach": "moa", "source": "classifier", "confidence": 0.8349}
    assert str(Choice("none", "default")) == "none; source=default"
