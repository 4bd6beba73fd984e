"""The class of equal answers that an answer belongs to, as a text."""

from __future__ import annotations

import re

from proxy.answers.latex import plain
from proxy.answers.option import letter
from proxy.answers.quantity import quantity
from proxy.answers.surface import peel

#: Longer answers are prose or code: only their case and white space are evened out.
MAX_LENGTH = 1000
#: Rewriting settles after two rounds or three; adversarial text is left where it is.
MAX_ROUNDS = 8

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SIGNS = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **dict.fromkeys("−–‐‑", "-"),
        **dict.fromkeys("×·⋅∙", "*"),
        **dict.fromkeys("‘’ʹ′", "'"),
        **dict.fromkeys("“”„″", '"'),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff"),
        "，": ",",
        "、": ",",
        "。": ".",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "π": " pi",
        "τ": " tau",
        "θ": " theta",
        "√": r"\sqrt ",
        "∞": " infinity",
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
        "½": " 1/2",
        "⅓": " 1/3",
        "⅔": " 2/3",
        "¼": " 1/4",
        "¾": " 3/4",
        "⅕": " 1/5",
        "⅛": " 1/8",
        "⅜": " 3/8",
        "⅝": " 5/8",
        "⅞": " 7/8",
    }
)
_DOLLAR = re.compile(r"(?:\b(?:US|HK|NZ|A|C|S))?\$")
_ARTICLE = re.compile(r"^(?:(?:the|an?)\s)+(?=\w\w)")
_UNKNOWN = re.compile(r"^[A-Za-z](?:_?[0-9])?(?:\([a-z]\))?\s?=\s?(?=[^=\s][^=<>]*$)")
_BRACKETED = re.compile(r"([(\[{])([^()\[\]{}]*,[^()\[\]{}]*)([)\]}])")
_SEPARATOR = re.compile(r",?\s(?:and|or)\s|,\s|,(?![0-9]{3}(?![0-9]))")
_NUMBER_ENDS = tuple("0123456789%)")
_LOOSE = re.compile(r"\s?([^\w\s,])\s?")
_COMMA = re.compile(r"\s?,\s?")
_TIMES = re.compile(r"(?<=[0-9])(?:\s(?=(?:[a-z]|pi)(?![a-z]))|\*(?=[a-z(]))")


def normalise(answer: str) -> str:
    r"""The canonical key of the class of answers that `answer` is one of; idempotent.

    - A number is its exact value, ``1000`` or ``3/2``, however it was written: ``1,000``,
      ``1e3``, ``\frac{3}{2}``, ``1 1/2``. Currency and one trailing unit are dropped: ``$12`` and
      ``12 cm`` are ``12``. A percentage is what it means: ``50%`` is ``0.5``, and never ``50``.
    - An option is its letter: ``(b)``, ``B.`` and ``B) Paris`` are ``B``.
    - An equation that names one unknown is its other side: ``x = 5`` is ``5``.
    - Lists and tuples are written element by element; the order of a ``{set}`` does not matter.
    - Anything else: LaTeX as plain mathematics, no case, no markdown, quotes, leading article or
      trailing punctuation, and single spaces where they separate words.
    """
    text = " ".join(answer.split())
    for _ in range(MAX_ROUNDS):
        if len(text) > MAX_LENGTH:
            return text.casefold()
        before, text = text, _rewrite(text)
        if text == before:
            break
    return text


def same(a: str, b: str) -> bool:
    """Whether two answers are in the same class: `normalise` gives them the same key."""
    return a == b or normalise(a) == normalise(b)


def _rewrite(text: str) -> str:
    text = _SUPERSCRIPT.sub(lambda found: f"^{found[0].translate(_SUPERSCRIPTS)}", text)
    text = peel(text.translate(_SIGNS)).replace("**", "^")
    if option := letter(text):
        return option
    if "\\" in text or "{" in text:
        text = plain(text)
    text = peel(" ".join(_DOLLAR.sub("", text).split()))
    if text.startswith("(") and text.endswith(")") and not set("(),") & set(text[1:-1]):
        text = text[1:-1].strip()
    if option := letter(text):
        return option
    if (listed := _listed(text)) is not None:
        return listed
    return _element(text)


def _listed(text: str) -> str | None:
    """A tuple, a set or a list of numbers, written element by element; None for anything else."""
    if bracketed := _BRACKETED.fullmatch(text):
        opening, inner, closing = bracketed.groups()
        elements = [_element(part.strip()) for part in inner.split(",")]
        if opening == "{":
            elements = sorted(set(elements))
        return f"{opening}{', '.join(elements)}{closing}"
    parts = _SEPARATOR.split(text)
    # "2 hours and 30 minutes" is one answer, and not the list 2, 30.
    if len(parts) < 2 or not all(part.endswith(_NUMBER_ENDS) for part in parts):
        return None
    numbers = [quantity(_UNKNOWN.sub("", part, count=1)) for part in parts]
    return None if None in numbers else ", ".join(map(str, numbers))


def _element(text: str) -> str:
    text = _UNKNOWN.sub("", text, count=1)
    if (number := quantity(text)) is not None:
        return str(number)
    text = _COMMA.sub(", ", _LOOSE.sub(r"\1", text.casefold()))
    return _ARTICLE.sub("", _TIMES.sub("", text), count=1)
