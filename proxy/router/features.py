"""What a request's own words and parts say about how to answer it, without a model. Pure."""

from __future__ import annotations

import re

from proxy.chat import Chat
from proxy.router.tokenise import question

_FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
_CODE_WORDS = re.compile(
    r"\b(?:implement|refactor|debug|traceback|stack trace|unit tests?|regex|sql query|compiles?|"
    r"(?:write|fix)\s(?:\w+\s){0,3}(?:function|class|script|program|method|code|bug))\b",
    re.IGNORECASE,
)
_MATHS = re.compile(
    r"\\(?:frac|sqrt|sum|int|boxed|cdot)\b|\$[^$\n]{1,200}\$|\d\s{0,3}[-+*/×÷^=]\s{0,3}\(?\d|"
    r"\b(?:prove|solve for|how many|how much|what is the (?:sum|product|probability|remainder)|"
    r"calculate|compute|equation|integral|derivative|percent)\b",
    re.IGNORECASE,
)
_PAIR = re.compile(r"^[ \t]{0,8}(?:Q|Question|Input|Example)\s?\d{0,2}\s?[:.)]", re.MULTILINE)
_SMALL_TALK = re.compile(
    r"\s*(?:hi|hello|hey|good (?:morning|afternoon|evening|night)|thanks|thank you|bye|goodbye|"
    r"ok|okay|great|nice|cool|yes|no|please)\b",
    re.IGNORECASE,
)
#: Words of a greeting or a thank-you, at most.
_SHORT = 12
#: Pairs of a question and its answer that make a pattern.
_SHOTS = 2


def decide(chat: Chat) -> str | None:
    """The approach for ``chat``, by deterministic features; None where they say nothing.

    ``leap`` for a task given by examples, ``rto`` for code, ``self_consistency`` for a question
    with one checkable answer. ``none`` for what carries tools, pictures or a schema, which is left
    as it is, and for small talk. Of a long question, beginning and end are read.
    """
    if chat.uses_tools or chat.has_parts or chat.formatted:
        return "none"
    asked = question(chat)
    if asked is None:
        return None
    query = asked.query
    words, digits = len(query.split()), any(map(str.isdigit, query))
    if len(_PAIR.findall(query)) > _SHOTS:
        return "leap"
    if _FENCE.search(query) or _CODE_WORDS.search(query):
        return "rto"
    if _MATHS.search(query) and (words > _SHORT or digits):
        return "self_consistency"
    if words < _SHORT and not digits and "?" not in query and _SMALL_TALK.match(query):
        return "none"
    return None
