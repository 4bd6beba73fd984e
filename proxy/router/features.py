"""What a request's own words and parts say about how to answer it, without a model. Pure."""

from __future__ import annotations

import re

from proxy.chat import Chat

_FENCE = re.compile(r"^\s{0,3}```", re.MULTILINE)
_CODE_WORDS = re.compile(
    r"\b(?:implement|refactor|debug|traceback|stack trace|unit tests?|regex|sql query|compiles?|"
    r"(?:write|fix)\s(?:\w+\s){0,3}(?:function|class|script|program|method|code|bug))\b",
    re.IGNORECASE,
)
_MATHS = re.compile(
    r"\\(?:frac|sqrt|sum|int|boxed|cdot)\b|\$[^$\n]{1,200}\$|\d\s*[-+*/×÷^=]\s*\(?\d|"
    r"\b(?:prove|solve for|how many|how much|what is the (?:sum|product|probability|remainder)|"
    r"calculate|compute|equation|integral|derivative|percent)\b",
    re.IGNORECASE,
)
_PAIR = re.compile(r"^\s*(?:Q|Question|Input|Example)\s?\d{0,2}\s?[:.)]", re.MULTILINE)
#: Words of a greeting or a thank-you, at most.
_SHORT = 12
#: Pairs of a question and its answer that make a pattern.
_SHOTS = 2


def decide(chat: Chat) -> str:
    """The approach for ``chat``, by deterministic features; ``none`` where they say nothing.

    ``leap`` for a task given by examples, ``self_consistency`` for a question with one checkable
    answer, ``rto`` for code. What carries tools, pictures or a schema is left as it is.
    """
    query = chat.query
    if chat.uses_tools or chat.has_parts or chat.formatted:
        return "none"
    if len(_PAIR.findall(query)) > _SHOTS:
        return "leap"
    if _FENCE.search(query) or _CODE_WORDS.search(query):
        return "rto"
    if _MATHS.search(query) and (len(query.split()) > _SHORT or any(map(str.isdigit, query))):
        return "self_consistency"
    return "none"
