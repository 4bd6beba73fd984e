"""The registry of handles: our rows among those of others, and ``optictl handles validate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from optictl.cli import build
from optictl.handles import our_rows, row, validate, with_handles
from proxy.errors import ConfigError

PATH = Path("handles.jsonl")
A, B = row("opt-a-fast-s"), row("opt-b-fast-s", "two models")
THEIRS: dict[str, Any] = {
    "handle": "mlx-a",
    "kind": "model",
    "invoke": "openai-chat",
    "managed_by": "launchd",
    "endpoint_ref": "ep_mlx_8100",
    "selector": {"model": "mlx-a"},
}


def line(base: Any = THEIRS, **changes: Any) -> bytes:
    return json.dumps({**base, **changes}).encode()


# Our rows.


def test_a_row_says_what_the_registry_wants_of_an_ensemble() -> None:
    assert B == {
        "handle": "opt-b-fast-s",
        "kind": "model",
        "invoke": "openai-chat",
        "managed_by": "systemd",
        "endpoint_ref": "ep_optillm_proxy_4020",
        "selector": {"model": "opt-b-fast-s"},
        "notes": "two models",
    }
    assert validate(with_handles(line() + b"\n", [A, B], PATH)) == []


def test_ours_are_added_replaced_and_removed_each_in_its_place() -> None:
    both = with_handles(line() + b"\n", [A, B], PATH) + line(handle="last") + b"\n"
    assert our_rows(both) == [A, B]
    noted = row("opt-a-fast-s", "now with a note")
    changed = with_handles(both, [noted], PATH)
    assert [json.loads(each)["handle"] for each in changed.splitlines()] == [
        "mlx-a", "opt-a-fast-s", "last"
    ]  # fmt: skip
    assert our_rows(changed) == [noted]


def test_a_row_of_ours_that_says_the_same_is_left_as_it_is_written() -> None:
    written = json.dumps(dict(reversed(A.items())), separators=(",", ":")).encode() + b"\n"
    assert with_handles(written, [A], PATH) == written


def test_a_row_of_ours_that_stands_twice_is_written_once() -> None:
    once = with_handles(b"", [A], PATH)
    assert with_handles(once * 2, [A], PATH) == once


@pytest.mark.parametrize(
    "other",
    [{"managed_by": "manual"}, {"endpoint_ref": "ep_other"}, {"handle": "mlx-opt-a"}],
)
def test_what_is_almost_ours_is_somebody_elses(other: dict[str, str]) -> None:
    content = line(A, **other) + b"\n"
    assert with_handles(content, [], PATH) == content
    assert our_rows(content) == []


def test_a_handle_that_somebody_else_has_is_refused_with_its_line() -> None:
    content = line() + b"\n" + line(A, managed_by="manual")
    with pytest.raises(ConfigError, match=r"^handles\.jsonl:2: handle 'opt-a-fast-s' is somebody"):
        with_handles(content, [A], PATH)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", None])
def test_line_ends_are_those_of_the_file(end: bytes, last: bytes | None) -> None:
    content = line() + end + line(handle="z") + (end if last is None else last)
    result = with_handles(content, [A], PATH)
    assert result.endswith(b"}" if last == b"" else b"}" + end)
    assert result.count(b"\r\n") == (result.count(b"\n") if end == b"\r\n" else 0)


ODD = st.sampled_from(
    [
        line(), line(handle="x").replace(b" ", b""), b"", b"  ", b"{broken", b"# comment", b"\xff",
        b"[]", b"1" * 5000, line(handle=["opt-a"]), line(A, managed_by="docker", handle="opt-z"),
    ]
)  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(ODD, ENDS), max_size=6), ODD, st.sampled_from([[A], [B], [A, B]]))
def test_any_file_comes_back_byte_for_byte(
    lines: list[tuple[bytes, bytes]], last: bytes, rows: list[Any]
) -> None:
    content = b"".join(each + end for each, end in lines) + last
    result = with_handles(content, rows, PATH)
    assert our_rows(result) == rows
    assert with_handles(result, rows, PATH) == result
    assert with_handles(result, [], PATH) == content


# The rules.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"handle": "Upper"}, "handle: must be text of a-z, 0-9 and -"),
        ({"handle": "a_b"}, "handle: must be text of a-z, 0-9 and -"),
        ({"handle": "a\n"}, "handle: must be text of a-z, 0-9 and -"),
        ({"handle": ""}, "handle: must be text of a-z, 0-9 and -"),
        ({"handle": 1}, "handle: must be text of a-z, 0-9 and -"),
        ({"kind": "models"}, "kind: must be one of: model, callable; did you mean 'model'?"),
        ({"kind": None}, "kind: must be one of: model, callable"),
        ({"kind": ["model"]}, "kind: must be one of: model, callable"),
        (
            {"managed_by": "cron"},
            "managed_by: must be one of: systemd, launchd, docker, manual, external",
        ),
        ({"endpoint_ref": ""}, "endpoint_ref: must be text, and not empty"),
        ({"endpoint_ref": None}, "endpoint_ref: must be text, and not empty"),
        ({"selector": "mlx-a"}, "selector: must be null or an object"),
        ({"selector": {"model": "a_b"}}, "selector.model: must be text of a-z, 0-9 and -"),
        ({"selector": {"model": "a&b"}}, "selector.model: must be text of a-z, 0-9 and -"),
        (
            {"selector": {"tools": ["a", "b.c"]}},
            "selector.tools[1]: must be text of a-z, 0-9 and -",
        ),
        ({"notes": None}, "notes: must be text"),
        ({"status": "active"}, "status: unknown field; remove it"),
        ({"note": ""}, "note: unknown field; did you mean 'notes'?"),
        ({"a\nb\x1b": ""}, r"a\nb\x1b: unknown field; remove it"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_field(changes: dict[str, Any], said: str) -> None:
    assert validate(b"\n" + line(**changes) + b"\n") == [f"line 2: {said}"]


@pytest.mark.parametrize("name", [*THEIRS])
def test_every_field_but_the_notes_is_required(name: str) -> None:
    short = json.dumps({key: value for key, value in THEIRS.items() if key != name}).encode()
    assert validate(short) == [f"line 1: {name}: is missing; add it"]


@pytest.mark.parametrize("kind", ["model", "callable"])
@pytest.mark.parametrize("invoke", ["openai-embeddings", "mcp-tool", "http-get", "http-post"])
@pytest.mark.parametrize("selector", [None, {}, {"tool": "a-1", "n": 3, "on": True}])
def test_all_kinds_ways_and_selectors_are_taken(kind: str, invoke: str, selector: Any) -> None:
    assert validate(line(kind=kind, invoke=invoke, selector=selector, notes="Ä, B & C")) == []


@pytest.mark.parametrize(
    "changes", [{"handle": "opt-x"}, {"endpoint_ref": "ep_optillm_proxy_4021"}]
)
def test_the_model_of_a_proxys_handle_is_a_pipeline(changes: dict[str, Any]) -> None:
    assert validate(line(**changes, selector={"model": "re2&bon|self_consistency-a"})) == []
    assert validate(line(**changes, selector={"model": "a b"})) == [
        "line 1: selector.model: must be text of a-z, 0-9, -, &, | and _"
    ]
    assert validate(line(**changes, selector={"other": "a|b"})) == [
        "line 1: selector.other: must be text of a-z, 0-9 and -"
    ]


def test_no_handle_and_no_target_stands_twice() -> None:
    content = b"\r\n".join(
        [line(selector={"a": "1", "b": "2"}), b"", line(selector=None),
         line(handle="z", selector={"b": "2", "a": "1"}), line(handle="y", kind="callable")]
    )  # fmt: skip
    assert validate(content) == [
        "line 3: handle: is already in line 1; rename or remove one",
        "line 4: selector: line 1 has the same kind, endpoint_ref and selector",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"handle": sk-secret}', "is not JSON: Expecting value, at column 12"),
        (b"[]", "must be a JSON object: begin it with {"),
        (b'{"handle": "a", "handle": "b"}', "'handle' stands twice; remove one"),
        (b'{"handle": "\xff"}', "is not UTF-8; save the file as UTF-8"),
        (b"1" * 5000, "is not JSON that can be read"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (
            b"\xef\xbb\xbf{}",
            "is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig), at column 1",
        ),
    ],
)
def test_a_line_that_is_no_row(content: bytes, said: str) -> None:
    assert validate(content) == [f"line 1: row: {said}"]


# The command.


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["handles", "validate", *arguments])


def test_a_valid_file_is_ok(tmp_path: Path) -> None:
    path = tmp_path / "handles.jsonl"
    path.write_bytes(with_handles(line() + b"\n\n", [A], PATH))
    result = run(str(path))
    assert (result.exit_code, result.stdout) == (0, f"ok: {path} (2 handles)\n")
    found = json.loads(run(str(path), "--json").stdout)
    assert found["data"] == {"path": str(path), "handles": 2, "problems": []}


def test_what_is_wrong_is_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "handles.jsonl"
    path.write_bytes(line(status="on") + b"\n" + line(kind="x", handle="b"))
    result = run(str(path))
    assert result.exit_code == 1
    assert (
        result.stdout.splitlines()
        == [
            "line 1: status: unknown field; remove it",
            "line 2: kind: must be one of: model, callable",
            "line 2: selector: line 1 has the same kind, endpoint_ref and selector",
        ][: len(result.stdout.splitlines())]
    )
    found = json.loads(run(str(path), "--json").stdout)
    assert (found["exit_code"], found["data"]["problems"]) == (1, result.stdout.splitlines())
    assert [each["message"] for each in found["errors"]] == found["data"]["problems"]


def test_no_such_file_is_2_and_one_that_cannot_be_read_1(tmp_path: Path) -> None:
    missing = run(str(tmp_path / "nope"))
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr == f"optictl: {tmp_path}/nope does not exist\n"
    folder = run(str(tmp_path))
    assert (folder.exit_code, folder.stdout) == (1, "")
    assert folder.stderr == f"optictl: cannot read {tmp_path}: Is a directory\n"


def test_without_a_file_it_is_the_sites(tmp_path: Path) -> None:
    site, handles = tmp_path / "optictl.yaml", tmp_path / "handles.jsonl"
    site.write_text("proxy: {base_model: a}\n")
    lacking = run("--config", str(site))
    assert lacking.exit_code == 2
    assert lacking.stderr.startswith(f"optictl: {site} names no gateway.handles")
    handles.write_bytes(line())
    found = run("--config", str(site), "--set", f"gateway.handles={handles}")
    assert found.stdout == f"ok: {handles} (1 handles)\n"
