"""What a request's own words say of the approach that fits it, and the router that goes by them."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import InProcess

from optictl.simulator import SimulatorThread
from proxy.chat import Chat
from proxy.router.features import decide


def chat(text: str, **params: Any) -> Chat:
    return Chat(({"role": "user", "content": text},), params)


@pytest.mark.parametrize(
    ("text", "approach"),
    [
        ("What is 17 * 23?", "self_consistency"),
        ("How many apples are left of 12 if Tom eats 5 and gives 3 away?", "self_consistency"),
        (r"Solve for x: \frac{x}{2} = 4", "self_consistency"),
        ("Write a Python function that reverses a list.", "rto"),
        ("Fix the bug:\n```python\nprint(1\n```", "rto"),
        ("Q: 1+1\nA: 2\nQ: 2+2\nA: 4\nQ: 3+3\nA: 6\nQ: 4+4\nA:", "leap"),
        ("Hello there!", "none"),
        ("Thanks a lot!", "none"),
        ("Compare the French and the American revolution.", None),
        ("Prove that there are infinitely many primes.", None),
        ("", None),
        (" \n\t ", None),
        ("\N{GRINNING FACE}\0", None),
    ],
)
def test_the_words_decide(text: str, approach: str | None) -> None:
    assert decide(chat(text)) == approach


def test_what_few_approaches_treat_honestly_is_left_alone() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert decide(chat("What is 17 * 23?", tools=tools)) == "none"
    form = {"type": "json_object"}
    assert decide(chat("What is 17 * 23?", response_format=form)) == "none"


def test_a_question_without_end_takes_no_longer() -> None:
    # Each of these would take hours where a search began again at every character.
    for text in ("\n" * 1_000_000, "1 " * 500_000, "1" + " " * 1_000_000, "$" + "a" * 1_000_000):
        decide(chat(text))


def test_a_request_is_answered_by_what_was_chosen(proxy: InProcess, sim: SimulatorThread) -> None:
    answer = proxy.ask("router-sim", "What is 17 * 23?").json
    assert answer["optillm"]["calls"] > 1
    assert r"\boxed{391}" in answer["choices"][0]["message"]["content"]
    sim.reset()
    assert proxy.ask("router-sim", "Hello there!").json["optillm"]["calls"] == 1
