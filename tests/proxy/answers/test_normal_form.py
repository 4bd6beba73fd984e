"""When two answers are the same answer."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.answers import normalise, same
from proxy.answers.normal_form import MAX_LENGTH


class TestNumbers:
    @pytest.mark.parametrize(
        ("key", "spellings"),
        [
            ("1000", ["1000", "1,000", "1000.0", "1e3", "1 000", "10^3", "1{,}000", "1.0*10^3"]),
            ("1/2", ["1/2", "0.5", ".5", "50%", "50 percent", r"50\%", r"\frac{1}{2}", r"\frac12"]),
            ("3/2", ["1.5", "1 1/2", r"1\frac{1}{2}", "1½", r"\dfrac{3}{2}", "3 / 2"]),
            ("-5", ["-5", "−5", "- 5", "-5.00", "$-5$", "**-5**", "-$5"]),
            ("12", ["$12", r"\$12.00", "12 dollars", "12 USD", "€12", "12 €", "US$12", "$12$"]),
            ("12", ["12 cm", "12cm", r"12\text{ cm}", r"12\,\mathrm{cm}", "12 m/s^2", "12 m²"]),
            ("12", ["12 N", "12 km per hour", "12 square meters", "12°", r"12^\circ", "12 apples"]),
            ("12", ["about 12", "≈ 12", "12.", '"12"', "`12`", r"\boxed{12}", "x = 12", "f(x)=12"]),
            ("5000000", ["$5 million", "5 million dollars", "5,000,000", "5e6"]),
            ("602" + "0" * 21, ["6.02 × 10^23", r"6.02 \times 10^{23}", "6.02e23"]),
        ],
    )
    def test_one_value_has_one_key(self, key: str, spellings: list[str]) -> None:
        assert {normalise(spelling) for spelling in spellings} == {key}

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ("50%", "50"),
            ("5x", "5"),
            ("2 pi", "2"),
            ("3 pm", "3 am"),
            ("5!", "5"),
            ("1,200", "1, 200"),
            ("3,14", "314"),
            ("2 hours and 30 minutes", "2 minutes and 30 seconds"),
            ("10:30", "10"),
            ("101_2", "1012"),
            ("x^2", "x2"),
            ("-5", "5"),
            ("1e999", "1e998"),
        ],
    )
    def test_what_is_not_the_same(self, a: str, b: str) -> None:
        assert not same(a, b)

    @given(st.fractions(max_denominator=10**6))
    def test_a_fraction_is_its_value(self, value: Fraction) -> None:
        latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        assert normalise(latex) == normalise(f"{value.numerator}/{value.denominator}") == str(value)

    @given(st.integers(-(10**30), 10**30))
    def test_an_integer_is_its_value(self, value: int) -> None:
        assert {normalise(form) for form in (f"{value:,}", f"{value}.0", f"${value}$")} == {
            str(value)
        }

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_a_float_is_exactly_what_it_says(self, value: float) -> None:
        assert normalise(repr(value)) == str(Fraction(repr(value)))

    def test_a_power_of_ten_that_is_too_large_is_not_computed(self) -> None:
        assert len(normalise("1e999")) < 10
        assert len(normalise("10^999999999")) < 20
        assert len(normalise(f"1{'0' * 5000}")) == 5001


class TestOptions:
    @pytest.mark.parametrize(
        "text",
        [
            "B",
            "b",
            "(b)",
            "(B)",
            "B.",
            "b)",
            "[B]",
            "**B**",
            r"\text{(B)}",
            r"\textbf{(B)}\ 12",
            "Option B",
            "option (b)",
            "B) Paris",
            "B. Paris",
            "(B) Paris",
            "B (Paris)",
            "B. the sea",
        ],
    )
    def test_an_option_is_its_letter(self, text: str) -> None:
        assert normalise(text) == "B"

    @pytest.mark.parametrize(
        "text", ["B and C", "(B) and (C)", "B. B. King", "E. coli", "(b) + 1", "Bob", "f(b)", "BC"]
    )
    def test_what_is_no_option(self, text: str) -> None:
        assert len(normalise(text)) > 1


class TestFormulas:
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ("x² + 1", "x^2+1"),
            ("x**2+1", "x^{2} + 1"),
            (r"2\pi r", "2 π r"),
            (r"\frac{x+1}{2}", "(x+1)/2"),
            (r"\frac{3\sqrt{2}}{4}", "3√2/4"),
            (r"2 \cdot x", "2x"),
            (r"\left(x+1\right)", "x+1"),
            (r"x \leq 3", "x ≤ 3"),
            (r"(-\infty, 3]", "(-∞,3]"),
            (r"\left( \frac{1}{2}, 3 \right)", "(0.5, 3)"),
            (r"\{3, 1, 2\}", "{1,2,3}"),
            ("x = 1 or x = 2", "1, 2"),
            (r"x=1 \text{ and } x=2", "1 and 2"),
            (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "[1, 2; 3, 4]"),
            ("y = 2x + 1", "2x+1"),
        ],
    )
    def test_one_formula_in_two_spellings(self, a: str, b: str) -> None:
        assert normalise(a) == normalise(b)

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (r"\frac{1}{2x}", r"\frac{1}{2}x"),
            (r"x^{10}", r"x^{1}0"),
            (r"\frac{x+1}{2}", r"x+\frac{1}{2}"),
            ("(1, 2)", "(2, 1)"),
            ("(1, 2)", "[1, 2]"),
            ("x^2 + y^2 = 25", "25"),
            ("x_1 2", "x_12"),
        ],
    )
    def test_two_formulas(self, a: str, b: str) -> None:
        assert normalise(a) != normalise(b)


class TestText:
    @pytest.mark.parametrize(
        "text", ["Paris", "paris.", " PARIS ", "“Paris”", "**Paris**", "'Paris'!", r"\text{Paris}"]
    )
    def test_case_quotes_and_markup_do_not_count(self, text: str) -> None:
        assert normalise(text) == "paris"

    def test_a_leading_article_does_not_count(self) -> None:
        assert same("The Eiffel Tower", "Eiffel  tower")
        assert not same("A", "the")

    def test_long_text_is_only_evened_out(self) -> None:
        prose = "The  End. " * MAX_LENGTH
        assert normalise(prose) == " ".join(prose.split()).casefold()


PIECES = r"""
    \frac \sqrt \text{ \boxed{ { } ( ) [ ] ^ ^{ _ $ \( \) \{ \} \left \, \cdot \pi 1 2 12 000 , . !
    x y B = x= the a and or % cm N * ** ` " ' + - / e3 10^ ½ ² π √ ° İ ß Ａ ， # ± option
"""
LATEX = st.lists(st.sampled_from([*PIECES.split(), " ", " and ", "\n"])).map("".join)


class TestAnyText:
    @given(LATEX | st.text())
    @example("\\frac" * 190)
    @example("{" * 900)
    @example('"' * 900)
    @example("\ud800")
    def test_normalising_twice_changes_nothing(self, text: str) -> None:
        key = normalise(text)
        assert normalise(key) == key

    @given(LATEX)
    def test_white_space_around_it_does_not_count(self, text: str) -> None:
        assert normalise(f"\n {text}\t") == normalise(text)

    def test_one_class_is_one_class(self) -> None:
        # Equality by key is an equivalence, which pairwise comparisons of numbers are not.
        assert same("0.333", "333/1000")
        assert not same("0.333", "1/3")
        assert not math.isclose(1 / 3, 0.333)
