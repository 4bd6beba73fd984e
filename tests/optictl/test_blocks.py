"""Our block in files of others: what it adds, and that all else stays byte for byte."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optictl.blocks import BEGIN, END, block_lines, with_block, without_block
from optictl.unit_file import environment_file
from proxy.errors import ConfigError

ROUTER, ENV = Path("router.yaml"), Path("env.local")
MODELS = ["- model_name: opt-a", "  litellm_params:", "    model: openai/opt-a"]
OTHER_MODELS = ["- model_name: opt-b", "  litellm_params: {model: openai/opt-b}"]
FILE = ["- optictl_models.yaml"]
LINES = ["A_MODEL=openai/opt-a", 'A_API_KEY="k \\" y"']
OTHERS = "# BEGIN MLXCTL AUTO", "# END MLXCTL AUTO"


def router(content: bytes, lines: list[str] = MODELS) -> bytes:
    return with_block(content, lines, ROUTER, where="router")


def env(content: bytes, lines: list[str] = LINES) -> bytes:
    return with_block(content, lines, ENV, where="env")


def models(content: bytes) -> list[Any]:
    listed: list[Any] = yaml.safe_load(content)["model_list"]
    return listed


def refused(content: bytes, lines: list[str] = MODELS) -> str:
    with pytest.raises(ConfigError) as error:
        router(content, lines)
    return str(error.value)


# router.yaml


@pytest.mark.parametrize("column", [0, 2, 4])
def test_models_are_indented_as_the_list_is(column: int) -> None:
    pad = " " * column
    content = f"model_list:\n{pad}- model_name: a\n{pad}  x: 1\nz: 1\n".encode()
    result = router(content)
    assert f"{pad}{BEGIN}\n{pad}- model_name: opt-a\n".encode() in result
    assert [each["model_name"] for each in models(result)] == ["a", "opt-a"]
    assert yaml.safe_load(result)["z"] == 1


@pytest.mark.parametrize(
    ("content", "before"),
    [
        (b"", 0),
        (b"# nothing yet\n", 0),
        (b"z: 1\n", 0),
        (b"  z: 1\n", 0),
        (b"model_list:\n", 0),
        (b"model_list:   # later\nz: 1", 0),
        (b"---\nmodel_list:\n- a\n...\n", 1),
        (b"\xef\xbb\xbfmodel_list:\n- a\n", 1),
        (b"model_list: &all\n  - a: &one {b: 1}\n  - *one", 2),
        (b"model_list:\n- a\n- # null\nz: 1\n", 2),
        (b"model_list:\n- a: |+\n    text\n\n\nz: 1\n", 1),
        (b"model_list:\n- [a,\n   b]  # c\n\nz: 1\n", 1),
        (b'"model_list":\n- a:\n    - b:\n', 1),
        (b"? model_list\n: - a\n", 1),
        (b"z: {x: 1, x: 2}\nmodel_list:\n- {a: 1, a: 2}\n", 1),
        (b"model_list:\n- a\nmodel_list:\n- b\n- c\nz: 1\n", 2),
        (b"z: 'caf\xc3\xa9 \xf0\x9f\x98\x80'\nmodel_list:\n- '\xf0\x9f\x98\x80'\nx: 1\n", 1),
    ],
)
def test_whatever_the_file_looks_like(content: bytes, before: int) -> None:
    result = router(content)
    assert len(models(result)) == before + 1
    assert models(result)[-1] == {
        "model_name": "opt-a",
        "litellm_params": {"model": "openai/opt-a"},
    }
    assert router(result) == result
    assert block_lines(result, ROUTER) == tuple(MODELS)
    assert without_block(result, ROUTER) == content


def test_ours_is_never_inside_of_another_tools_block() -> None:
    content = "\n".join(
        ["model_list:", f"  {OTHERS[0]}", "  - a", f"  {OTHERS[1]}", "", "# settings", "z: 1", ""]
    ).encode()
    result = router(content).decode().splitlines()
    assert result.index(f"  {BEGIN}") == result.index(f"  {OTHERS[1]}") + 1
    assert result[-2:] == ["# settings", "z: 1"]


def test_a_block_that_is_there_stays_in_its_place() -> None:
    first = router(b"model_list:\n  - a\n")
    grown = first + b"  - appended\nz: 1\n"
    changed = router(grown, OTHER_MODELS)
    assert [each if isinstance(each, str) else each["model_name"] for each in models(changed)] == [
        "a", "opt-b", "appended"
    ]  # fmt: skip
    assert without_block(changed, ROUTER) == without_block(grown, ROUTER)


def test_a_block_that_no_longer_stands_in_the_list_is_moved_there() -> None:
    moved = router(b"z: 1\n") + b"model_list:\n- a\n"
    result = router(without_block(moved, ROUTER), MODELS)
    assert router(moved) == result
    assert [each if isinstance(each, str) else each["model_name"] for each in models(result)] == [
        "a", "opt-a"
    ]  # fmt: skip


def test_a_block_whose_owner_has_indented_it_anew_is_read_as_it_was_written() -> None:
    content = router(b"model_list:\n- a\n").replace(b"\n", b"\n    ").rstrip(b" ")
    assert block_lines(content, ROUTER) == tuple(MODELS)


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (b"z: 1\nmodel_list: []\n", ":2: ", "a line of its own for each entry"),
        (b"model_list: [{a: 1}]\n", ":1: ", "a line of its own"),
        (b"model_list: ~\n", ":1: ", "a line of its own"),
        (b"model_list:\n  a: 1\n", ":2: ", "a line of its own"),
        (b"x: &x\n- a\nmodel_list: *x\n", ":3: ", "is an alias"),
        (b"x: 1\nmodel_list: &x\n- a\ny: *x\n", ":3: ", "without changing something else"),
        (b"model_list:\n- a: |\n    text", ":3: ", "without changing something else"),
        (b"x: &x {model_list: [a]}\n<<: *x\n", ":2: ", "without changing something else"),
        (b"{model_list: []}", ":1: ", "in braces"),
        (b"- a\n", ":1: ", "must be a mapping"),
        (b"a: 1\nb: [secret\n", ":3:1: ", "not YAML"),
        (b"a: 1\nb: \xff\n", ":2: ", "not UTF-8"),
        (b"a: *secret\n", ":1:4: ", "not YAML"),
    ],
)
def test_what_cannot_be_added_to_is_refused_with_its_line(
    content: bytes, place: str, said: str
) -> None:
    message = refused(content)
    assert message.startswith(f"{ROUTER}{place}")
    assert said in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("content", "included"),
    [
        (b"", []),
        (b"model_list:\n- a\nz: 1", []),
        (b"  model_list:\n  - a\n", []),
        (b"include:\nz: 1\n", []),
        (b"include:\n- a.yaml\nmodel_list:\n- a\n", ["a.yaml"]),
        (b"z: 1\r\ninclude:\r\n    - 'a.yaml' # theirs\r\n    - b.yaml", ["a.yaml", "b.yaml"]),
    ],
)
def test_a_file_is_included_behind_those_of_others(content: bytes, included: list[str]) -> None:
    result = router(content, FILE)
    assert yaml.safe_load(result)["include"] == [*included, "optictl_models.yaml"]
    assert router(result, FILE) == result
    assert block_lines(result, ROUTER) == tuple(FILE)
    assert without_block(result, ROUTER) == content


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (b"z: 1\ninclude: [a.yaml]\n", ":2: ", "'include' must have a line of its own for each"),
        (b"include: a.yaml\n", ":1: ", "a line of its own for each entry"),
        (b"x: &x\n- a\ninclude: *x\n", ":3: ", "'include' is an alias"),
        (b"{model_list: []}", ":1: ", "in braces"),
    ],
)
def test_what_cannot_include_another_is_refused_with_its_line(
    content: bytes, place: str, said: str
) -> None:
    message = refused(content, FILE)
    assert message.startswith(f"{ROUTER}{place}")
    assert said in message


# Markers.


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        (["a: 1", BEGIN], 2, f"'{BEGIN}' has no '{END}' after it"),
        (["a: 1", END], 2, f"'{END}' has no '{BEGIN}' before it"),
        ([END, BEGIN], 1, f"'{END}' has no '{BEGIN}' before it"),
        ([BEGIN, f"  {BEGIN}", END, END], 2, f"a second '{BEGIN}' before '{END}'"),
        ([BEGIN, END, "a: 1", BEGIN, END], 4, "a second block of ours"),
        ([BEGIN, END, END], 3, "a second block of ours"),
        (["", "#BEGIN OPTICTL AUTO", END], 2, "a broken marker"),
        ([BEGIN, "# end optictl auto"], 2, "a broken marker"),
        ([f"{BEGIN} (do not edit)", END], 1, "a broken marker"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_markers_that_are_not_a_pair_are_refused_with_their_line(
    lines: list[str], line: int, said: str, end: str
) -> None:
    content = end.join(lines).encode()
    for read in (block_lines, without_block):
        with pytest.raises(ConfigError, match=f"^{ROUTER}:{line}: ") as error:
            read(content, ROUTER)
        assert said in str(error.value)
    assert refused(content) == str(error.value)


def test_a_text_about_the_markers_is_none() -> None:
    content = f"# what stands between {BEGIN} and {END} is optictl's\na: 1 # {BEGIN}\n".encode()
    assert block_lines(content, ROUTER) is None
    assert without_block(content, ROUTER) == content


def test_no_lines_no_block() -> None:
    assert router(router(b"model_list:\n- a"), []) == b"model_list:\n- a"
    assert env(env(b"X=1"), []) == b"X=1"


# Files of variables.


def test_the_block_is_at_the_end_where_the_last_assignment_counts() -> None:
    content = env(b"A_MODEL=theirs\n") + b"A_MODEL=later\n"
    result = env(content)
    assert environment_file(result)["A_MODEL"] == "openai/opt-a"
    assert result.startswith(b"A_MODEL=theirs\nA_MODEL=later\n# BEGIN")
    assert environment_file(without_block(result, ENV))["A_MODEL"] == "later"


def test_a_line_that_was_appended_behind_the_block_stays_a_line() -> None:
    appended = env(b"X=1") + b"Y=2\n"
    assert environment_file(without_block(appended, ENV)) == {"X": "1", "Y": "2"}


def test_the_block_reads_the_same_for_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(env(b"A_MODEL='theirs'"))
    shown = subprocess.run(
        ["sh", "-ac", f'. "{file}"; printf "%s|%s" "$A_MODEL" "$A_API_KEY"'],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert shown.stdout == 'openai/opt-a|k " y'


@pytest.mark.parametrize("content", [b'X=1\nY="open\n', b"X=1\nY=goes on\\\n", b"X=1\nY=on\\"])
def test_a_last_line_that_goes_on_would_swallow_the_block(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^env\.local:2: the last line goes on"):
        env(content)


# Any file.

ENDS = st.sampled_from(["\n", "\r\n"])
WORDS = st.sampled_from(
    [
        "z: 1", "# a comment", "", "   ", "X=1", 'Y="q" # no comment', f"  {OTHERS[0]}", OTHERS[1],
        "\tz", "é😀", "a\rb", "export Z=2", "# BEGIN", "END OPTICTL AUTO", "=", "\x0c",
    ]
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Lines with line ends of both kinds, the last one perhaps without."""
    lines = draw(st.lists(st.tuples(WORDS, ENDS), max_size=8))
    last = draw(WORDS)
    bom = draw(st.sampled_from(["", "\ufeff"]))
    return (bom + "".join(word + end for word, end in lines) + last).encode()


@given(texts(), st.lists(st.sampled_from(LINES), min_size=1, max_size=3))
def test_any_file_of_variables_comes_back_byte_for_byte(content: bytes, lines: list[str]) -> None:
    result = env(content, lines)
    assert result.startswith(content)
    assert env(result, lines) == result
    assert block_lines(result, ENV) == tuple(lines)
    assert without_block(result, ENV) == content
    assert env(env(content, LINES), lines) == result


ENTRIES = st.sampled_from(
    [
        ["- model_name: a", "  x: [1,", "    2]"],
        ["- |", "  text", ""],
        ["- >-", "  folded", "  # no comment"],
        ["- a: &a 'q'", "  b: *a  # c"],
        ["-"],
        ["- - nested", "  - x:"],
        ["-   {a: 1, a: 2}"],
        [OTHERS[0], "- theirs", OTHERS[1]],
        ["# a comment", "- x"],
    ]
)
AFTER = st.lists(
    st.sampled_from(["# c", "", "general_settings:\n  a: 1", OTHERS[1], "  # d", "y: |+\n  t\n\n"]),
    max_size=3,
    unique=True,
)


INCLUDED = st.sampled_from(
    [
        ["- a.yaml"],
        ['- "b.yaml"  # no comment', ""],
        ["- >-", "  c.yaml", "  # no comment"],
        ["-   'd.yaml'"],
        [OTHERS[0], "- theirs.yaml", OTHERS[1]],
        ["# a comment", "- e.yaml"],
    ]
)


@st.composite
def routers(
    draw: st.DrawFn, key: str = "model_list", each: st.SearchStrategy[list[str]] = ENTRIES
) -> bytes:
    """Valid YAML with a list somewhere in it."""
    pad = " " * draw(st.sampled_from([0, 1, 2, 4]))
    entries = draw(st.lists(each, min_size=1, max_size=4, unique_by=tuple))
    before = draw(st.sampled_from(["", "# head\n", "x: 1\n", "---\n", "\ufeffx: 1\n"]))
    listed = [pad + line for entry in entries for line in entry]
    after = draw(AFTER)
    text = before + "\n".join([f"{key}:", *listed, *after])
    text += draw(st.sampled_from(["\n", "\n\n"])) if draw(st.booleans()) else "\nlast: 1"
    return text.replace("\n", draw(ENDS)).encode()


@given(routers(), st.sampled_from([MODELS, OTHER_MODELS]))
def test_any_router_comes_back_byte_for_byte(content: bytes, lines: list[str]) -> None:
    result = router(content, lines)
    old, new = yaml.safe_load(content), yaml.safe_load(result)
    ours = yaml.safe_load("\n".join(lines))
    assert new.pop("model_list") == [*old.pop("model_list"), *ours]
    assert new == old
    crlf = b"\r\n" in content
    assert result.count(b"\r\n") == (result.count(b"\n") if crlf else 0)
    assert router(result, lines) == result
    assert block_lines(result, ROUTER) == tuple(lines)
    assert without_block(result, ROUTER) == content
    assert router(router(content, MODELS), lines) == result


@given(st.one_of(routers("include", INCLUDED), routers()))
def test_any_router_that_is_to_include_ours_comes_back_byte_for_byte(content: bytes) -> None:
    result = router(content, FILE)
    old, new = yaml.safe_load(content), yaml.safe_load(result)
    assert new.pop("include") == [*old.pop("include", []), "optictl_models.yaml"]
    assert new == old
    assert router(result, FILE) == result
    assert block_lines(result, ROUTER) == tuple(FILE)
    assert without_block(result, ROUTER) == content


@given(st.one_of(routers("include", INCLUDED), routers()))
def test_the_models_of_any_router_move_into_a_file_and_back(content: bytes) -> None:
    moved = router(router(content), FILE)
    assert "opt-a" not in moved.decode()
    assert yaml.safe_load(moved)["include"][-1] == "optictl_models.yaml"
    back = router(moved)
    assert models(back)[-1]["model_name"] == "opt-a"
    assert without_block(moved, ROUTER) == without_block(back, ROUTER) == content
