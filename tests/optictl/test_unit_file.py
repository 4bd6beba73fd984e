"""Units and files of variables that others wrote, read as systemd reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optictl.errors import OptictlError
from optictl.quoting import env_line, exec_word
from optictl.unit_file import (
    commands,
    environment_file,
    expanded,
    parse_unit,
    specified,
    unquoted,
    words,
)

FILE = Path("/etc/systemd/system/x.service")


def value_of(content: bytes, key: str = "ExecStart") -> str:
    found = parse_unit(content, FILE).last(key)
    assert found is not None
    return found.value


def arguments(value: str, **variables: str) -> list[str]:
    (command,) = commands(value)
    return expanded(command, variables)


class TestUnits:
    def test_lines_are_joined_and_comments_between_them_left_out(self) -> None:
        content = b"[Service]\nExecStart=/bin/a \\\n  -b \\\n# no\n; nor this\n  -c\nUser=x\n"
        assert words(value_of(content)) == ["/bin/a", "-b", "-c"]
        assert value_of(content, "User") == "x"

    def test_a_place_is_that_of_the_first_line(self) -> None:
        content = b"\n[Service]\n# x\nExecStart=/bin/a \\\n -b\nUser=y\n"
        unit = parse_unit(content, FILE)
        assert [each.origin for each in unit.assignments] == [f"{FILE}:4", f"{FILE}:6"]

    def test_carriage_returns_are_ends_of_lines(self) -> None:
        content = b"\xef\xbb\xbf[Service]\r\nExecStart=/bin/a \\\r\n  -b\r\nUser=x\r\n"
        assert words(value_of(content)) == ["/bin/a", "-b"]
        assert value_of(content, "User") == "x"

    def test_an_empty_value_begins_a_list_anew(self) -> None:
        unit = parse_unit(b"[Service]\nExecStart=/a\nExecStart=\nExecStart=/b\n", FILE)
        assert [each.value for each in unit.all("ExecStart")] == ["/b"]

    def test_only_the_section_that_is_asked_for(self) -> None:
        unit = parse_unit(b"User=no\n[Unit]\nUser=nor\n[Service]\nUser=yes\n", FILE)
        assert [each.value for each in unit.all("User")] == ["yes"]

    @given(st.binary(max_size=200))
    def test_garbage_is_no_error(self, content: bytes) -> None:
        for each in parse_unit(content, FILE).assignments:
            commands(each.value)
        environment_file(content)

    def test_lines_that_are_not_utf8_are_left_out_alone(self) -> None:
        unit = parse_unit(b"[Service]\nExecStart=/a \xff\xfe\nUser=x\n", FILE)
        assert [each.key for each in unit.assignments] == ["User"]


class TestCommands:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("/a 'b c' \"d e\"", ["/a", "b c", "d e"]),
            (r"/a b\sc \x41 \101 \u00e9", ["/a", "b c", "A", "A", "é"]),
            (r"/a \q", ["/a", r"\q"]),
            ("/a --x='y z'", ["/a", "--x=y z"]),
            ('/a ""', ["/a", ""]),
            ("-/a b", ["/a", "b"]),
            ("@/a argv0 b", ["/a", "b"]),
            ("!!/a b", ["/a", "b"]),
            (r"/a \; b", ["/a", ";", "b"]),
        ],
    )
    def test_words(self, value: str, expected: list[str]) -> None:
        assert arguments(value) == expected

    def test_a_semicolon_parts_commands(self) -> None:
        assert [each.words for each in commands("/a b ; /c d")] == [("/a", "b"), ("/c", "d")]

    def test_a_quote_that_does_not_close_is_no_command(self) -> None:
        assert commands("/a 'b") == []

    def test_a_lone_variable_is_split_and_a_braced_one_is_not(self) -> None:
        given = {"OPTS": "--a 'b c' d"}
        assert arguments("/x $OPTS", **given) == ["/x", "--a", "b c", "d"]
        assert arguments("/x ${OPTS}", **given) == ["/x", "--a 'b c' d"]
        assert arguments("/x a${OPTS}z a$OPTS", A="1", **given)[1:] == ["a--a 'b c' dz", "a$OPTS"]

    def test_variables_that_are_not_set(self) -> None:
        assert arguments("/x $NO ${NO} $$HOME") == ["/x", "", "$HOME"]

    def test_a_colon_keeps_variables_as_they_are(self) -> None:
        assert arguments(":/x $A ${A}", A="1") == ["/x", "$A", "${A}"]

    def test_specifiers(self) -> None:
        assert specified("%h/x %% %Z", {"h": "/root"}) == "/root/x % %Z"

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    def test_what_we_quote_is_read_as_it_was(self, text: str) -> None:
        try:
            quoted = exec_word(text)
        except OptictlError:
            return
        value = specified(f"/x {quoted}", {})
        if "\n" not in quoted:
            assert arguments(value) == ["/x", text]


class TestVariables:
    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("K=v", "v"),
            ("K= v w  ", "v w"),
            (r"K=back\slash", "backslash"),
            ('K="a\\"b\\\\c\\d"', 'a"b\\c\\d'),
            ("K='a\\b\"c'", 'a\\b"c'),
            ("K=a # b", "a # b"),
            ("K=$X%%`y`", "$X%%`y`"),
            ("K=a'b", "a'b"),
            ("K='a' \"b\"c", "abc"),
            ("K=a\\\nb", "ab"),
            ('K="a\nb"', "a\nb"),
            ("K=v\r", "v"),
            ("  K = v", "v"),
            ("K=", ""),
        ],
    )
    def test_a_value(self, line: str, value: str) -> None:
        assert environment_file(f"# K=no\n;K=no\n{line}\nL=1\n".encode()) == {"K": value, "L": "1"}

    def test_what_the_shell_would_take_and_systemd_does_not(self) -> None:
        assert environment_file(b"export G=1\n1X=2\nO-P=3\nA=4") == {"A": "4"}

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    def test_what_we_write_is_read_as_it_was(self, text: str) -> None:
        try:
            line = env_line("K", text)
        except OptictlError:
            return
        assert environment_file(f"{line}\n".encode()) == {"K": text}


def test_unquoted_keeps_what_is_no_escape() -> None:
    assert unquoted(r"a\zb\U99999999") == r"a\zb\U99999999"
