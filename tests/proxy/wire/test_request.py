"""A request's body: what is accepted, what each member becomes, what is refused and why."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadRequest
from proxy.settings import Limits
from proxy.wire.request import ChatRequest, parse_chat, parse_completion, parse_object

TURN = {"role": "user", "content": "Hello"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def parsed(**members: Any) -> ChatRequest:
    return parse_chat({"model": "m", "messages": [TURN], **members})


def refusal(body: dict[str, Any] | None = None, **members: Any) -> BadRequest:
    """How a request is refused that differs in ``members`` from a good one."""
    with pytest.raises(BadRequest) as caught:
        parse_chat({"model": "m", "messages": [TURN], **members} if body is None else body)
    return caught.value


class TestParsingTheBytes:
    @given(st.dictionaries(st.text(max_size=6), JSON))
    def test_every_object_comes_through_as_it_is(self, members: dict[str, Any]) -> None:
        assert parse_object(orjson.dumps(members)) == members
        assert parse_object(json.dumps(members, indent=1).encode()) == members

    @pytest.mark.parametrize(
        "body",
        [
            b"", b" ", b"{", b"nonsense", b'{"a":}', b"{'a': 1}", b'{"a": 1,}', b'{"a": NaN}',
            b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b'{"a": 1} {"b": 2}',
            b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"),
        ],
        ids=repr,
    )  # fmt: skip
    def test_what_is_no_json_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequest) as caught:
            parse_object(body)
        assert caught.value.code == "invalid_json"

    @pytest.mark.parametrize(
        "body", [b"[]", b'[{"model": "m"}]', b'"text"', b"1", b"null", b"true"]
    )
    def test_what_is_no_object_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequest, match="must be a JSON object") as caught:
            parse_object(body)
        assert caught.value.code == "invalid_json"

    @pytest.mark.parametrize(
        ("body", "name"),
        [
            (b'{"model": "a", "model": "b"}', "model"),
            (b'{"n": 1, "n": 1}', "n"),
            (b'{"a": {"b": [{"c": 1, "c": 2}]}}', "c"),
            (b'{"": 1, "": 2}', ""),
            (b'{"model": "a", "mod\\u0065l": "b"}', "model"),
            (b'{"a" \n : 1, "a":2}', "a"),
            (b'{"\\"": 1, "\\"" : 2}', '"'),
        ],
    )
    def test_a_member_given_twice_is_refused_wherever_it_stands(
        self, body: bytes, name: str
    ) -> None:
        with pytest.raises(BadRequest) as caught:
            parse_object(body)
        assert caught.value.code == "invalid_json"
        assert f"'{name}' is given twice" in caught.value.message

    @pytest.mark.parametrize(
        "body",
        [
            b'{"a": "b\\":", "b": ["\\"x\\" : \\"x\\" :"]}',
            b'{"a": {"b": 1}, "c": {"b": 1}}',
            b'{"a": ":", "b": "\\\\", "c": "\\\\\\":"}',
        ],
    )
    def test_colons_and_equal_names_elsewhere_are_no_duplicates(self, body: bytes) -> None:
        assert parse_object(body) == json.loads(body)

    @pytest.mark.parametrize("opened", ['{"a":', "["])
    def test_absurd_nesting_is_refused(self, opened: str) -> None:
        closed = "}" if opened.startswith("{") else "]"
        deep = opened * 240 + "1" + closed * 240
        with pytest.raises(BadRequest, match="nested deeper"):
            parse_object(f'{{"messages": {deep}}}'.encode())

    def test_nesting_that_tools_need_is_accepted(self) -> None:
        body = ('{"a":' * 100 + "1" + "}" * 100).encode()
        assert parse_object(body) == json.loads(body)


class TestWhatIsRead:
    def test_the_members_of_a_full_request(self) -> None:
        request = parsed(
            stream=True,
            stream_options={"include_usage": True},
            n=3,
            temperature=0,
            top_k=40,
            optillm_approach="bon",
            optillm_base_model="base",
            optillm_options={"samples": 7},
            optillm_budget={"max_calls": 9, "max_total_tokens": 100, "max_seconds": 1.5},
            optillm_trace=True,
        )
        assert request.model == "m"
        assert request.messages == [TURN]
        assert request.stream
        assert request.include_usage
        assert request.choices == 3
        assert request.approach == "bon"
        assert request.base_model == "base"
        assert request.options == {"samples": 7}
        assert request.limits == Limits(max_calls=9, max_total_tokens=100, max_seconds=1.5)
        assert request.trace
        assert request.endpoint == "chat"

    def test_params_are_what_goes_upstream_as_it_came(self) -> None:
        forwarded = {
            "temperature": 0.5,
            "seed": 7,
            "tools": [{"type": "function", "function": {"name": "f", "strict": None}}],
            "top_k": 40,
            "chat_template_kwargs": {"enable_thinking": False},
            "stop": None,
            "headers": {"x-a": "b"},
        }
        assert parsed(**forwarded, n=2, stream=False, optillm_approach="none").params == forwarded

    def test_messages_are_the_very_objects_of_the_body(self) -> None:
        body = {"messages": [{**TURN, "vendor": {"cache": True}}]}
        assert parse_chat(body).messages is body["messages"]

    def test_the_least_request_has_neutral_values(self) -> None:
        request = parse_chat({"messages": [TURN]})
        assert request == ChatRequest(messages=[TURN], params={})
        assert request.model is None
        assert request.choices is None
        assert not request.include_usage

    def test_null_is_as_good_as_absent(self) -> None:
        names = ("n", "stream", "stream_options", "optillm_approach", "optillm_budget")
        names += ("optillm_base_model", "optillm_options", "optillm_trace", "extra_body")
        assert parsed(**dict.fromkeys(names)) == parsed()

    def test_extra_body_means_its_members(self) -> None:
        nested = {"optillm_approach": "moa", "top_k": 3, "temperature": 1}
        request = parsed(extra_body=nested, temperature=0)
        assert request.approach == "moa"
        assert request.params == {"top_k": 3, "temperature": 0}

    @pytest.mark.parametrize("name", ["proxy_wrap", "wrapped_approach", "wrap"])
    def test_what_a_proxy_wraps_is_the_approach(self, name: str) -> None:
        assert parsed(optillm_approach="proxy", **{name: "moa"}).approach == "moa"
        assert parsed(**{name: "moa"}).approach == "moa"
        assert parsed(optillm_approach="bon", **{name: "moa"}).approach == "bon"
        assert parsed(**{name: "moa"}).params == {}

    @pytest.mark.parametrize(
        ("members", "base"),
        [
            ({"metadata": {"base_model": "b"}}, "b"),
            ({"metadata": {"base_model": "b"}, "optillm_base_model": "c"}, "c"),
            ({"metadata": {"base_model": ""}}, None),
            ({"metadata": {"base_model": 7}}, None),
            ({"metadata": None}, None),
            ({"metadata": {"user": "u"}}, None),
        ],
    )
    def test_the_base_model_may_stand_in_the_metadata(
        self, members: dict[str, Any], base: str | None
    ) -> None:
        assert parsed(**members).base_model == base

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
            {"role": "assistant", "tool_calls": [{"id": "c"}]},
            {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "assistant", "audio": {"id": "audio_1"}},
            {"role": "tool", "content": "4", "tool_call_id": "c"},
            {"role": "function", "content": "4", "name": "f"},
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            {"role": "user", "content": [{"type": "of_a_vendor", "x": 1}], "name": "Ada"},
            {"role": "user", "content": ""},
        ],
    )
    def test_every_kind_of_turn_is_accepted(self, message: dict[str, Any]) -> None:
        assert parse_chat({"messages": [message]}).messages == [message]


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            (None, "messages"),
            ("Hello", "messages"),
            ({"role": "user"}, "messages"),
            ([], "messages"),
            (["Hello"], "messages[0]"),
            ([TURN, None], "messages[1]"),
            ([{"content": "Hello"}], "messages[0].role"),
            ([TURN, {"role": "bot", "content": "Hello"}], "messages[1].role"),
            ([{"role": None, "content": "Hello"}], "messages[0].role"),
            ([{"role": "user"}], "messages[0].content"),
            ([{"role": "user", "content": None}], "messages[0].content"),
            ([{"role": "assistant", "content": None}], "messages[0].content"),
            ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0].content"),
            ([{"role": "user", "content": 7}], "messages[0].content"),
            ([{"role": "user", "content": {"text": "Hello"}}], "messages[0].content"),
            ([{"role": "user", "content": ["Hello"]}], "messages[0].content[0]"),
            ([{"role": "user", "content": [{"text": "Hello"}]}], "messages[0].content[0].type"),
            ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
            (
                [{"role": "user", "content": [{"type": "text", "text": 7}]}],
                "messages[0].content[0].text",
            ),
            ([{"role": "user", "content": "", "name": 7}], "messages[0].name"),
            ([{"role": "assistant", "tool_calls": "f"}], "messages[0].tool_calls"),
            ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]"),
        ],
        ids=repr,
    )
    def test_a_wrong_message_is_named_by_its_path(self, messages: Any, param: str) -> None:
        error = refusal(messages=messages)
        assert error.param == param
        assert f"'{param}'" in error.message

    def test_messages_are_required(self) -> None:
        error = refusal({"model": "m"})
        assert error.param == "messages"
        assert "is required" in error.message

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model", None), ("model", 7), ("model", ""), ("model", ["m"]),
            ("model", "m" * 10_000), ("model", "m\nx"), ("model", "m\x00"),
            ("n", 0), ("n", -1), ("n", "1"), ("n", 1.5), ("n", True),
            ("stream", "true"), ("stream", 1),
            ("stream_options", True), ("stream_options", []),
            ("temperature", "hot"), ("temperature", True), ("top_p", "1"), ("top_p", []),
            ("presence_penalty", "x"), ("frequency_penalty", {}),
            ("max_tokens", 0), ("max_tokens", "10"), ("max_completion_tokens", 1.5),
            ("seed", "7"), ("seed", 1.5), ("stop", 7), ("stop", {"a": 1}),
            ("logprobs", 1), ("top_logprobs", -1), ("top_logprobs", "5"), ("logit_bias", [1]),
            ("response_format", "json"), ("tools", {}), ("tools", "f"), ("tool_choice", 7),
            ("parallel_tool_calls", "yes"), ("functions", {}), ("function_call", 7),
            ("reasoning_effort", 3), ("user", 7), ("metadata", "x"), ("extra_body", []),
            ("optillm_approach", 7), ("optillm_approach", "a" * 513), ("optillm_approach", []),
            ("optillm_base_model", ""), ("optillm_base_model", 7), ("optillm_base_model", "m\t"),
            ("optillm_base_model", "m" * 513), ("optillm_options", "samples=3"),
            ("optillm_options", [3]), ("optillm_budget", 5), ("optillm_budget", "all"),
            ("optillm_trace", "yes"), ("proxy_wrap", 7), ("wrap", []), ("wrapped_approach", {}),
        ],
        ids=lambda value: repr(value)[:30],
    )  # fmt: skip
    def test_a_wrong_type_or_range_names_the_member(self, name: str, value: Any) -> None:
        error = refusal(**{name: value})
        assert error.param == name
        assert f"'{name}'" in error.message
        assert len(error.message) < 300

    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"stop": ["a", 7]}, "stop[1]"),
            ({"tools": [{}, "f"]}, "tools[1]"),
            ({"stream": True, "stream_options": {"include_usage": "x"}},
             "stream_options.include_usage"),
            ({"optillm_budget": {"max_calls": 0}}, "optillm_budget.max_calls"),
            ({"optillm_budget": {"max_calls": -1}}, "optillm_budget.max_calls"),
            ({"optillm_budget": {"max_calls": "5"}}, "optillm_budget.max_calls"),
            ({"optillm_budget": {"max_calls": 2.5}}, "optillm_budget.max_calls"),
            ({"optillm_budget": {"max_total_tokens": 0}}, "optillm_budget.max_total_tokens"),
            ({"optillm_budget": {"max_total_tokens": "x"}}, "optillm_budget.max_total_tokens"),
            ({"optillm_budget": {"max_seconds": 0}}, "optillm_budget.max_seconds"),
            ({"optillm_budget": {"max_seconds": -0.1}}, "optillm_budget.max_seconds"),
            ({"optillm_budget": {"max_seconds": "1"}}, "optillm_budget.max_seconds"),
            ({"optillm_budget": {"max_rounds": 3}}, "optillm_budget.max_rounds"),
            ({"metadata": {"base_model": "b\n"}}, "metadata.base_model"),
            ({"metadata": {"base_model": "b" * 513}}, "metadata.base_model"),
        ],
        ids=repr,
    )  # fmt: skip
    def test_a_nested_member_is_named_by_its_path(
        self, members: dict[str, Any], param: str
    ) -> None:
        assert refusal(**members).param == param

    def test_stream_options_without_a_stream_are_refused(self) -> None:
        error = refusal(stream_options={"include_usage": True})
        assert error.param == "stream_options"
        assert refusal(stream=False, stream_options={"x": 1}).param == "stream_options"

    def test_a_million_wrong_messages_cost_one_error(self) -> None:
        """An error object for each would fill the memory: 700 MB for 1 MB of zeros."""
        error = refusal({"messages": [0] * 1_000_000})
        assert isinstance(error.__context__, Exception)
        assert error.__context__.error_count() == 1  # type: ignore[attr-defined]


class TestLegacyCompletions:
    def test_a_prompt_is_one_user_turn(self) -> None:
        request = parse_completion({"model": "m", "prompt": "Once", "max_tokens": 5, "n": 2})
        assert request.messages == [{"role": "user", "content": "Once"}]
        assert request.params == {"max_tokens": 5}
        assert request.endpoint == "text"
        assert request.choices == 2

    def test_a_list_of_one_prompt_is_that_prompt(self) -> None:
        assert parse_completion({"prompt": ["Once"]}).messages[0]["content"] == "Once"

    @pytest.mark.parametrize("prompt", [None, 7, ["a", "b"], [], [[1, 2]], [1, 2], {"text": "a"}])
    def test_other_prompts_are_refused(self, prompt: Any) -> None:
        with pytest.raises(BadRequest) as caught:
            parse_completion({"model": "m", "prompt": prompt})
        assert caught.value.param == "prompt"

    @pytest.mark.parametrize(
        ("name", "value"), [("best_of", 3), ("echo", True), ("logprobs", 5), ("suffix", "end")]
    )
    def test_what_a_chat_cannot_do_is_refused(self, name: str, value: Any) -> None:
        with pytest.raises(BadRequest) as caught:
            parse_completion({"model": "m", "prompt": "Once", name: value})
        assert caught.value.param == name

    @pytest.mark.parametrize(
        ("name", "value"), [("best_of", 1), ("echo", False), ("logprobs", None), ("suffix", None)]
    )
    def test_its_neutral_values_are_accepted_and_go_nowhere(self, name: str, value: Any) -> None:
        assert parse_completion({"prompt": "Once", name: value}).params == {}
