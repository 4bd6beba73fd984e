"""Lines of the log: as text, whose members are logfmt, or as JSON. No line holds a key."""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Literal

import orjson

from proxy.telemetry.redact import may_hold_keys, without_keys
from proxy.telemetry.times import local

Format = Literal["logfmt", "json"]

#: What no bare logfmt value has in it.
_DELIMITER = re.compile('[ "=]')


class Fields(dict[str, Any]):
    """A message made of members; as text it is logfmt."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_word(value)}" for name, value in self.items())


def formatter(form: Format) -> logging.Formatter:
    return _Json() if form == "json" else _Text()


class _Text(logging.Formatter):
    """``TIME LEVEL LOGGER MESSAGE``, and a traceback set in below it."""

    def format(self, record: logging.LogRecord) -> str:
        message = _printable(without_keys(record.getMessage()))
        lines = [f"{local(record.created)} {record.levelname} {record.name} {message}"]
        # Set in, none of its lines can pass for one of the log's.
        lines += (f"    {_printable(line)}" for line in _traceback(self, record).splitlines())
        return "\n".join(lines)


class _Json(logging.Formatter):
    """An object a line, with a request's members beside ``time``, ``level`` and ``logger``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": local(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Fields):
            line |= record.msg
        else:
            line["msg"] = record.getMessage()
        traceback = _traceback(self, record)
        if traceback:
            line["exception"] = traceback
        text = _dumped(line)
        if may_hold_keys(text):
            text = _dumped({name: _without_keys(value) for name, value in line.items()})
        return text


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info is None or record.exc_info[0] is None:
        return ""
    return without_keys(formatter.formatException(record.exc_info))


def _without_keys(value: Any) -> Any:
    return without_keys(value) if isinstance(value, str) else value


def _dumped(line: dict[str, Any]) -> str:
    """Nothing but printable ASCII."""
    try:
        text = orjson.dumps(line, default=str).decode()
    except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
        text = ""
    if text and text.isascii() and text.isprintable():
        return text
    return json.dumps(line, default=str, separators=(",", ":"))


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
    if text and text.isprintable() and not _DELIMITER.search(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
