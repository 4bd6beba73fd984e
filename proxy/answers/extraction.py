"""The final answer of a reply: the ballot that it casts in a vote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from proxy.answers.option import letter
from proxy.answers.surface import NUMBER, peel, tail, words
from proxy.answers.tool_calls import canonical_json

FIELDS = ("answer", "final_answer", "result")
#: Longer text that nothing marks as an answer is an explanation.
SHORT = 80
#: Mentions of "the answer is" that are tried, the last first.
_MENTIONS = 20

_TAG = re.compile(r"<(/?)(?:final_)?answer\b[^<>]{0,80}>", re.IGNORECASE)
# The backspace is what a JSON decoder makes of the \b of an unescaped \boxed.
_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)|\x08oxed)\s*\{|\\.|[{}]", re.DOTALL)

_NOUN = r"""
    (?: \b (?: answers? | (?:correct|right|best)\s(?:option|choice)
             | (?:end)?antwort | réponse | respuesta | resposta | risposta )
      | 答案 )
    (?: \s (?:finale?|correcte?|correcta|exacte) )?"""
_BEFORE = r"""
    \b (?: the | final | correct | right | best | my | our | so | thus | hence | therefore
         | die | la | a ) ,? \s (?: \w{1,20} \s ){0,2}"""
_PHRASE = re.compile(
    rf"""
    {_NOUN} [*_\s]{{0,4}} [:：=]
  | {_BEFORE} {_NOUN} (?: \s(?:to|for|of)\s [^.:\n]{{1,80}}? )? [*_]{{0,3}}
    \s (?: is | are | was | (?:would|should|must)\sbe | ist | lautet | est | es | é | è ) \b
  | 答案 \s? (?: 是 | 为 | 為 )
  | ^ [#*_>\ \t]{{0,12}} (?:the\s|my\s)? (?:final\s)? answer [*_\ \t]{{0,6}} $
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
#: What closes the emphasis of "**Final answer:** 42", or makes the answer an item of a list.
_MARKUP = re.compile(r"^(?:[*_]{1,3}|[-•>])\s+")
#: "**42** apples in the basket", but not "**42** million" or "**5** of **7**".
_MARKED = re.compile(
    r"""
    (?: \*\*(?!\s)([^*]{1,200})(?<!\s)\*\* | \$(?!\s)([^$]{1,200})(?<!\s)\$ )
    (?!\s?(?:percent|hundred|thousand|million|billion|trillion)) [^$*%\\0-9]*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_STOP = re.compile(
    r"""[.](?=[*_"')\]]{0,3}\s) | (?<=[^\W\d_]{2})[!?](?=\s) | [。！？]
      | ,?\s(?:because|since)\b | ,\s(?:as|which|so|where|given|but|meaning)\b""",
    re.VERBOSE,
)
_ABBREVIATIONS = words("dr mr mrs ms st prof vs no approx ca jr mt ft")
#: What an explanation begins with, and what is said where there is no answer.
_NO_ANSWER = re.compile(
    r"""(?: not | unknown | unclear | let(?:['’]s|\s(?:us|me))
          | we\s(?:can|first|have|know|look|must|need|start|want)
          | to\s(?:answer|calculate|compute|determine|find|get|solve) )\b""",
    re.IGNORECASE | re.VERBOSE,
)

_LAST_OPTION = re.compile(r"(?:^|\s)[*_]{0,3}\(([A-J])\)\W*$")
_OPTIONS = re.compile(r"\b(?i:option|choice)\s[*_]{0,3}\(?([A-J])\b")

_NUMBERS = re.compile(
    rf"""
    \\[dt]?frac \{{\s?-?[0-9]+\s?\}} \{{\s?[0-9]+\s?\}}
  | (?<![A-Za-z0-9_]) (?<![0-9][.,])
    (?: (?<![)\]}}]) [-+−] )? [$€£¥]?
    (?: [0-9]{{1,3}}(?:\s[0-9]{{3}})+(?![0-9]) | {NUMBER} ) (?: [eE][-+]?[0-9]{{1,3}}\b )?
    (?: \s?/\s?{NUMBER} )? (?: \s?\\?% )?
    """,
    re.VERBOSE,
)
_MATH = re.compile(
    r"\$\$([^$]{1,400})\$\$ | \\\[(.{1,400}?)\\\] | \\\((.{1,400}?)\\\)"
    r"| \$(?!\s)([^$\n]{1,400})(?<!\s)\$(?![0-9])",
    re.DOTALL | re.VERBOSE,
)
_MARKER = re.compile(r"[.)][ \t]")
_LABEL = re.compile(r"[^\W\d_]{2,20}\s?:")
_WORD = re.compile(r"[^\W\d_]{2,}")


def extract(text: str, *, fields: Sequence[str] = FIELDS) -> str | None:
    r"""The final answer of a reply, as written; None where there is none to be found.

    Tried in this order, the last of each kind: a reply that is a JSON object as a whole (one of
    `fields`, else all of it); ``<answer>…</answer>``; ``\boxed{…}``; "the answer is …" and its
    like; a JSON block with one of `fields`; an option letter; a number; a reply of at most 80
    characters itself, before the number where it is an expression rather than a sentence.
    """
    said = tail(text).strip()
    before, block, after = _json_block(said)
    record = _load(block)
    if record is not None and not before and not after:
        return _field(record, fields) or canonical_json(record)
    return (
        _tagged(said)
        or _boxed(said)
        # The block's own strings may say "the answer is", with quotes and braces behind it.
        or _phrase(said if record is None else f"{before}\n```\n{after}")
        or _field(record or {}, fields)
        or _option(said)
        or _expression(said)
        or _number(said)
        or (peel(said) if len(said) <= SHORT else "")
        or None
    )


def _marked(content: str) -> str | None:
    """The answer in what a tag or a field holds: some mark it twice."""
    return _boxed(content) or _phrase(content) or peel(content) or None


def _tagged(said: str) -> str | None:
    content, opened = "", None
    for tag in _TAG.finditer(said):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            content = said[opened : tag.start()].strip() or content
            opened = None
    if not content and opened is not None and len(said) - opened <= SHORT:
        content = said[opened:]  # a stop sequence took the closing tag
    return _marked(content) if content else None


def _boxed(said: str) -> str | None:
    last, content = -1, ""
    unclosed: list[tuple[int, int]] = []
    for brace in _BRACES.finditer(said):
        if brace[0] == "}":
            start, inside = unclosed.pop() if unclosed else (-1, 0)
            if start > last and (boxed := said[inside : brace.start()].strip()):
                last, content = start, boxed
        elif brace[0] == "{":
            unclosed.append((-1, 0))
        elif brace["box"]:
            unclosed.append(brace.span())
    return content or None


def _phrase(said: str) -> str | None:
    for mention in reversed(list(_PHRASE.finditer(said))[-_MENTIONS:]):
        if value := _value(said[mention.end() :]):
            return value
    return None


def _value(rest: str) -> str | None:
    """The answer that follows "the answer is": a displayed formula, or the clause."""
    rest = _MARKUP.sub("", rest.lstrip(" \t\r\n:：="), count=1)
    if rest.startswith("```"):
        return None
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if rest.startswith(opening) and closing in rest[2:]:
            return peel(rest[2:].partition(closing)[0]) or None
    line = rest.partition("\n")[0]
    marked = _MARKED.match(line)
    clause = peel(marked[marked.lastindex or 0] if marked else _clause(line))
    if option := letter(clause):
        return option
    if _NO_ANSWER.match(clause) or (len(clause) > SHORT and "\\" not in clause):
        return None
    return clause or None


def _clause(line: str) -> str:
    for stop in _STOP.finditer(line):
        word = re.split(r"\W", line[max(0, stop.start() - 8) : stop.start()])[-1]
        initial = len(word) == 1 and word.isupper()
        if stop[0] != "." or not (initial or word.lower() in _ABBREVIATIONS):
            return line[: stop.start()]
    return line


def _json_block(said: str) -> tuple[str, str, str]:
    """What stands before, in and after the last JSON object that is set off from the text."""
    if said.startswith("{") and said.endswith("}"):
        return "", said, ""
    parts = said.split("```")
    for index in range(len(parts) - 1 - len(parts) % 2, 0, -2):
        language, _, body = parts[index].partition("\n")
        if language.strip().lower() in ("", "json") and body.lstrip().startswith("{"):
            return "```".join(parts[:index]).strip(), body, "```".join(parts[index + 1 :]).strip()
    start = said.rfind("\n{") + 1
    return (said[:start], said[start:], "") if start else (said, "", "")


def _load(block: str) -> dict[str, Any] | None:
    try:
        record = json.loads(block)
        canonical_json(record)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _field(record: dict[str, Any], fields: Sequence[str]) -> str | None:
    named = {name.casefold().replace(" ", "_"): value for name, value in record.items()}
    for field in fields:
        value = named.get(field.casefold())
        if isinstance(value, str):
            return _marked(value)
        if value is not None:
            return canonical_json(value)
    return None


def _option(said: str) -> str | None:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines:
        return None
    last = peel(lines[-1])
    enumerated = len(set(map(letter, lines)) - {None}) > 1
    if (option := letter(last)) and not (enumerated and len(last) > len("(B)")):
        return option
    if found := _LAST_OPTION.search(lines[-1][-20:]):
        return found[1]
    mentioned: set[str] = set(_OPTIONS.findall(said))
    if len(mentioned) == 1:
        return mentioned.pop()
    # A reply may begin with its choice and go on to defend it; "(a)" begins the first part.
    first = letter(peel(lines[0]))
    return first if first and first in lines[0][:6] and not enumerated else None


def _expression(said: str) -> str | None:
    """A short reply that is an answer without a sentence around it: ``x^2 + 1``, ``10:30 AM``."""
    if len(said) > SHORT or "\n" in said or said.rstrip("*").endswith(":"):
        return None
    numbers, spelled = len(_NUMBERS.findall(said)), len(_WORD.findall(said))
    sentence = spelled > 1 if numbers == 1 else spelled > 3
    return None if sentence or not numbers or _LABEL.match(said) else peel(said)


def _number(said: str) -> str | None:
    for number in reversed(list(_NUMBERS.finditer(said))):
        line = said[said.rfind("\n", 0, number.start()) + 1 : number.start()]
        if line.strip(" \t*_#>-") or not _MARKER.match(said, number.end()):
            return _formula(said, number.start()) or number[0].strip()
    return None


def _formula(said: str, place: int) -> str | None:
    """The right-hand side of the formula that ends a reply, where `place` is inside it."""
    formulas = list(_MATH.finditer(said, said.rfind("\n\n") + 1))
    if not formulas or not formulas[-1].start() < place < formulas[-1].end():
        return None
    content = formulas[-1][formulas[-1].lastindex or 0]
    return peel(content.rpartition("=")[2]) or None
