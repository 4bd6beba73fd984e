"""Reading a provider's refusal: which member or role of a body it does not support.

Every server has words of its own. Those this was written from are listed, with their sources, in
``tests/refused_words.py``. What matters is not to take a wrong *value* for a
missing capability: that is the client's to mend, and holds for this one call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.errors import UpstreamRejected

_CODES = frozenset(
    {
        "unsupported_parameter",
        "unsupported_value",
        "unknown_parameter",
        "unrecognized_parameter",
        "unexpected_parameter",
    }
)
_REFUSED = re.compile(
    r"""
    unsupported
    | (?:not|n't)\s+(?:\w+\s+){0,2}
      (?:support|permit|allow|available|enabled|implemented|accept|recogni[sz])
    | (?:unknown|unrecogni[sz]ed|unexpected|extra)\s+(?:\w+\s+){0,2}
      (?:field|argument|param|name|key|member|propert)
    | only\s+the\s+default
    | extra_forbidden
    | was\s+unexpected
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: A value that would be fine if it were another.
_BOUND = re.compile(
    r"""
    \b(?: between | at\ (?:least|most) | (?:greater|less|more|larger|smaller|higher|lower)\ than
    | above | below | exceed\w* | range | maximum | minimum | too\ (?:large|small|high|low)
    | (?:must|should)\ be )\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: ``n`` is 1 there, or nothing: said of ``n``, of choices, or of completions.
_ONE = re.compile(r"\b(?:only|at most|more than) (?:n ?= ?)?(?:1|one|a single)\b", re.IGNORECASE)
_CHOICES = re.compile(r"\b(?:choices|completion choice|completions?)\b", re.IGNORECASE)
#: Refused beside something else: the model does it otherwise.
_BESIDE = re.compile(
    r"(?:ed|able)\s+(?:together\s+|in\s+\w+\s+)?(?:with|when|if|while|for)\s+(.*)", re.IGNORECASE
)
#: Sentences, and the entries of a list of errors that was printed.
_SENTENCES = re.compile(r"[.;!?](?:\s|$)|[}\n]|\\n")

_ROLE = re.compile(r"\broles?\b|\bdeveloper\b", re.IGNORECASE)
_SYSTEM = re.compile(
    r"\bsystem['\"`]?[ -](?:roles?|messages?|prompts?|instructions?)\b"
    r"|['\"`]system['\"`]|\brole:? ?['\"`]?system\b",
    re.IGNORECASE,
)
_OTHER_ROLE = re.compile(r"\b(?:system|user|assistant|tool|function|model)\b", re.IGNORECASE)
_NOT_A_ROLE = re.compile(
    r"(?:unknown|unexpected|invalid|incorrect)\s+(?:\w+\s+)?(?:variant|role|value)"
    r"|not one of|does not match|should be|must be",
    re.IGNORECASE,
)
_EXPECTED = re.compile(r"expected|one of|(?:should|must) be|supported (?:values|roles)", re.I)
_ALTERNATE = re.compile(r"^(?!.*optional system).*roles must alternate", re.IGNORECASE | re.DOTALL)

#: The members and words that stand for a feature, where they are not just its name.
_NAMES = {
    "logprobs": ("logprobs", "top_logprobs"),
    "stream": ("stream", "streaming"),
}


def refused_members(
    features: Mapping[str, bool], body: Mapping[str, Any], error: UpstreamRejected
) -> Iterator[str]:
    """Those of ``features`` that ``error`` says are not supported.

    ``features`` maps each to whether it may be left out unseen: only then does it count that the
    refusal is for a combination with another member, and would not be there without.
    """
    named = _root(error.param)
    for feature, unseen in features.items():
        names = _NAMES.get(feature, (feature,))
        # Where it says which, a name elsewhere in its words is advice.
        if named in body and named not in names:
            continue
        if named in names and error.code in _CODES:
            yield feature
            continue
        others = [] if unseen else [n for n in body if n not in (*names, "model", "messages")]
        if any(
            _refuses(sentence, feature, names, named in names, others)
            for sentence in _SENTENCES.split(error.message)
        ):
            yield feature


def refused_role(body: Mapping[str, Any], error: UpstreamRejected) -> str | None:
    """``developer`` or ``system``: the role in ``body`` that ``error`` says is not supported."""
    turns = [message.get("role") for message in body.get("messages", ())]
    said = error.message
    refused = _REFUSED.search(said) or _NOT_A_ROLE.search(said)
    # Where none is named: of all roles this is the one that few know.
    developer = "developer" in said.lower() or not _OTHER_ROLE.search(said)
    if "developer" in turns and refused and developer and _ROLE.search(said):
        return "developer"
    if not {"system", "developer"}.intersection(turns):
        return None
    # Roles behind "expected one of" are those that it does support.
    subject = _EXPECTED.split(said)[0]
    if _SYSTEM.search(subject) and (_REFUSED.search(subject) or _NOT_A_ROLE.search(subject)):
        return "system"
    if _ALTERNATE.match(said) and _alternate(turns):
        return "system"
    return None


def _refuses(
    sentence: str, feature: str, names: tuple[str, ...], named: bool, others: list[str]
) -> bool:
    beside = _BESIDE.search(sentence)
    if beside is not None and any(_mentions(beside[1], name) for name in others):
        return False
    subject = sentence if beside is None else sentence[: beside.start(1)]
    about = named or any(_mentions(subject, name) for name in names)
    if feature == "n" and _ONE.search(sentence) and (about or _CHOICES.search(sentence)):
        return True
    return about and bool(_REFUSED.search(sentence)) and not _BOUND.search(sentence)


def _mentions(text: str, name: str) -> bool:
    """``name`` as a member of the body itself: ``messages.2.name`` is not one."""
    pattern = rf"(?<![\w.\\-])(?:body\.)?{re.escape(name)}(?![\w-])"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _root(param: str | None) -> str | None:
    """The member that a path such as ``messages[0].role`` or ``body.n`` begins with."""
    found = re.match(r"(?:body\.)?(\w+)", param or "")
    return None if found is None else found[1]


def _alternate(turns: list[Any]) -> bool:
    """Whether the turns that are no instructions would do on their own."""
    spoken = [role for role in turns if role not in ("system", "developer")]
    return bool(spoken) and all(
        role == ("assistant" if i % 2 else "user") for i, role in enumerate(spoken)
    )
