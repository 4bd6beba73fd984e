"""What each failure of a provider is called, and what of its words is passed on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from canned import ANSWER, CHUNK, DONE, KEY, failure, refusal, reply, sse

from proxy.errors import (
    ModelNotFound,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalid,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)


@pytest.mark.parametrize(
    ("status", "kind", "ours", "code"),
    [
        ("400 Bad Request", UpstreamRejected, 400, "their_code"),
        ("401 Unauthorized", UpstreamAuth, 502, "upstream_auth"),
        ("403 Forbidden", UpstreamAuth, 502, "upstream_auth"),
        ("404 Not Found", ModelNotFound, 400, "model_not_found"),
        ("408 Request Timeout", UpstreamTimeout, 504, "upstream_timeout"),
        ("413 Too Large", UpstreamRejected, 413, "their_code"),
        ("422 Unprocessable", UpstreamRejected, 422, "their_code"),
        ("429 Too Many Requests", UpstreamRateLimited, 429, "upstream_rate_limited"),
        ("500 Internal Server Error", UpstreamError, 502, "upstream_error"),
        ("502 Bad Gateway", UpstreamError, 502, "upstream_error"),
        ("503 Unavailable", UpstreamOverloaded, 503, "upstream_overloaded"),
        ("504 Gateway Timeout", UpstreamTimeout, 504, "upstream_timeout"),
        ("529 Overloaded", UpstreamOverloaded, 503, "upstream_overloaded"),
        ("302 Found", UpstreamError, 502, "upstream_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_each_status_has_its_error(
    status: str, kind: type[UpstreamError], ours: int, code: str, stream: bool
) -> None:
    said = {"message": "They say no.", "code": "their_code", "param": "their_param"}
    error = failure(refusal(status, said, Location="/elsewhere"), stream=stream)
    assert type(error) is kind
    assert (error.http_status(), error.code) == (ours, code)
    if kind is UpstreamRejected:
        assert (error.message, error.param) == ("They say no.", "their_param")
    elif kind is not UpstreamAuth:
        assert "They say no." in error.message


class TestWhatARefusalSays:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"error": "just words"}, "just words"),
            ({"error": {"message": "", "code": 400}}, "HTTP 400"),
            ({"error": {"message": ["odd"], "code": None}}, "['odd']"),
            ({"detail": "something else"}, "something else"),
            ([], "HTTP 400"),
            (b"<html>no</html>", "HTTP 400"),
            (b"", "HTTP 400"),
        ],
    )
    def test_any_body_will_do(self, body: Any, message: str) -> None:
        error = failure(reply(body, "400 Bad Request"))
        assert (error.message, error.code) == (message, "upstream_rejected")

    def test_long_words_are_cut(self) -> None:
        assert len(failure(refusal("400 Bad Request", {"message": "x" * 9000})).message) == 500

    @pytest.mark.parametrize("status", ["400 Bad Request", "401 No", "404 No", "429 No", "500 No"])
    @pytest.mark.parametrize("padding", [0, 490, 495])
    def test_our_key_is_never_quoted(self, status: str, padding: int) -> None:
        message = "x" * padding + f" {KEY} is the key"
        error = failure(refusal(status, {"message": message, "code": KEY, "param": KEY}))
        told = json.dumps([error.body(), error.headers()])
        assert KEY not in told
        # Not even its beginning.
        assert KEY[:6] not in told

    def test_not_in_a_broken_stream_either(self) -> None:
        chunk = {"error": {"message": f"the key {KEY} is used up"}}
        error = failure(reply(sse(CHUNK, chunk), kind="text/event-stream"), stream=True)
        assert "used up" in error.message
        assert KEY not in error.message


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [("7", 7), ("0", 0), ("1.5", 1.5), ("-3", None), ("nan", None), ("inf", None)],
    )
    def test_in_seconds(self, header: str, seconds: float | None) -> None:
        error = failure(refusal("429 No", "slow down", **{"Retry-After": header}))
        assert error.retry_after == seconds

    def test_as_a_date(self) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=90)
        header = format_datetime(soon, usegmt=True)
        error = failure(refusal("429 No", "slow down", **{"Retry-After": header}))
        assert error.retry_after is not None
        assert 30 < error.retry_after <= 90

    @pytest.mark.parametrize("header", ["soon", "²", "Mon, 99 Foo"])
    def test_nonsense_is_ignored(self, header: str) -> None:
        error = failure(refusal("429 No", "slow down", **{"Retry-After": header}))
        assert (error.http_status(), error.retry_after) == (429, None)

    def test_overload_always_says_when(self) -> None:
        assert failure(refusal("503 No", "busy")).headers()["Retry-After"] == "1"


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>", kind="text/html"),
        reply(b""),
        reply(b"[]"),
        reply(b'{"choices": ['),
        reply({}),
        reply({"choices": []}),
        reply({"choices": None}),
        reply({"choices": {"0": {}}}),
        reply({"choices": ["hello"]}),
        reply({"choices": [{"index": 0}]}),
        reply({"choices": [*ANSWER["choices"], {"message": "hello"}]}),
    ],
)
def test_200_that_is_no_answer(answer: bytes) -> None:
    error = failure(answer)
    assert type(error) is UpstreamInvalid
    assert error.http_status() == 502


@pytest.mark.parametrize(
    "answer",
    [
        reply(ANSWER),
        reply(b"<html>", kind="text/html"),
        reply(b"", kind="text/event-stream"),
        reply(sse(CHUNK), kind="text/event-stream"),
        reply(b"data: {oops\n\n" + DONE, kind="text/event-stream"),
        reply(b"data: 7\n\n" + DONE, kind="text/event-stream"),
    ],
)
def test_200_that_is_no_stream(answer: bytes) -> None:
    assert type(failure(answer, stream=True)) is UpstreamInvalid
