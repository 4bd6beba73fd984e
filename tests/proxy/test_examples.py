"""Examples in a conversation: told by their labels, by arrows, or by earlier turns."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.chat import Chat
from proxy.examples import Examples, find_examples, hints_at_examples, labelled


def found(query: str, *history: tuple[str, str]) -> Examples | None:
    turns: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in history]
    return find_examples(Chat((*turns, {"role": "user", "content": query})))


class TestLabels:
    @pytest.mark.parametrize(
        ("text", "pairs"),
        [
            ("Q: 1+1?\nA: 2\n\nQ: 2+2?\nA: 4\n\nQ: 3+3?\nA:", [("1+1?", "2"), ("2+2?", "4")]),
            ("Input: abc\nOutput: cba\nInput: xy\nOutput:", [("abc", "cba")]),
            ("**Question 1:** Why?\n**Answer:** So.\nThat's why.", [("Why?", "So.\nThat's why.")]),
            ("Example 1:\nQ: a\nA: b\n\nExample 2:\nQ: c\nA: d", [("a", "b"), ("c", "d")]),
            ("问题：一加一？\n答案：二\n\n问题：二加二？", [("一加一？", "二")]),
            ("Frage: Wie alt?\nAntwort: 7\n\nFrage: Wo?", [("Wie alt?", "7")]),
            ("Pregunta: ¿Cuánto?\nRespuesta: 3", [("¿Cuánto?", "3")]),
            ("Q: one\ntwo\nA: 3\n4\n\n5\nQ: next?", [("one\ntwo", "3\n4\n\n5")]),
            ("Q: 1?\nA: 1\n\nWhat is 2?", [("1?", "1")]),
        ],
    )
    def test_in_several_languages_and_forms(self, text: str, pairs: list[tuple[str, str]]) -> None:
        examples = labelled(text)
        assert examples is not None
        assert list(examples.pairs) == pairs

    @pytest.mark.parametrize(
        "text",
        [
            "What is 17 * 23?",
            "Q: What is 17 * 23?\nA:",
            "Q: What is 17 * 23?",
            "A: a thing without a question",
            "The answer: 42",
            "A farmer has 17 sheep. Question everything.",
            f"Q: why?\nA: {'an essay ' * 400}",
            "",
        ],
    )
    def test_that_make_no_pair(self, text: str) -> None:
        assert labelled(text) is None

    def test_what_stands_in_front_goes_with_each_question(self) -> None:
        examples = found("Add the numbers.\n\nQ: 1 2\nA: 3\n\nQ: 4 5\nA:")
        assert examples is not None
        assert examples.asked("1 2") == "Add the numbers.\n\n1 2"

    def test_take_linear_time(self) -> None:
        assert labelled("Q" * 200_000) is None
        assert labelled("Q: \nA: " * 20_000) is None


class TestArrows:
    def test_of_two_lines_or_more(self) -> None:
        examples = found("Translate:\nsea otter => loutre de mer\ncheese => fromage\nbread =>")
        assert examples == Examples(
            (("sea otter", "loutre de mer"), ("cheese", "fromage")), "Translate:"
        )

    def test_one_is_a_remark(self) -> None:
        assert found("Explain a -> b in Haskell.") is None


class TestTurns:
    def test_of_earlier_exchanges(self) -> None:
        examples = found(
            "3+3", ("user", "1+1"), ("assistant", "2"), ("user", "2+2"), ("assistant", "4")
        )
        assert examples == Examples((("1+1", "2"), ("2+2", "4")))

    def test_one_exchange_is_a_conversation(self) -> None:
        assert found("How are you?", ("user", "Hello."), ("assistant", "Hi.")) is None


@pytest.mark.parametrize(
    ("query", "hints"),
    [
        ("For example, 3 becomes 9.", True),
        ("Zum Beispiel wird aus 3 eine 9.", True),
        ("例如三变成九。", True),
        ("What is 17 * 23?", False),
        ("Is this an exemplary thing?", False),
    ],
)
def test_hints(query: str, hints: bool) -> None:
    assert hints_at_examples(Chat(({"role": "user", "content": query},))) is hints
