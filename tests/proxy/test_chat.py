"""Chat and Reply: views of what the client sent, and new chats that leave it as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from proxy.chat import Chat, Message, Reply, filtered, text_of, without_thinking

SYSTEM = {"role": "system", "content": "Be brief."}
FIRST = {"role": "user", "content": "What is 2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}
LAST = {"role": "user", "content": "And 3 + 3?", "name": "ada"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
PARTS = {"role": "user", "content": [{"type": "text", "text": "See"}, IMAGE]}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":3}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "6", "tool_call_id": "c1"}
DRAFT = Reply.of("It is 6.")


def chat(*messages: Message, **params: Any) -> Chat:
    return Chat(messages=messages, params=params)


class TestViews:
    def test_of_an_ordinary_conversation(self) -> None:
        view = chat(SYSTEM, FIRST, ANSWER, LAST)
        assert view.system == "Be brief."
        assert view.query == "And 3 + 3?"
        assert view.history == (FIRST, ANSWER)
        assert view.draft is None

    def test_system_and_developer_messages_are_one_instruction(self) -> None:
        developer = {"role": "developer", "content": [{"type": "text", "text": "In French."}]}
        view = chat(SYSTEM, developer, LAST, {"role": "system", "content": ""})
        assert view.system == "Be brief.\n\nIn French."
        assert view.history == ()

    def test_of_content_parts_the_text_is_read(self) -> None:
        more = {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}],
        }
        assert chat(more).query == "a\nb"
        assert text_of(None) == ""
        assert text_of([IMAGE]) == ""

    def test_the_query_is_the_last_user_turn_even_where_tools_have_spoken_since(self) -> None:
        view = chat(SYSTEM, FIRST, ANSWER, LAST, CALLING, RESULT)
        assert view.query == "And 3 + 3?"
        assert view.history == (FIRST, ANSWER)

    def test_a_conversation_without_a_user_turn_has_no_query(self) -> None:
        view = chat(SYSTEM, ANSWER)
        assert view.query == ""
        assert view.history == (ANSWER,)

    @pytest.mark.parametrize(
        ("view", "uses_tools", "has_parts", "formatted"),
        [
            (chat(FIRST), False, False, False),
            (chat(FIRST, tools=[{"type": "function"}]), True, False, False),
            (chat(FIRST, functions=[{"name": "f"}]), True, False, False),
            (chat(FIRST, tools=[]), False, False, False),
            (chat(FIRST, CALLING, RESULT), True, False, False),
            (chat(FIRST, {"role": "function", "name": "f", "content": "6"}), True, False, False),
            (chat(PARTS), False, True, False),
            (chat(PARTS, ANSWER, LAST), False, True, False),
            (
                chat({"role": "user", "content": [{"type": "text", "text": "a"}]}),
                False,
                False,
                False,
            ),
            (chat(FIRST, response_format={"type": "json_object"}), False, False, True),
            (chat(FIRST, response_format={"type": "text"}), False, False, False),
            (chat(FIRST, response_format=None), False, False, False),
        ],
    )
    def test_what_a_request_carries_is_seen(
        self, view: Chat, uses_tools: bool, has_parts: bool, formatted: bool
    ) -> None:
        assert (view.uses_tools, view.has_parts, view.formatted) == (
            uses_tools,
            has_parts,
            formatted,
        )


class TestWithSystem:
    def test_it_goes_behind_the_client_s_own(self) -> None:
        changed = chat(SYSTEM, LAST).with_system("Think.")
        assert changed.messages == ({**SYSTEM, "content": "Be brief.\n\nThink."}, LAST)

    def test_a_developer_message_keeps_its_role_and_parts(self) -> None:
        developer = {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
        (first, _) = chat(developer, LAST).with_system("Think.").messages
        assert first["role"] == "developer"
        assert first["content"] == [*developer["content"], {"type": "text", "text": "Think."}]

    def test_it_opens_a_conversation_that_has_none(self) -> None:
        changed = chat(FIRST, SYSTEM, LAST).with_system("Think.")
        assert changed.messages == ({"role": "system", "content": "Think."}, FIRST, SYSTEM, LAST)

    def test_the_query_stays(self) -> None:
        assert chat(LAST).with_system("Think.").query == "And 3 + 3?"


class TestWithQuery:
    def test_only_the_last_user_turn_says_it(self) -> None:
        changed = chat(SYSTEM, FIRST, ANSWER, LAST).with_query("And 5?")
        assert changed.messages == (SYSTEM, FIRST, ANSWER, {**LAST, "content": "And 5?"})

    def test_images_stay(self) -> None:
        (turn,) = chat(PARTS).with_query("Look").messages
        assert turn["content"] == [{"type": "text", "text": "Look"}, IMAGE]

    def test_what_follows_the_turn_stays(self) -> None:
        changed = chat(LAST, CALLING, RESULT).with_query("And 5?")
        assert changed.messages == ({**LAST, "content": "And 5?"}, CALLING, RESULT)

    def test_what_was_replaced_is_nowhere_to_be_read(self) -> None:
        """A transform that takes names out must not see them come back."""
        changed = chat(SYSTEM, FIRST, ANSWER, LAST).with_query("And <NUMBER>?")
        assert changed.query == "And <NUMBER>?"
        assert "3 + 3" not in repr(changed)

    def test_a_draft_stays_behind_it(self) -> None:
        drafted = chat(SYSTEM, LAST).with_draft(DRAFT)
        changed = drafted.with_query("And 5?")
        assert changed.query == "And 5?"
        assert changed.draft == DRAFT
        assert changed.messages[-1]["content"].startswith("And 5?\n")
        assert "<draft>\nIt is 6.\n</draft>" in changed.messages[-1]["content"]
        assert changed == chat(SYSTEM, LAST).with_query("And 5?").with_draft(DRAFT)

    def test_without_a_user_turn_there_is_nothing_to_replace(self) -> None:
        with pytest.raises(ValueError, match="no query"):
            chat(SYSTEM).with_query("x")


class TestWithDraft:
    def test_it_stands_in_its_tags_at_the_end_of_the_last_user_turn(self) -> None:
        drafted = chat(SYSTEM, FIRST, ANSWER, LAST).with_draft(DRAFT)
        assert drafted.messages[:3] == (SYSTEM, FIRST, ANSWER)
        turn = drafted.messages[3]
        assert turn["role"] == "user"
        assert turn["name"] == "ada"
        assert turn["content"].startswith("And 3 + 3?\n\n")
        assert turn["content"].endswith("<draft>\nIt is 6.\n</draft>")
        assert len(drafted.messages) == 4

    def test_the_views_are_the_client_s_still(self) -> None:
        drafted = chat(SYSTEM, FIRST, ANSWER, LAST).with_draft(DRAFT)
        assert drafted.query == "And 3 + 3?"
        assert drafted.history == (FIRST, ANSWER)
        assert drafted.draft == DRAFT

    def test_parts_get_one_more_part(self) -> None:
        (turn,) = chat(PARTS).with_draft(DRAFT).messages
        assert turn["content"][:2] == PARTS["content"]
        assert turn["content"][2]["type"] == "text"
        assert "<draft>\nIt is 6.\n</draft>" in turn["content"][2]["text"]

    def test_behind_tool_results_it_is_a_turn_of_its_own(self) -> None:
        drafted = chat(FIRST, ANSWER, LAST, CALLING, RESULT).with_draft(DRAFT)
        assert drafted.messages[:5] == (FIRST, ANSWER, LAST, CALLING, RESULT)
        assert drafted.messages[5]["role"] == "user"
        assert "It is 6." in drafted.messages[5]["content"]
        assert drafted.query == "And 3 + 3?"
        assert drafted.history == (FIRST, ANSWER)

    def test_a_later_draft_takes_the_place_of_the_earlier(self) -> None:
        once = chat(SYSTEM, LAST).with_draft(Reply.of("It is 7."))
        assert once.with_draft(DRAFT) == chat(SYSTEM, LAST).with_draft(DRAFT)

    def test_thinking_is_left_out_and_tool_calls_are_written_out(self) -> None:
        message = {"content": "<think>hm</think>So:", "tool_calls": [CALL]}
        (turn,) = chat(LAST).with_draft(Reply(message)).messages
        assert "hm" not in turn["content"]
        assert 'So:\n{"name":"add","arguments":"{\\"a\\":3}"}\n</draft>' in turn["content"]

    def test_a_system_text_added_later_leaves_it_in_place(self) -> None:
        drafted = chat(SYSTEM, LAST).with_draft(DRAFT).with_system("Think.")
        assert drafted == chat(SYSTEM, LAST).with_system("Think.").with_draft(DRAFT)
        assert drafted.query == "And 3 + 3?"


class TestFollowedBy:
    def test_the_conversation_stays_in_front_and_the_text_ends_the_last_turn(self) -> None:
        messages = chat(SYSTEM, FIRST, ANSWER, LAST).followed_by("Rate it.")
        assert messages[:3] == (SYSTEM, FIRST, ANSWER)
        assert messages[3] == {**LAST, "content": "And 3 + 3?\n\nRate it."}

    def test_behind_tool_results_it_is_a_turn_of_its_own(self) -> None:
        messages = chat(LAST, CALLING, RESULT).followed_by("Rate it.")
        assert messages == (LAST, CALLING, RESULT, {"role": "user", "content": "Rate it."})

    def test_parts_get_one_more_part(self) -> None:
        (turn,) = chat(PARTS).followed_by("Rate it.")
        assert turn["content"] == [*PARTS["content"], {"type": "text", "text": "Rate it."}]

    def test_an_opening_is_the_only_system_message_and_quotes_the_client_s(self) -> None:
        developer = {"role": "developer", "content": "In French."}
        late = {"role": "system", "content": "And politely."}
        messages = chat(SYSTEM, developer, FIRST, late, LAST).followed_by(
            "Rate it.", first="Judge."
        )
        assert [m["role"] for m in messages] == ["system", "user", "user"]
        assert messages[0]["content"].startswith("Judge.\n")
        for said in ("Be brief.", "In French.", "And politely."):
            assert said in messages[0]["content"]

    def test_an_opening_alone_where_the_client_gave_no_instruction(self) -> None:
        messages = chat(FIRST).followed_by("Rate it.", first="Judge.")
        assert messages[0] == {"role": "system", "content": "Judge."}

    def test_a_draft_is_part_of_what_is_followed(self) -> None:
        (turn,) = chat(LAST).with_draft(DRAFT).followed_by("Rate it.")
        assert "<draft>" in turn["content"]
        assert turn["content"].endswith("</draft>\n\nRate it.")

    def test_an_empty_turn_says_just_the_text(self) -> None:
        assert (
            chat({"role": "user", "content": ""}).followed_by("Rate it.")[0]["content"]
            == "Rate it."
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda view: view.with_system("x"),
        lambda view: view.with_query("x"),
        lambda view: view.with_draft(DRAFT),
        lambda view: view.with_draft(DRAFT).with_query("x").with_system("y"),
        lambda view: view.followed_by("x"),
        lambda view: view.followed_by("x", first="y"),
    ],
)
@pytest.mark.parametrize(
    "messages",
    [(SYSTEM, FIRST, ANSWER, LAST), (PARTS,), (SYSTEM, PARTS, CALLING, RESULT)],
    ids=["plain", "parts", "tools"],
)
def test_what_the_client_sent_is_never_changed(
    change: Callable[[Chat], object], messages: tuple[Message, ...]
) -> None:
    before = copy.deepcopy(messages)
    view = chat(*messages, temperature=0)
    change(view)
    assert messages == before
    assert view == chat(*before, temperature=0)


class TestReply:
    def test_its_text_is_its_content(self) -> None:
        assert DRAFT.text == "It is 6."
        assert Reply({"content": [{"type": "text", "text": "a"}]}).text == "a"
        assert Reply({"content": None}).text == ""

    def test_it_is_empty_without_words_and_calls(self) -> None:
        assert Reply({"content": " \n"}).empty
        assert Reply({}).empty
        assert not Reply({"content": None, "tool_calls": [CALL]}).empty
        assert not DRAFT.empty

    def test_a_call_in_the_older_shape_is_one(self) -> None:
        function = {"name": "f", "arguments": "{}"}
        reply = Reply({"content": None, "function_call": function})
        assert not reply.empty
        assert [call["function"] for call in reply.tool_calls] == [function]
        assert reply.rendered == '{"name":"f","arguments":"{}"}'

    def test_cut_off_is_what_ended_by_length(self) -> None:
        assert Reply.of("a", finish_reason="length").truncated
        assert not DRAFT.truncated

    def test_with_text_keeps_everything_else(self) -> None:
        reply = Reply({"content": "a", "vendor": 1}, "length", "m", {"total_tokens": 1})
        changed = reply.with_text("b")
        assert changed.message == {"content": "b", "vendor": 1}
        assert (changed.finish_reason, changed.model, changed.usage) == (
            "length",
            "m",
            {"total_tokens": 1},
        )
        assert reply.text == "a"

    @pytest.mark.parametrize(
        ("text", "rest"),
        [
            ("<think>hm</think>\n\nSo.", "So."),
            ("hm</think>So.", "So."),
            ("<think>a</think>x<think>b</think> y", "y"),
            ("no thought", "no thought"),
            ("<think>never closed", "<think>never closed"),
            ("all thought</think>", ""),
        ],
    )
    def test_thinking_ends_at_its_last_closing_tag(self, text: str, rest: str) -> None:
        assert without_thinking(text) == rest


class Upper:
    """A filter that holds the last character back."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        whole = self._held + text.upper()
        self._held = whole[-1:]
        return whole[:-1]

    def flush(self) -> str:
        return self._held


def test_a_filter_is_fed_and_flushed() -> None:
    assert filtered("abc", Upper()) == "ABC"
    assert filtered("abc", None) == "abc"
