"""The final answer of a reply: what counts as one, in which order, and what never does."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.answers import extract, normalise
from proxy.answers.surface import WINDOW, tail

LONG = "We look at every case in turn and find that each of them leads to the same place. " * 2


def key(text: str) -> str | None:
    """The class that a reply votes for."""
    answer = extract(text)
    return None if answer is None else normalise(answer)


class TestTags:
    def test_the_last_complete_pair_counts(self) -> None:
        assert extract("<answer>41</answer> no: <answer>\n42\n</answer> so 43 it is not") == "42"

    def test_a_mention_of_the_tag_is_none(self) -> None:
        assert extract("I put it in <answer> tags: <answer>7</answer>, as <answer> asks") == "7"

    def test_a_stop_sequence_may_have_taken_the_closing_tag(self) -> None:
        assert extract("So 3 + 4 is it. <answer>7") == "7"

    def test_a_tag_that_never_closes_before_an_essay_is_no_answer(self) -> None:
        assert extract(f"<answer> {LONG} 12") == "12"

    def test_an_answer_that_is_marked_twice_is_unwrapped(self) -> None:
        assert extract("<answer>The final answer is \\boxed{42}.</answer>") == "42"
        assert extract("<answer>The answer is 42.</answer>") == "42"

    def test_an_empty_pair_is_skipped(self) -> None:
        assert extract("<answer>5</answer> in the form <answer></answer>") == "5"


class TestBoxes:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            (r"so \boxed{42}.", "42"),
            (r"\boxed{41}, no, $\boxed{42}$", "42"),
            (r"\fbox{9}", "9"),
            (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
            (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
            (r"\boxed {a_{1}^{2}}", "a_{1}^{2}"),
            (r"{ \boxed{3}", "3"),
            (r"\boxed{4 and \boxed{5}", "5"),
            ("\x08oxed{6}", "6"),
        ],
    )
    def test_braces_are_balanced(self, text: str, answer: str) -> None:
        assert extract(text) == answer

    def test_an_empty_box_is_the_instruction_repeated(self) -> None:
        assert extract(r"I shall put it in \boxed{}. The answer is 4.") == "4"

    def test_a_box_wins_over_a_phrase_and_a_tag_over_a_box(self) -> None:
        assert extract(r"\boxed{1}. The answer is 2.") == "1"
        assert extract(r"<answer>0</answer> \boxed{1}") == "0"


class TestPhrases:
    @pytest.mark.parametrize(
        "text",
        [
            "The final answer is 42.",
            "the answer is: 42",
            "**Final Answer:** 42",
            "**Final Answer**: **42**",
            "Final answer: $42$.",
            "### Final Answer\n\n**42**\n\nLet me know if you need 3 more!",
            "**Answer**\n42",
            "Answer:\n- 42",
            "So the correct answer is 42, because 6 * 7 = 42 and not 41.",
            "The answer is 42. It is 1 more than 41.",
            "The answer is **42** apples in the basket.",
            "The answer to the first question is 42",
            "The answer is 41? No. The answer is 42",
            "The answer is not 41. Therefore the answer is 42",
            "Final answer\n$$\n42\n$$\nwhich is 2 * 21",
            "Die Antwort ist 42.",
            "Antwort: 42",
            "La réponse finale est 42.",
            "La respuesta correcta es 42.",
            "最终答案：42",
            "答案是42。",
        ],
    )
    def test_what_follows_is_the_answer(self, text: str) -> None:
        assert key(text) == "42"

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("The answer is Dr. Smith. He was 40.", "Dr. Smith"),
            ("The answer is J. K. Rowling.", "J. K. Rowling"),
            ("The answer is Paris, France.", "Paris, France"),
            ("The answer is 3.14 m.", "3.14 m"),
            ("The answer is **5** and **7**.", "5 and 7"),
            ("The answer is **42** million.", "42 million"),
            ("The answer is $5 and $7.", "$5 and $7"),
            ("The answer is $\\frac{1}{2}$ of it.", "\\frac{1}{2}"),
        ],
    )
    def test_the_answer_is_whole(self, text: str, answer: str) -> None:
        assert extract(text) == answer

    def test_an_explanation_is_no_answer(self) -> None:
        assert extract(f"Answer: {LONG} So 17 apples are left.") == "17"
        assert extract("Answer: To find it, add 12 and 5.\nThis leaves 17 apples.") == "17"

    def test_a_code_block_is_no_answer(self) -> None:
        assert extract(f"{LONG} The answer is:\n```python\nx = 1\n```\nIt prints 12") == "12"


class TestJson:
    def test_a_reply_that_is_an_object(self) -> None:
        assert extract('{"reasoning": "the answer is 41 or \\\\boxed{1}", "answer": 42}') == "42"

    def test_the_last_fenced_object(self) -> None:
        text = 'The answer:\n```json\n{"answer": 1}\n```\nor\n```json\n{"Final Answer": "2"}\n```\n'
        assert extract(text) == "2"

    def test_an_object_at_the_end(self) -> None:
        assert extract('First 3, then 4.\n{"steps": 2,\n "result": 7}') == "7"

    def test_the_clients_own_fields_in_their_order(self) -> None:
        text = '{"city": "Paris", "country": "France", "answer": "no"}'
        assert extract(text, fields=("country", "city")) == "France"

    def test_structured_output_without_a_known_field_is_compared_whole(self) -> None:
        assert key('{"city": "Paris", "area": 105.0}') == key('{"area": 105, "city": "Paris"}')
        assert key('{"city": "Paris"}') != key('{"city": "Rome"}')

    def test_lists_and_truth_values(self) -> None:
        assert key('{"answer": [1, 2.0]}') == "[1, 2]"
        assert extract('{"answer": true}') == "true"

    def test_what_only_looks_like_json(self) -> None:
        assert key("{1, 2, 3}") == "{1, 2, 3}"
        assert extract('{"answer": ' * 900 + '"4"') == "4"


class TestOptions:
    @pytest.mark.parametrize(
        "text",
        [
            f"{LONG}\n(B)",
            f"{LONG}\nB.",
            f"{LONG} 3 of 4.\n**B**",
            f"{LONG}\nOption B",
            f"{LONG} Therefore the right one must be (B).",
            "Option B holds, since 3 < 4 and all the others do not hold for any number as large.",
            "The answer is B.",
            "The answer is **B. Paris**.",
            "The answer is (B) Paris, since 1 > 0.",
            "The correct option is B",
            "B) Paris\n\nParis has been the capital of France since 987.",
            "A. Rome\nB. Paris\nC. Bonn\n\nB",
        ],
    )
    def test_forms(self, text: str) -> None:
        assert key(text) == "B"

    def test_an_article_is_no_option(self) -> None:
        assert extract("A farmer has 17 sheep. All but 9 of them die. How many? It is 9") == "9"
        assert extract("A farmer has sheep") == "A farmer has sheep"

    def test_a_list_of_options_names_none(self) -> None:
        assert extract(f"A. {LONG}\nB. {LONG}\nC. None of these {LONG}") is None

    def test_the_parts_of_an_answer_are_no_options(self) -> None:
        assert extract("(a) The first is 12\n(b) The second is 15") == "15"

    def test_a_question_and_answer_marker_is_no_option(self) -> None:
        assert extract("Q: six by seven?\nA: 42") == "42"


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("it makes 1,234.50 in total", "1,234.50"),
            ("it is -5", "-5"),
            ("it is −5", "−5"),
            ("which is 8-3", "3"),
            ("which is 6.02e23 in all", "6.02e23"),
            ("about 50% of them", "50%"),
            (r"about 50\% of them", r"50\%"),
            ("that is 3/4 of it", "3/4"),
            (r"that is \frac{3}{4} of it", r"\frac{3}{4}"),
            ("it costs $5 or $12", "$12"),
            ("it has 1 000 000 people", "1 000 000"),
            ("it has 12 of H2O and x9", "12"),
        ],
    )
    def test_the_last_one_counts(self, text: str, answer: str) -> None:
        assert extract(f"{LONG}{text}") == answer

    def test_numbers_of_a_list_are_no_answers(self) -> None:
        assert extract(f"{LONG}\nso 17 remain:\n1. apples\n2. pears") == "17"

    def test_a_formula_at_the_end_is_taken_whole(self) -> None:
        assert extract(f"{LONG}so $y = x^2 + 1$.") == "x^2 + 1"
        assert extract(f"{LONG}so\n\n$$\nx = 3 + 4 = 7\n$$") == "7"
        assert extract(f"{LONG}so $x = 3$ and $y = 4$.") == "4"


class TestShortReplies:
    @pytest.mark.parametrize(
        "text",
        [
            "Paris",
            "yes",
            "x^2 + 1",
            "(3, 4)",
            "10:30 AM",
            "2 hours and 30 minutes",
            "12 March 1990",
        ],
    )
    def test_an_answer_without_a_sentence_is_whole(self, text: str) -> None:
        assert extract(text) == text

    @pytest.mark.parametrize("text", ["It is 42.", "There are 42 apples.", "Total: 42", "42"])
    def test_a_sentence_is_its_number(self, text: str) -> None:
        assert extract(text) == "42"

    def test_an_essay_without_a_number_says_nothing(self) -> None:
        assert extract(LONG) is None

    @pytest.mark.parametrize("text", ["", "  \n", "**", "$$"])
    def test_nothing(self, text: str) -> None:
        assert extract(text) is None


class TestThinking:
    def test_only_what_follows_the_last_thought_counts(self) -> None:
        text = "<think>The answer is 41</think> Hm. <think>\\boxed{40}</think>It is 42."
        assert extract(text) == "42"

    def test_an_unfinished_thought_is_no_answer(self) -> None:
        assert extract("<think>The answer is 41") is None
        assert extract("42\n<think>or is it 41") == "42"
        assert extract("The answer is 41</think>") is None

    def test_only_the_end_of_a_long_reply_is_looked_at(self) -> None:
        assert extract("\\boxed{41}" + " " * WINDOW + "It is 42.") == "42"


ADVERSARIAL = [
    "\\boxed{", "{", "}", "$", "\\[", "<answer>", "```\n{", "the answer is ", "answer:\n", "1,",
    "1/", "\\frac{", "\\frac", '"', "* ", "** a", "A. ", "(A) ", "aa!", "[", '{"a":', "1 ", "#",
]  # fmt: skip


class TestBounds:
    @pytest.mark.parametrize("piece", ADVERSARIAL)
    def test_a_megabyte_costs_no_more_than_its_end(self, piece: str) -> None:
        text = piece * (1_000_000 // len(piece))
        assert len(tail(text)) <= WINDOW
        assert extract(text) == extract(text[-WINDOW:])

    @given(st.text() | st.lists(st.sampled_from([*ADVERSARIAL, "A", "x", "\n", "."])).map("".join))
    @example("\ud800")
    @example("\\")
    def test_any_text_has_an_answer_or_none(self, text: str) -> None:
        answer = extract(text)
        assert answer is None or (answer and len(answer) <= WINDOW)
        normalise(answer or "")
