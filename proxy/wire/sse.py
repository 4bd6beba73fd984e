"""Server-sent events (WHATWG HTML §9.2), as chat completions use them: ``data:`` lines only."""

from __future__ import annotations

#: Written while nothing else is: proxies in between would close a silent connection.
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(payload: bytes) -> bytes:
    """One event. ``payload`` is compact JSON and so holds no raw newline."""
    return b"data: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """A line that SDKs ignore and people read; control characters become blanks."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return b": " + line.encode() + b"\n\n"


class Decoder:
    """Splits a byte stream into the data of its events, however the bytes were cut."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def pending(self) -> int:
        """Bytes of an event whose end has not come yet."""
        return len(self._rest) + sum(map(len, self._data))

    def feed(self, received: bytes) -> list[bytes]:
        """The payloads that ``received`` completed."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        payloads = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line:
                if self._data:
                    payloads.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return payloads

    def close(self) -> list[bytes]:
        """What a last event without its blank line held."""
        payloads = self.feed(b"\n\n")
        self._rest = b""
        return payloads
