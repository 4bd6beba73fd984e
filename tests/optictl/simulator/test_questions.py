"""The gold answer depends on the question alone, however a prompt quotes it."""

import pytest

from optictl.simulator import distractor, gold
from optictl.simulator.questions import find_answer, find_candidates, find_question


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 17 * 23 + 5?", "396"),
        ("Compute (2 + 3) * 4.", "20"),
        ("What is 2^10?", "1024"),
        ("2**10", "1024"),
        ("How much is 17 − 20?", "-3"),
        ("What is 7 × 6?", "42"),
        ("What is 1,200 + 34?", "1234"),
        ("What is 10 / 4?", "5/2"),
        ("What is 0.1 + 0.2?", "3/10"),
        ("f(3 + 4) is what?", "7"),
        ("-3 * -4", "12"),
    ],
)
def test_arithmetic_has_its_exact_value(question: str, answer: str) -> None:
    assert gold(question) == answer


@pytest.mark.parametrize(
    "text",
    [
        "What is 1 / 0?",
        "What is 9 ** 9 ** 9?",
        "Rate it: [0-10]. Why?",
        "On 2026-11-20?",
        "1+" * 100_000 + "1",
    ],
)
def test_what_has_no_value_has_a_five_digit_answer(text: str) -> None:
    assert 10_000 <= int(gold(text)) < 100_000


@pytest.mark.parametrize(
    "question",
    ["What is 17 * 23 + 5?", "What is the capital of Atlantis?", "[[task 7]]", "[[Is it? Yes.]]"],
)
@pytest.mark.parametrize(
    "prompt",
    [
        "{}",
        "Question: {}\nThink first. Score: [0-10]",
        "Here are answers.\n<question>{}</question>\nPick one of 3-5 candidates.",
        "> {}\nRead it again:\n> {}",
        '<candidate n="1">99 + 1, is it?\n\\boxed{{100}}</candidate>\n{}\nBest candidate: [number]',
    ],
)
def test_a_prompt_that_quotes_a_question_has_its_gold_answer(question: str, prompt: str) -> None:
    assert gold(find_question(prompt.format(question, question)) or "") == gold(question)


def test_a_mark_around_a_question_changes_nothing_but_wins_over_all_else() -> None:
    assert gold("[[task 7]]") == gold("task 7") != gold("task 8")
    assert find_question("What is 1 + 1? [[task 7]]") == "task 7"


def test_text_without_a_question_has_none() -> None:
    assert find_question("Say hello. Then stop.") is None


@pytest.mark.parametrize("question", ["What is 17 * 23 + 5?", "What is 10 / 4?", "Why?"])
def test_distractors_differ_from_each_other_and_from_gold(question: str) -> None:
    answers = [gold(question), *(distractor(question, i) for i in range(40))]
    assert len(set(answers)) == len(answers)


def test_candidates_are_numbered_as_the_prompt_numbers_them() -> None:
    blocks = (
        '<candidate by="gpt-4o" id="3">x \\boxed{7}</candidate>'
        "<candidate>the answer is 8.</candidate>"
    )
    assert [(c.number, c.answer) for c in find_candidates(blocks)] == [(3, "7"), (2, "8")]
    boxes = "One says \\boxed{1}, another \\boxed{\\frac{1}{2}}."
    assert [(c.number, c.answer) for c in find_candidates(boxes)] == [(1, "1"), (2, "\\frac{1}{2}")]
    assert find_candidates("Put the answer in \\boxed{}. He said \\boxed{3}.") == []


def test_an_answer_is_found_in_a_box_a_sentence_or_the_last_word() -> None:
    assert find_answer("\\boxed{1} no, \\boxed{2}.") == "2"
    assert find_answer("So the answer is **12**. Done") == "12"
    assert find_answer("I make it 5.") == "5"
    assert find_answer("") == ""
