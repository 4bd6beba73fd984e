"""``${VAR}`` in values: what comes out, and what is said where nothing can."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.upstream.interpolation import InterpolationError, interpolate

ENVIRON = {
    "A": "alpha",
    "B": "beta",
    "EMPTY": "",
    "REF": "${A}",
    "P": "OPENAI",
    "OPENAI_API_KEY": "sk-1",
    "alpha": "not this",
    "alphabeta": "not this either",
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${A}", "alpha"),
        ("${EMPTY}", ""),
        ("<${A}/${B}>", "<alpha/beta>"),
        ("${A}${B}", "alphabeta"),
        ("${A:-x}", "alpha"),
        ("${NO:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${NO:-}", ""),
        ("${NO:-http://h:80/v1}", "http://h:80/v1"),
        ("${NO:-${B}}", "beta"),
        ("${NO:-${NIL:-c}}", "c"),
        ("${NO:-<${NIL:-(${A})}>}", "<(alpha)>"),
        ("${NO:-a}}", "a}"),
        ("{${A}}", "{alpha}"),
        ("${NO:-{x}", "{x"),
        ("${NO:--}", "-"),
        ("${NO:-:-}", ":-"),
    ],
)
def test_a_reference_is_its_value_or_its_default(text: str, result: str) -> None:
    assert interpolate(text, ENVIRON) == result


@pytest.mark.parametrize("text", ["$", "$$", "$A", "$A_B", "a$b}", "{A}", "$ {A}", "P_API_KEY"])
def test_all_other_text_means_itself(text: str) -> None:
    assert interpolate(text, ENVIRON) == text


def test_a_dollar_before_a_reference_is_a_dollar() -> None:
    assert interpolate("$${A}", ENVIRON) == "$alpha"


def test_a_value_is_not_read_again() -> None:
    assert interpolate("${REF}", ENVIRON) == "${A}"
    assert interpolate("${NO:-${REF}}!", ENVIRON) == "${A}!"


@pytest.mark.parametrize(
    "text",
    ["${P}_API_KEY", "${NO:-OPENAI}_API_KEY", "OPEN${NO:-AI}_API_KEY", "${P}_${NO:-API}_KEY"],
)
def test_text_that_becomes_the_name_of_a_variable_is_its_value(text: str) -> None:
    assert interpolate(text, ENVIRON) == "sk-1"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${A}", "alpha"),
        ("${A}${B}", "alphabeta"),
        ("OPENAI_API_KEY", "OPENAI_API_KEY"),
        ("${NO:-OPENAI_API_KEY}", "OPENAI_API_KEY"),
        ("${B}_API_KEY", "beta_API_KEY"),
        ("${P}-API-KEY", "OPENAI-API-KEY"),
    ],
)
def test_no_other_text_does(text: str, result: str) -> None:
    assert interpolate(text, ENVIRON) == result


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("${NO}", "NO"),
        ("a ${A} ${NO} ${NIL}", "NO"),
        ("${NIL:-${NO}}", "NO"),
        ("${EMPTY:-${NO}}", "NO"),
        ("${NO}_API_KEY", "NO"),
    ],
)
def test_a_variable_that_is_not_set_is_named(text: str, named: str) -> None:
    with pytest.raises(InterpolationError) as caught:
        interpolate(text, ENVIRON)
    assert str(caught.value) == (
        f"variable {named} is not set; set it, or give a default: ${{{named}:-default}}"
    )


def test_a_default_that_is_not_needed_may_name_what_is_not_set() -> None:
    assert interpolate("${A:-${NO}}", ENVIRON) == "alpha"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${", "${ has no closing brace; write ${NAME} or ${NAME:-default}"),
        ("${A", "${ has no closing brace; write ${NAME} or ${NAME:-default}"),
        ("x ${A:-b", "${A:-… has no closing brace; add }"),
        ("${A:-${B}", "${A:-… has no closing brace; add }"),
        ("${A:-${B:-c}", "${A:-… has no closing brace; add }"),
        ("${}", "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"),
        ("${1}", "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"),
        ("${A-b}", "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"),
        ("${A:?b}", "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"),
        ("${ A }", "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"),
        ("${É}", "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"),
    ],
)
def test_what_is_malformed_is_refused(text: str, said: str) -> None:
    with pytest.raises(InterpolationError) as caught:
        interpolate(text, ENVIRON)
    assert str(caught.value) == said


def test_defaults_may_nest_as_deep_as_one_likes() -> None:
    assert interpolate("${NO:-" * 5000 + "x" + "}" * 5000, ENVIRON) == "x"


PIECES = st.sampled_from(["${", "}", ":-", "$", "{", "A", "B", "NO", "_KEY", "x", " ", "É", "\n"])
VALUES = st.text(max_size=5).map("s3cret{}".format)


@given(
    st.lists(PIECES, max_size=20).map("".join) | st.text(),
    st.dictionaries(st.sampled_from(["A", "B", "A_KEY"]), VALUES),
)
@example("${A}_KEY ${NO}", {"A": "s3cret"})
def test_nothing_but_its_own_error_and_no_value_in_it(
    text: str, environ: Mapping[str, str]
) -> None:
    try:
        refused, result = None, interpolate(text, environ)
    except InterpolationError as error:
        refused, result = str(error), text
    assert refused is None or ("${" in text and "s3cret" not in refused)
    assert "${" in text or result == text
