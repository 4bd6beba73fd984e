"""What of a reply is looked at, and what is peeled off an answer before it is read."""

from __future__ import annotations

import re

#: Characters of a reply that parsers look at. All of them are linear; this bounds the constant.
WINDOW = 8000

#: An unsigned decimal number, with or without thousands separators.
NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"

_QUOTES = {'"': '"', "“": "”", "„": "“", "'": "'", "‘": "’", "«": "»", "「": "」"}
_LEADING = " \t\r\n*_`#>•:=，、+"
_TRAILING = " \t\r\n*_`.,;:。，、；："
_EMPHASIS = re.compile(r"(?<![\w)*])\*\*(?=[^\s*])([^*]{1,200})(?<!\s)\*\*(?![\w(*])")
_EXCLAMATION = re.compile(r"(?:(?<=[^\W\d_]{2})|(?<=[^\W\d_][\"'”’»]))[!?！？]+$")
_MATH = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"))


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables that read better without quotes and commas."""
    return frozenset(text.split())


def tail(text: str) -> str:
    """The end of what a reply says after it has thought: at most `WINDOW` characters.

    Thought is what stands before the last ``</think>``, and after a ``<think>`` that never closes.
    """
    said = text.rpartition("</think>")[2]
    return said.partition("<think>")[0][-WINDOW:]


def peel(text: str) -> str:
    """The text without emphasis, and without quotes, math delimiters and punctuation around it.

    A leading minus or decimal point and the ``!`` of a factorial are part of the answer and stay.
    """
    text = _EMPHASIS.sub(r"\1", text)
    before = None
    while text != before:
        before = text
        text = text.lstrip(_LEADING).rstrip(_TRAILING)
        if text.endswith(("!", "?", "！", "？")):
            text = _EXCLAMATION.sub("", text)
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1]
        for opening, closing in _MATH:
            inner = text[len(opening) : -len(closing)]
            if text == opening + inner + closing and closing not in inner:
                text = inner
    return text
