"""What a judge, a selector or a verifier said, however loosely it kept to the form asked for."""

from __future__ import annotations

import re

from proxy.answers.surface import tail

#: The scales that a rating without a label is given on; 3/4 is more likely "three of four steps".
_USUAL_SCALES = (5.0, 10.0, 20.0, 100.0)

_NUMBER = r"[-+−]?[0-9]{1,9}(?:\.[0-9]{1,9}|,[0-9]{1,2}(?![0-9]))?"
#: Between a label and its value stand markup, a scale in brackets and a verb, but no sentence.
_LINK = r"""(?:\s?[(\[][^()\[\]\n]{1,30}[)\]])? [\s*_"'`]{0,6} (?:[:：=]|\b(?:is|are|of)\b)?
    [\s*_"'`:$(\[\\{]{0,8} (?:boxed\{|text\{)?"""
_SCALE = r"""[*_`"'\])}]{0,4} \s? (?: (?:/|\bout\sof\b|\bvon\b|\bsur\b|\bde\b) \s?[*_`\[(]{0,4}
    (?P<scale>[0-9]{1,4}) | (?P<percent>\\?%) ) (?![\w/]|[.,][0-9])"""
#: Neither half of a number, nor one end of a range: "Score: [0-10]" is the question.
_WHOLE = r"(?![0-9]|[.,][0-9]|[-–—][0-9])"

_LABELLED_SCORE = re.compile(
    rf"""
    (?: \b(?:scores?|ratings?|grade|bewertung|punktzahl|puntuación)\b | 评分 | 得分 | 分数
      | \b(?:give|rate)\s(?:it|this)(?:\s(?:an?|at|as))?\b ) {_LINK}
    (?: (?P<number>{_NUMBER}) {_WHOLE} (?:{_SCALE})?
      | (?: nan | n/?a | none | null | [-+]?inf(?:inity)? )\b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_RATIO = re.compile(rf"(?<![\w.,/]) (?P<number>{_NUMBER}) {_SCALE}", re.IGNORECASE | re.VERBOSE)
_ANY_NUMBER = re.compile(rf"(?<![\w.,/]){_NUMBER}(?![\w/]){_WHOLE}")

_NOUN = r"(?:candidates?|solutions?|responses?|answers?|options?|choices?|numbers?|no\.|one)"
_PLACE = rf"(?:{_NOUN}\s)? [\s#*_(\[]{{0,4}} (?P<number>[0-9]{{1,6}}) (?![0-9]|\.[0-9])"
_CHOICES = tuple(
    re.compile(pattern, re.IGNORECASE | re.VERBOSE)
    for pattern in (
        rf"\bbest (?:\s{_NOUN})? {_LINK} {_PLACE}",
        rf"\b(?:choose|select|pick|prefer|chosen|selected|winner)\b {_LINK} {_PLACE}",
        rf"\b{_NOUN} {_PLACE} [*_)\]]{{0,4}}\s (?:is|was)\s (?:\w{{1,12}}\s){{0,2}} best\b",
        rf"(?:\\boxed\{{|<answer>) \s? {_PLACE}",
    )
)
_INTEGER = re.compile(r"(?<![\w.,/−-])[0-9]{1,6}(?![\w/]|[.,][0-9])")

#: Assessments that are tried, the last first.
_MENTIONS = 20
_ASSESSMENTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\boverall\s(?:assessment|verdict|judge?ment|evaluation)\b",
        r"\b(?:assessment|verdict|judge?ment|evaluation)\b",
    )
)
_FORM = re.compile(r"[(\[]?\bcorrect\s?(?:/|or)\s?incorrect\b[)\]]?", re.IGNORECASE)
_VERDICT = re.compile(
    r"""
    \b(?:no|any|without|zero)\s (?:\w{1,12}\s)? (?:incorrect|wrong|false|invalid)\b
  | (?P<denied>\bnot\s(?:incorrect|wrong|false|invalid)\b)
  | (?P<wrong>
        (?:\b(?:not|never|partially|partly|mostly|largely|nearly|almost)|n't) [\s-]
            (?:(?:entirely|fully|completely|quite|wholly)\s)? (?:correct|valid|true)\b
      | \b(?:incorrect|wrong|false|invalid|fails?|failed)\b )
  | (?P<right>\b(?:correct|valid|true|pass|passes|passed)\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MEANING = {"denied": True, "right": True, "wrong": False}
_YES_NO = re.compile(r"\W{0,8}(?:(yes|right)|no)\b(?=\W{0,8}$|[.,;:!])", re.IGNORECASE)


def score(text: str, low: float = 0.0, high: float = 10.0) -> float | None:
    """The rating that a judge gave, on the scale from `low` to `high`; None without one.

    The last labelled number wins (``Score: 8``), else the last ratio (``8/10``, ``85%``), else
    the last number within the scale. ``85/100`` is brought to the scale; a rating beyond the
    scale is none.
    """
    said = tail(text)
    labelled = list(_LABELLED_SCORE.finditer(said))
    if labelled:
        return _rating(labelled[-1], low, high)
    for ratio in reversed(list(_RATIO.finditer(said))):
        if ratio["percent"] or float(ratio["scale"]) in (high, *_USUAL_SCALES):
            return _rating(ratio, low, high)
    for number in reversed(_ANY_NUMBER.findall(said)):
        if low <= (value := _float(number)) <= high:
            return value
    return None


def choice(text: str, k: int) -> int | None:
    """The index (from 0) of the candidate that a selector chose among `k`, counted from 1 in text.

    ``Best candidate: 3``, "I choose 3", "candidate 3 is the best", or the only number in range.
    None for a candidate that does not exist: a selector that is lost does not count.
    """
    said = tail(text)
    for pattern in _CHOICES:
        if chosen := list(pattern.finditer(said)):
            return _index(chosen[-1]["number"], k)
    indices = {index for found in _INTEGER.findall(said) if (index := _index(found, k)) is not None}
    return indices.pop() if len(indices) == 1 else None


def verdict(text: str) -> bool | None:
    """Whether a verifier found the solution correct: ``Overall assessment: CORRECT``.

    The last assessment wins, else the last CORRECT or INCORRECT in capitals, else what the last
    line says. Partly correct is not correct.
    """
    said = _FORM.sub("", tail(text)).strip()
    for pattern in _ASSESSMENTS:
        for label in reversed(list(pattern.finditer(said))[-_MENTIONS:]):
            line = said[label.end() : label.end() + 200].lstrip(" \t\r\n*_:：=-")
            if found := _verdicts(line.partition("\n")[0]):
                return found[0]
    if found := _verdicts(said, capitals=True) or _verdicts(said.rpartition("\n")[2]):
        return found[-1]
    return None


def _rating(found: re.Match[str], low: float, high: float) -> float | None:
    if found["number"] is None:
        return None
    value = _float(found["number"])
    scale = 100.0 if found["percent"] else float(found["scale"] or high)
    if not scale:
        return None
    if scale != high:
        value = low + value / scale * (high - low)
    return value if low <= value <= high else None


def _float(number: str) -> float:
    return float(number.replace(",", ".").replace("−", "-"))


def _index(number: str, k: int) -> int | None:
    return int(number) - 1 if 1 <= int(number) <= k else None


def _verdicts(said: str, *, capitals: bool = False) -> list[bool]:
    if not capitals and (answer := _YES_NO.match(said)):
        return [answer[1] is not None]
    return [
        _MEANING[found.lastgroup]
        for found in _VERDICT.finditer(said)
        if found.lastgroup and (found[0].isupper() or not capitals)
    ]
