"""Lines of the log: as text, whose members are logfmt, or as JSON. No line holds a key."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Literal

from proxy.telemetry.redact import without_keys

Format = Literal["logfmt", "json"]

#: No key is shorter, and most values are.
_SHORT = 8


class Fields(dict[str, Any]):
    """A message made of members; as text it is logfmt."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_word(value)}" for name, value in self.items())


def formatter(form: Format) -> logging.Formatter:
    return _Json() if form == "json" else _Text()


class _Text(logging.Formatter):
    """``TIME LEVEL LOGGER MESSAGE``, and a traceback set in below it."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        if int(record.created) != self._second:
            self._second = int(record.created)
            self._stamp = _stamp(record.created)
        message = _printable(without_keys(record.getMessage()))
        lines = [f"{self._stamp} {record.levelname} {record.name} {message}"]
        # Set in, none of its lines can pass for one of the log's.
        lines += (f"    {_printable(line)}" for line in _traceback(self, record).splitlines())
        return "\n".join(lines)


class _Json(logging.Formatter):
    """An object a line, with a request's members beside ``time``, ``level`` and ``logger``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Fields):
            line |= {name: _without_keys(value) for name, value in record.msg.items()}
        else:
            line["msg"] = without_keys(record.getMessage())
        traceback = _traceback(self, record)
        if traceback:
            line["exception"] = traceback
        return json.dumps(line, default=str)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info is None or record.exc_info[0] is None:
        return ""
    return without_keys(formatter.formatException(record.exc_info))


def _stamp(created: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created))


def _without_keys(value: Any) -> Any:
    return without_keys(value) if isinstance(value, str) and len(value) >= _SHORT else value


def _printable(text: str) -> str:
    """``text`` on one line of what can be seen: nobody writes a line of the log but us."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _word(value: Any) -> str:
    """``value`` as one logfmt value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    if text and text.isprintable() and not set(text) & set(' "='):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
