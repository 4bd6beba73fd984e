"""A stream as one answer, and one answer as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from endpoints import END, ROLE, delta, failure_of, run
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalid
from proxy.upstream.conversion import chunks_of, says_something, whole
from proxy.upstream.port import Json

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def stream(*chunks: Json, together: int = 1) -> AsyncIterator[Sequence[Json]]:
    for start in range(0, len(chunks), together):
        yield chunks[start : start + together]


def assembled(*chunks: Json, together: int = 1) -> Json:
    async def test() -> Json:
        return await whole(stream(*chunks, together=together))

    return run(test)


def streamed(answer: Json) -> list[Json]:
    async def test() -> list[Json]:
        return [chunk async for batch in chunks_of(answer) for chunk in batch]

    return run(test)


class TestAStreamAsAnAnswer:
    @pytest.mark.parametrize("together", [1, 2, 9])
    def test_is_what_the_chunks_say(self, together: int) -> None:
        head = {"id": "x-1", "created": 7, "system_fingerprint": "fp"}
        last: Json = {**END, "choices": [{**END["choices"][0], "finish_reason": "length"}]}
        usage: Json = {"choices": [], "usage": USAGE}
        chunks = [{**ROLE, **head}, delta("17 * 23"), delta(" = 391"), last, usage]
        assert assembled(*chunks, together=together) == {
            "object": "chat.completion",
            **head,
            "model": "served",
            "usage": USAGE,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "17 * 23 = 391"},
                    "finish_reason": "length",
                }
            ],
        }

    def test_keeps_its_logprobs(self) -> None:
        said = {"content": [{"token": "a", "logprob": -0.1}]}
        answer = assembled(ROLE, delta("a", logprobs=said), END)
        assert answer["choices"][0]["logprobs"]["content"] == said["content"]

    def test_keeps_its_tool_calls(self) -> None:
        function = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]
        more = [{"index": 0, "function": {"arguments": "{}"}}]
        chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": t}}]} for t in (function, more)]
        message = assembled(*chunks, END)["choices"][0]["message"]
        assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}

    @pytest.mark.parametrize("chunks", [[], [ROLE], [ROLE, delta("cut")], [{"choices": []}]])
    def test_that_is_cut_is_invalid(self, chunks: list[Json]) -> None:
        async def test() -> None:
            assert type(await failure_of(whole(stream(*chunks)))) is UpstreamInvalid

        run(test)

    def test_ignores_what_is_no_choice(self) -> None:
        odd: Json = {"choices": ["odd", None]}
        assert assembled(odd, delta("a"), END)["choices"][0]["message"]["content"] == "a"


class TestAnAnswerAsAStream:
    def test_says_it_all_and_ends(self) -> None:
        message = {"role": "assistant", "content": "391", "reasoning_content": "hm"}
        choices: list[Json] = [
            {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": []}},
            {"index": 1, "message": {"role": "assistant", "content": "392"}, "finish_reason": None},
        ]
        answer = {"id": "x", "created": 7, "model": "m", "choices": choices, "usage": USAGE}
        head = {"id": "x", "created": 7, "model": "m", "object": "chat.completion.chunk"}
        first, second, usage = streamed(answer)
        assert first == {
            **head,
            "choices": [
                {"index": 0, "delta": message, "finish_reason": "stop", "logprobs": {"content": []}}
            ],
        }
        assert second["choices"][0]["index"] == 1
        assert second["choices"][0]["finish_reason"] == "stop"
        assert usage == {**head, "choices": [], "usage": USAGE}

    def test_has_no_chunk_of_a_usage_that_was_not_told(self) -> None:
        message = {"role": "assistant", "content": "391"}
        (only,) = streamed({"choices": [{"message": message}]})
        assert only["choices"][0]["index"] == 0

    @given(
        st.text(),
        st.none() | st.text(min_size=1),
        st.sampled_from(["stop", "length", "tool_calls"]),
        st.booleans(),
    )
    def test_and_back_is_the_same(
        self, content: str, reasoning: str | None, finish: str, usage: bool
    ) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        choice = {"index": 0, "message": message, "finish_reason": finish}
        answer: Json = {"object": "chat.completion", "id": "x", "model": "m", "choices": [choice]}
        if usage:
            answer["usage"] = USAGE
        assert assembled(*streamed(answer)) == answer


@pytest.mark.parametrize(
    ("chunk", "said"),
    [
        ({}, False),
        ({"choices": []}, False),
        ({"choices": None}, False),
        ({"choices": [], "usage": USAGE}, False),
        (ROLE, False),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, False),
        ({"choices": [{"delta": None}]}, False),
        ({"choices": [{}]}, False),
        (delta("x"), True),
        (END, True),
        ({"choices": [{"delta": {"reasoning_content": "hm"}}]}, True),
        ({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, True),
        ({"choices": ["odd"]}, True),
        ({"choices": [{"delta": "odd"}]}, True),
    ],
)
def test_what_says_something(chunk: Json, said: bool) -> None:
    assert says_something(chunk) is said
