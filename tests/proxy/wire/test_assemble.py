"""A message cut into deltas and put together again is the message."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.chat import Reply
from proxy.wire.assemble import Assembler, deltas_of

TEXTS = st.text(max_size=30)
NAMES = st.text("abcdefgh_", min_size=1, max_size=12)
ENTRIES = st.fixed_dictionaries({
    "token": st.text(max_size=4),
    "logprob": st.floats(-20, 0),
    "top_logprobs": st.just([]),
})  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message as an upstream's JSON body carries it."""
    message: dict[str, Any] = {"role": "assistant"}
    calls = draw(st.integers(0, 3))
    # With tool calls, an empty text is null.
    said = st.none() | TEXTS.filter(bool) if calls else TEXTS
    message["content"] = draw(said)
    for name in ("reasoning_content", "refusal"):
        if draw(st.booleans()):
            message[name] = draw(TEXTS.filter(bool))
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{nth}",
                "type": "function",
                "function": {"name": draw(NAMES), "arguments": draw(TEXTS)},
            }
            for nth in range(calls)
        ]
    elif draw(st.booleans()):
        message["content"] = None
        message["function_call"] = {"name": draw(NAMES), "arguments": draw(TEXTS)}
    return message


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """``text`` in pieces, empty ones among them."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    ends = [*places, len(text)]
    return [text[start:end] for start, end in zip([0, *places], ends, strict=True)]


@st.composite
def streamed(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A message, and the choices of the chunks that a server may stream it in."""
    message = draw(messages())
    opening = draw(st.sampled_from(["", None])) if message["content"] is None else ""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": opening}]
    for name in ("reasoning_content", "content", "refusal"):
        if message.get(name) is not None:
            deltas += [{name: piece} for piece in draw(cut(message[name]))]
    if "function_call" in message:
        call = message["function_call"]
        deltas.append({"function_call": {"name": call["name"], "arguments": ""}})
        deltas += [{"function_call": {"arguments": p}} for p in draw(cut(call["arguments"]))]
    fragments: list[list[dict[str, Any]]] = []
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        first = {**call, "index": index, "function": {**function, "arguments": ""}}
        rest = [
            {"index": index, "function": {"arguments": piece}}
            for piece in draw(cut(function["arguments"]))
        ]
        fragments.append([first, *rest])
    while any(fragments):
        waiting = [queue for queue in fragments if queue]
        chosen = draw(st.sampled_from(range(len(waiting))))
        deltas.append({"tool_calls": [waiting[chosen].pop(0)]})
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    return message, [*choices, {"index": 0, "delta": {}, "finish_reason": "stop"}]


@given(streamed())
def test_a_streamed_message_equals_the_one_in_json(
    stream: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    message, choices = stream
    assembler = Assembler()
    for choice in choices:
        assert not assembler.complete
        assembler.add(choice)
    assert assembler.complete
    assert assembler.message() == message
    assert assembler.text == (message["content"] or "")


@given(messages())
def test_a_message_as_one_delta_equals_itself(message: dict[str, Any]) -> None:
    assembler = Assembler()
    assembler.delta(deltas_of(message))
    assert assembler.message() == message


@given(st.lists(ENTRIES, min_size=1, max_size=8), st.data())
def test_logprobs_are_joined_in_order(entries: list[dict[str, Any]], data: st.DataObject) -> None:
    assembler = Assembler()
    left = list(entries)
    while left:
        size = data.draw(st.integers(1, len(left)))
        assembler.add({"delta": {"content": "x"}, "logprobs": {"content": left[:size]}})
        left = left[size:]
    assembler.add({"delta": {}, "logprobs": None, "finish_reason": "length"})
    reply = assembler.reply(model="m", usage={"total_tokens": 3})
    assert reply.logprobs == {"content": entries}
    assert reply.finish_reason == "length"
    assert reply.truncated
    assert (reply.model, reply.usage) == ("m", {"total_tokens": 3})


def test_a_logprobs_member_that_is_always_null_stays_null() -> None:
    assembler = Assembler()
    for token in "ab":
        entry = {"token": token, "logprob": -0.1}
        assembler.add({"delta": {}, "logprobs": {"content": [entry], "refusal": None}})
    logprobs = assembler.reply().logprobs
    assert [entry["token"] for entry in logprobs["content"]] == ["a", "b"]
    assert logprobs["refusal"] is None


def test_without_logprobs_there_are_none() -> None:
    assembler = Assembler()
    assembler.add({"delta": {"content": "a"}, "finish_reason": "stop"})
    assert assembler.reply().logprobs is None


def test_tool_calls_of_a_server_that_gives_no_index_go_by_their_place() -> None:
    assembler = Assembler()
    both = [{"id": f"c{i}", "function": {"name": f"f{i}", "arguments": "{}"}} for i in range(2)]
    assembler.delta({"tool_calls": [{"index": None, **call} for call in both]})
    assert [call["function"]["name"] for call in assembler.message()["tool_calls"]] == ["f0", "f1"]


def test_an_empty_id_in_later_fragments_does_not_replace_the_id() -> None:
    assembler = Assembler()
    first = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    assembler.delta({"tool_calls": [{"index": 0, **first}]})
    later = {"index": 0, "id": "", "type": "", "function": {"name": None, "arguments": "}"}}
    assembler.delta({"tool_calls": [later]})
    whole = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert assembler.message()["tool_calls"] == [whole]


def test_a_members_last_value_stands_where_it_is_no_text() -> None:
    assembler = Assembler()
    assembler.delta({"content": "a", "annotations": [1]})
    assembler.delta({"content": "b", "annotations": [1, 2], "vendor": None})
    message = {"role": "assistant", "content": "ab", "annotations": [1, 2]}
    assert assembler.message() == message


def test_nothing_at_all_is_an_empty_reply() -> None:
    reply = Assembler().reply()
    assert reply == Reply(message={"role": "assistant", "content": None})
    assert reply.empty
