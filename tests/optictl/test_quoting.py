"""Text in systemd's grammars, read back by small readers of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optictl.errors import OptictlError
from optictl.quoting import env_line, exec_word, rest_of_line, word


def sound(text: str) -> bool:
    """Without Unicode's noncharacters, which systemd takes for broken UTF-8."""
    return not any(0xFDD0 <= ord(c) <= 0xFDEF or ord(c) & 0xFFFE == 0xFFFE for c in text)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(sound)
#: Where the grammars have their corners.
CORNERS = st.text(st.sampled_from("\\\"'$%`#;{} \t=-@:!ax0\r\x1b\x7fé"), max_size=12)
PRINTABLE = st.one_of(TEXT, CORNERS).filter(
    lambda text: all(c >= " " and c != "\x7f" for c in text)
)


def read_env(line: str) -> tuple[str, str]:
    """One line of an EnvironmentFile, as load_env_file() of systemd 252 reads it."""
    name, _, rest = line.partition("=")
    assert rest.startswith('"')
    value, at = [], 1
    while rest[at] != '"':
        if rest[at] == "\\":
            at += 1
            if rest[at] not in '"\\`$':
                value.append("\\")
        value.append(rest[at])
        at += 1
    assert at == len(rest) - 1, "the quotes end before the line does"
    return name.strip(), "".join(value)


def read_words(line: str, *, c_escapes: bool) -> list[str]:
    """A line's words, as extract_first_word() of systemd 252 takes them apart."""
    found: list[str] = []
    current: list[str] | None = None
    quote = ""
    at = 0
    while at < len(line):
        char = line[at]
        at += 1
        if char == "\\":
            escape = line[at]
            at += 1
            if c_escapes and escape == "x":
                escape = chr(int(line[at : at + 2], 16))
                at += 2
            elif c_escapes:
                assert escape in "\\\"'abfnrtsv", f"\\{escape} is unknown"
            current = [*(current or []), escape]
        elif quote:
            if char == quote:
                quote = ""
            else:
                assert current is not None
                current.append(char)
        elif char in "\"'":
            quote = char
            current = current or []
        elif char in " \t\r\n":
            if current is not None:
                found.append("".join(current))
            current = None
        else:
            current = [*(current or []), char]
    assert not quote
    return found if current is None else [*found, "".join(current)]


def expanded(text: str, sign: str) -> str:
    """``text`` with ``%%`` or ``$$`` as one, in which nothing else is to be expanded."""
    assert sign not in text.replace(sign * 2, "")
    return text.replace(sign * 2, sign)


@given(st.one_of(TEXT, CORNERS).filter(lambda value: "\n" not in value))
def test_a_value_comes_back_from_an_environment_file(value: str) -> None:
    assert read_env(env_line("KEY", value)) == ("KEY", value)


@pytest.mark.parametrize("odd", ["\0", "\n", "\ud800", "\ufffe", "\ufdd0", "\U0010ffff"])
def test_a_value_that_cannot_be_said_is_refused_unseen(odd: str) -> None:
    with pytest.raises(OptictlError, match=r"^KEY: ") as refused:
        env_line("KEY", f"hush{odd}hush")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "1X", "O-P", "export G", "Ä", "A\n"])
def test_a_name_that_systemd_would_drop_is_refused(name: str) -> None:
    with pytest.raises(OptictlError, match="no name of a variable"):
        env_line(name, "value")


@given(st.lists(st.one_of(TEXT, CORNERS)))
def test_arguments_come_back_from_exec_start(arguments: list[str]) -> None:
    line = " ".join(map(exec_word, arguments))
    assert "\n" not in line
    words = read_words(line, c_escapes=True)
    assert [expanded(expanded(each, "%"), "$") for each in words] == arguments


def test_what_needs_no_quotes_has_none() -> None:
    assert exec_word("http://127.0.0.1:4000/v1") == "http://127.0.0.1:4000/v1"


def test_an_argument_ends_no_command_and_names_no_variable() -> None:
    assert [exec_word(each) for each in (";", "$HOME", "%d", "")] == [
        '";"',
        '"$$HOME"',
        '"%%d"',
        '""',
    ]


@given(st.lists(PRINTABLE))
def test_entries_come_back_from_a_setting_of_several(entries: list[str]) -> None:
    words = read_words(" ".join(map(word, entries)), c_escapes=False)
    assert [expanded(each, "%") for each in words] == entries


def test_a_value_without_quotes_is_its_line() -> None:
    assert rest_of_line("/a b/50%") == "/a b/50%%"


@pytest.mark.parametrize("odd", ["a\n", " a", "a ", "a\\", "a\0b", "a\ufffe"])
def test_a_value_that_its_line_would_change_is_refused(odd: str) -> None:
    with pytest.raises(OptictlError, match="cannot stand in a unit"):
        rest_of_line(odd)


@pytest.mark.parametrize("quoted", [exec_word, word])
def test_what_is_no_text_is_refused(quoted: object) -> None:
    assert callable(quoted)
    with pytest.raises(OptictlError, match="systemd refuses"):
        quoted("a\0b")
