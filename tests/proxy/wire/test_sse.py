"""Server-sent events: whatever way the bytes are cut, the payloads are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.sse import DONE, KEEP_ALIVE, Decoder, comment, event

NEWLINES = st.sampled_from([b"\n", b"\r\n"])
LINES = st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))
PAYLOADS = st.lists(LINES, min_size=1, max_size=3).map(b"\n".join)
#: What stands between events and carries no data.
NOISE = st.sampled_from([b"", KEEP_ALIVE, b"event: message\n", b"id: 7\n", b"retry: 10\n", b"\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream as some server may write it, and the payloads in it."""
    payloads = draw(st.lists(PAYLOADS, max_size=6))
    written = b""
    for payload in payloads:
        newline = draw(NEWLINES)
        written += draw(NOISE)
        written += b"".join(b"data: " + line + newline for line in payload.split(b"\n"))
        written += newline
    return written, payloads


def pieces(stream: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """``stream`` cut into pieces of these sizes, the last one taking the rest."""
    start = 0
    for size in sizes:
        yield stream[start : start + size]
        start += size
    yield stream[start:]


@given(streams(), st.lists(st.integers(0, 20), max_size=40))
def test_the_payloads_do_not_depend_on_the_cuts(
    stream: tuple[bytes, list[bytes]], sizes: list[int]
) -> None:
    written, payloads = stream
    decoder = Decoder()
    received = [payload for piece in pieces(written, sizes) for payload in decoder.feed(piece)]
    assert received + decoder.close() == payloads


@given(streams())
def test_byte_by_byte_is_a_cutting_too(stream: tuple[bytes, list[bytes]]) -> None:
    written, payloads = stream
    decoder = Decoder()
    received = [p for byte in written for p in decoder.feed(bytes([byte]))]
    assert received == payloads


def test_a_payload_is_there_as_soon_as_its_blank_line_is() -> None:
    decoder = Decoder()
    assert decoder.feed(b'data: {"a":1}\n') == []
    assert decoder.feed(b"\n") == [b'{"a":1}']


def test_only_one_blank_behind_the_colon_belongs_to_the_format() -> None:
    assert Decoder().feed(b"data:a\n\ndata:  b\n\ndata:\n\n") == [b"a", b" b", b""]


def test_a_stream_that_ends_without_its_blank_line_loses_nothing() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: [DO") == []
    assert decoder.feed(b"NE]") == []
    assert decoder.close() == [b"[DONE]"]
    assert decoder.close() == []


def test_what_we_write_is_what_we_read() -> None:
    written = comment("started") + event(b'{"a":1}') + KEEP_ALIVE + event(b'{"b":2}') + DONE
    assert Decoder().feed(written) == [b'{"a":1}', b'{"b":2}', b"[DONE]"]


@given(st.text())
def test_a_comment_is_one_line_whatever_it_says(text: str) -> None:
    written = comment(text)
    assert written.startswith(b": ")
    assert written.endswith(b"\n\n")
    assert written.count(b"\n") == 2
    assert b"\r" not in written
    assert Decoder().feed(written) == []


def test_a_comment_keeps_its_words() -> None:
    assert comment("3 of 5 samples agree: ½") == ": 3 of 5 samples agree: ½\n\n".encode()
