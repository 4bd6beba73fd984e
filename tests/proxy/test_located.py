"""YAML with places: what is read, what is refused, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import ConfigError
from proxy.located import Place, parse, scalar

FILE = Path("pool.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    return str(caught.value)


def doubling(template: str, times: int = 40) -> str:
    """Lines of which each holds the one before it twice, by an alias."""
    first = "l0: &l0 {k: v}\n"
    rest = (f"l{i}: &l{i} " + template.format(f"*l{i - 1}") for i in range(1, times))
    return first + "\n".join(rest)


class TestValues:
    def test_scalars_are_what_yaml_says(self) -> None:
        text = "a: 1\nb: 1.5\nc: yes\nd: null\ne: '1'\nf: .inf\ng:\nh: [x, {y: z}]\n"
        assert parse(text, FILE).value == {
            "a": 1,
            "b": 1.5,
            "c": True,
            "d": None,
            "e": "1",
            "f": float("inf"),
            "g": None,
            "h": ["x", {"y": "z"}],
        }

    def test_dates_and_keys_are_the_text_that_was_written(self) -> None:
        assert parse("on: 2024-10-21\n1.10: a\n2: =\n", FILE).value == {
            "on": "2024-10-21",
            "1.10": "a",
            "2": "=",
        }

    def test_aliases_and_merges_work_and_own_keys_come_first(self) -> None:
        text = (
            "a: &a {x: 1, y: 1, z: 1}\nb: &b {x: 2, y: 2}\n"
            "one: {<<: *a, x: 0}\ntwo: {x: 0, <<: [*b, *a]}\nthree: *a\n"
        )
        value = parse(text, FILE).value
        assert value["one"] == {"x": 0, "y": 1, "z": 1}
        assert value["two"] == {"x": 0, "y": 2, "z": 1}
        assert value["three"] == value["a"]

    def test_a_byte_order_mark_and_dos_lines_mean_nothing(self) -> None:
        document = parse("\ufeffa: 1\r\nb:\r\n  c: 2\r\n", FILE)
        assert document.value == {"a": 1, "b": {"c": 2}}
        assert document.place(("b", "c")) == Place(3, 6)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2", 2),
            ("2.5", 2.5),
            ("true", True),
            ("", None),
            ("a b", "a b"),
            ("2024-10-21", "2024-10-21"),
            ("0b_", "0b_"),
        ],
    )
    def test_a_scalar_by_itself_is_read_alike(self, text: str, value: object) -> None:
        assert scalar(text) == value


class TestPlaces:
    def test_keys_and_values_know_where_they_begin(self) -> None:
        document = parse("a:\n  - b: 1\n    'c':   [x, {d: y}]\n", FILE)
        assert document.place(("a",)) == Place(2, 3)
        assert document.place(("a", 0)) == Place(2, 5)
        assert document.place(("a", 0, "b")) == Place(2, 8)
        assert document.key(("a", 0, "c")) == Place(3, 5)
        assert document.place(("a", 0, "c", 1, "d")) == Place(3, 20)

    def test_what_is_not_there_is_where_it_would_be(self) -> None:
        document = parse("a:\n  - b: 1\n", FILE)
        assert document.place(("a", 0, "name")) == Place(2, 5)
        assert document.key(("a", 0, "name")) == Place(2, 5)
        assert document.place(("providers",)) == Place(1, 1)

    def test_a_merged_value_is_where_it_was_written(self) -> None:
        document = parse("a: &a\n  x: 1\nb:\n  <<: *a\n  y: 2\n", FILE)
        assert document.place(("b", "x")) == Place(2, 6)
        assert document.key(("b", "x")) == Place(2, 3)
        assert document.key(("b", "y")) == Place(5, 3)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "1:1: the file is empty; it must name at least one provider"),
            ("# only words\n", "1:1: the file is empty; it must name at least one provider"),
            ("- a\n", "1:1: the file must be a mapping; begin it with 'providers:'"),
            ("---\ntext\n", "2:1: the file must be a mapping; begin it with 'providers:'"),
            ("a: 1\nb: 2\na: 3\n", "3:1: key 'a' stands twice, first in line 1; remove one"),
            ("a:\n  b: {c: 1, c: 2}", "2:13: key 'c' stands twice, first in line 2; remove one"),
            ("? [a]\n: b\n", "1:3: a key must be text, not a list or a mapping"),
            ("a: !!set {b}\n", "1:4: a tag (!…) has no meaning here; remove it"),
            ("a: !!python/name:os.x\n", "1:4: a tag (!…) has no meaning here; remove it"),
            ("a: !!int x\n", "1:4: cannot be read as int; if it is text, put it in quotes"),
            ("a: !!bool x\n", "1:4: cannot be read as bool; if it is text, put it in quotes"),
            ("a: !!int ''\n", "1:4: cannot be read as int; if it is text, put it in quotes"),
            ("a: 0b_\n", "1:4: cannot be read as int; if it is text, put it in quotes"),
            (
                "a: &a\n  b: [*a]\n",
                "1:4: an alias leads back into what it names; write it out instead",
            ),
            (
                "a: &a\n  <<: *a\n",
                "1:4: an alias leads back into what it names; write it out instead",
            ),
            ("<<: 3\n", "1:5: '<<' merges a mapping or a list of mappings, nothing else"),
            ("a: x\x07y\n", "1:5: not YAML: character #x0007 is not allowed; remove it"),
            ("a: 1\nb: x\x07\n", "2:5: not YAML: character #x0007 is not allowed; remove it"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_place(self, text: str, said: str) -> None:
        assert refusal(text) == f"pool.yaml:{said}"

    @pytest.mark.parametrize(
        ("text", "place", "words"),
        [
            ("a: 1\n---\nb: 2\n", "2:1", "expected a single document"),
            ("a:\n\tb: 1\n", "2:1", "cannot start any token"),
            ("a: 1\n  b: 2\n", "2:4", "mapping values are not allowed here"),
            ("a: [1,\n", "2:1", "while parsing a flow node"),
            ("a: 'x\n", "2:1", "while scanning a quoted scalar (from line 1)"),
            ("a: {b: ${C}}\n", "1:9", "expected ',' or '}'"),
        ],
    )
    def test_bad_syntax_has_the_same_shape(self, text: str, place: str, words: str) -> None:
        said = refusal(text)
        assert said.startswith(f"pool.yaml:{place}: not YAML: ")
        assert words in said
        assert said.endswith("; check indentation, quotes and colons")

    @pytest.mark.parametrize(
        "text", ["a: *sekret\n", "a: &sekret 1\nb: &sekret 2\n", "a: !sekret!x 1\n"]
    )
    def test_a_value_that_looks_like_syntax_is_not_shown(self, text: str) -> None:
        assert "sekret" not in refusal(text)

    @pytest.mark.parametrize("template", ["[{0}, {0}]", "{{<<: [{0}, {0}]}}"])
    def test_aliases_that_double_40_times_are_refused(self, template: str) -> None:
        assert "with its aliases written out the file has over 100000" in refusal(
            doubling(template)
        )

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 5000,
            "a: " + "{a: " * 5000,
            "- " * 5000,
            "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [*l{i - 1}]\n" for i in range(1, 2000)),
        ],
        ids=["lists", "mappings", "blocks", "aliases"],
    )
    def test_depth_is_bounded(self, text: str) -> None:
        assert refusal(text).endswith(": nested too deeply")
