"""When two replies call the same tools."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import tool_call_key

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def call(name: str, arguments: Any, call_id: str = "call_1") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    return {"id": call_id, "type": "function", "function": function}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return tool_call_key([a]) == tool_call_key([b])


def test_ids_do_not_count() -> None:
    assert same(call("f", {"x": 1}, "a"), call("f", {"x": 1}, "b"))


def test_names_and_values_count() -> None:
    assert not same(call("f", {"x": 1}), call("g", {"x": 1}))
    assert not same(call("f", {"x": 1}), call("f", {"x": 2}))
    assert not same(call("f", {"x": "a"}), call("f", {"x": "A"}))


def test_spelling_of_the_arguments_does_not_count() -> None:
    assert same(call("f", '{"a": 1, "b": [2.0]}'), call("f", '{"b":[2],"a":1.0}'))
    assert same(call("f", "{}"), call("f", ""))


def test_truth_is_not_one() -> None:
    assert not same(call("f", {"x": True}), call("f", {"x": 1}))
    assert not same(call("f", {"x": "1"}), call("f", {"x": 1}))


def test_parallel_calls_are_a_multiset() -> None:
    a, b = call("f", {"x": 1}), call("g", {"x": 2})
    assert tool_call_key([a, b]) == tool_call_key([b, a])
    assert tool_call_key([a, a]) != tool_call_key([a])


def test_arguments_that_are_no_json_are_compared_as_text() -> None:
    assert same(call("f", ' {"x": 1'), call("f", '{"x": 1 '))
    assert not same(call("f", '{"x": 1'), call("f", '{"x": 2'))
    assert same(call("f", "[" * 100_000), call("f", "[" * 100_000))
    assert same(call("f", f'{{"x": {"9" * 9000}}}'), call("f", f'{{"x": {"9" * 9000}}}'))


def test_arguments_may_be_decoded_and_tools_custom() -> None:
    decoded = {"function": {"name": "f", "arguments": {"x": 1}}}
    assert same(decoded, call("f", {"x": 1}))
    custom = {"type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    assert same(custom, {**custom, "id": "z"})
    assert not same(custom, {"custom": {"name": "sql", "input": "select 2"}})


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.dictionaries(st.text(), VALUES))
def test_keys_are_equal_exactly_where_the_arguments_are(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    def strict(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert same(call("f", json.dumps(a, indent=2)), call("f", a))
    assert same(call("f", a), call("f", b)) == (strict(a) == strict(b))
