"""What a judge, a selector and a verifier said, in the forms that models really use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import choice, score, verdict


class TestScore:
    @pytest.mark.parametrize(
        "text",
        [
            "Score: 8",
            "Rating: 8",
            "Score: 8.0",
            "Score: 8,0",
            "**Score:** **8**",
            "Score: [8]",
            "Score:\n\n8",
            "Score is 8",
            "a score of 8",
            "Score (0-10): 8",
            "Score (out of 10) = 8",
            "Score: 8/10",
            "Score: **8**/10",
            "Score: 8 out of 10",
            "Score: 80/100",
            "Score: 80%",
            "Score: 4/5",
            r"Score: \boxed{8}",
            "Score: 8 - two errors",
            "Score: 8. It has 2 flaws.",
            '{"score": 8, "flaws": 2}',
            "8",
            "**8**",
            "8.",
            "[8]",
            "8/10",
            "80/100, as 2 of 3 parts are right",
            "80%",
            "8 out of 10",
            "8 von 10 Punkten",
            "I'd give it an 8. It has 2 flaws.",
            "Bewertung: 8",
            "评分：8",
            "It uses 120 words and 3 lemmas, so: 8",
        ],
    )
    def test_forms(self, text: str) -> None:
        assert score(text) == 8

    def test_the_last_label_wins_over_every_other_number(self) -> None:
        assert score("Style score: 9\nScore: 3, which is 4 less than 7/10") == 3

    def test_a_ratio_wins_over_a_bare_number(self) -> None:
        assert score("I say 7/10, as 2 errors remain") == 7

    def test_a_fraction_of_something_is_no_rating(self) -> None:
        assert score("3/4 of the steps hold, so 6") == 6

    def test_the_form_repeated_is_no_rating(self) -> None:
        assert score("Score: [0-10]\nScore: 6") == 6
        assert score("Score: 6 [0-10]") == 6

    @pytest.mark.parametrize(
        "text",
        [
            "Score: 11",
            "Score: -3",
            "Score: 12/10",
            "Score: 110%",
            "Score: 3/0",
            "Score: NaN, for 3 reasons",
            "Score: N/A (2 flaws)",
            "Score: inf",
            "Score: seven",
            "11",
            "-3",
            "99999999999",
            "no rating",
            "",
        ],
    )
    def test_beyond_the_scale_or_absent_is_none(self, text: str) -> None:
        assert score(text) is None

    def test_reasoning_does_not_count(self) -> None:
        assert score("<think>Score: 2</think>\nScore: 5") == 5

    def test_other_scales(self) -> None:
        assert score("Score: 4/5", 1, 5) == 4
        assert score("Score: 50/100", 1, 5) == 3
        assert score("90", 0, 100) == 90
        assert score("Score: 90/100", 0, 100) == 90
        assert score("Score: 0.7", 0, 1) == 0.7
        assert score("Score: 7/10", 0, 1) == 0.7

    @given(st.floats(0, 10, allow_subnormal=False), st.sampled_from(["Score: {}", "{}", "{}/10"]))
    def test_any_rating_comes_back(self, value: float, form: str) -> None:
        rounded = round(value, 2)
        assert score(form.format(f"{rounded:.2f}")) == rounded

    @given(st.text() | st.text("Score: /0123456789.-%[]*\n"))
    def test_any_text_is_on_the_scale_or_none(self, text: str) -> None:
        rating = score(text)
        assert rating is None or 0 <= rating <= 10


class TestChoice:
    @pytest.mark.parametrize(
        "text",
        [
            "Best candidate: 3",
            "**Best candidate:** **3**",
            "Best candidate: [3]",
            "Best candidate: Candidate 3, since 1 and 2 fail",
            "Best candidate: 3. Candidate 1 is worse by 2 points.",
            "The best candidate is candidate #3.",
            "Best: 3",
            "The best answer is Response 3",
            "Best candidate: 1\nNo.\nBest candidate: 3",
            "Best candidate: [number]\n\nBest candidate: 3",
            "I choose 3 over 1",
            "I pick option 3.",
            "Candidate 3 is clearly the best; 1 and 2 are not.",
            r"1 fails, 2 fails. \boxed{3}",
            "<answer>3</answer>",
            "3",
            "(3)",
            "Candidate 3. Only candidate 3 holds.",
        ],
    )
    def test_forms(self, text: str) -> None:
        assert choice(text, 4) == 2

    @pytest.mark.parametrize(
        "text",
        [
            "Best candidate: 5",
            "Best candidate: 0",
            "Best candidate: 3.5",
            "Best candidate: none",
            "0",
            "-1",
            "5",
            "99999999999999999999",
            "1 and 2 are good",
            "",
        ],
    )
    def test_what_names_no_candidate_is_none(self, text: str) -> None:
        assert choice(text, 4) is None

    def test_a_wrong_choice_is_not_replaced_by_another_number(self) -> None:
        assert choice("Best candidate: 9. Candidate 2 is the worst.", 4) is None

    @given(st.text() | st.text("best candidate: 0123456789.#[]"), st.integers(1, 9))
    def test_any_text_names_a_candidate_or_none(self, text: str, k: int) -> None:
        index = choice(text, k)
        assert index is None or 0 <= index < k


class TestVerdict:
    @pytest.mark.parametrize(
        "text",
        [
            "Overall assessment: CORRECT",
            "**Overall assessment:** **CORRECT**",
            "Overall assessment (CORRECT/INCORRECT): CORRECT",
            "Overall Assessment: The solution is correct.",
            "Overall assessment:\n\nCORRECT",
            r"Overall assessment: \boxed{CORRECT}",
            "There are no incorrect steps. Overall assessment: CORRECT",
            "Step 2 looks INCORRECT, but is not.\nOverall assessment: CORRECT",
            "Overall assessment: no incorrect steps, hence CORRECT",
            "Overall assessment: not incorrect",
            "Overall assessment: CORRECT\n\nMy evaluation rests on no false step.",
            "Verdict: yes",
            "The final verdict is: valid",
            "CORRECT",
            "Correct.",
            "Yes.",
            "Step 1 is wrong at first sight.\nBut the solution is correct.",
        ],
    )
    def test_correct(self, text: str) -> None:
        assert verdict(text) is True

    @pytest.mark.parametrize(
        "text",
        [
            "Overall assessment: INCORRECT",
            "**Overall assessment: INCORRECT**",
            "Overall assessment (CORRECT/INCORRECT): INCORRECT",
            "Step 1 is correct. Overall assessment: INCORRECT",
            "Overall assessment: not correct",
            "Overall assessment: NOT CORRECT",
            "Overall assessment: the proof isn't entirely correct",
            "Overall assessment: partially correct",
            "Overall assessment: CORRECT\nWait.\nOverall assessment: INCORRECT",
            "Verdict: no",
            "INCORRECT",
            "Incorrect.",
            "No.",
            "All steps are CORRECT but the last, so it is INCORRECT\nSorry.",
        ],
    )
    def test_incorrect(self, text: str) -> None:
        assert verdict(text) is False

    @pytest.mark.parametrize(
        "text", ["", "I cannot say", "Overall assessment (CORRECT/INCORRECT)", "no errors found"]
    )
    def test_undecided(self, text: str) -> None:
        assert verdict(text) is None

    def test_reasoning_does_not_count(self) -> None:
        assert verdict("<think>INCORRECT</think>Overall assessment: CORRECT") is True

    @given(st.text())
    def test_any_text_can_be_read(self, text: str) -> None:
        assert verdict(text) in (True, False, None)
