"""Questions with a known answer, so that a simulated model can be right or wrong on purpose.

The gold answer is a function of the text alone: the value of the first arithmetic expression, or an
integer made from a hash. A prompt that quotes a question inside longer text has the gold answer of
that question, which is what lets a test score an approach without knowing its prompts.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

_MARK = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
_NUMBER = r"\d{1,18}(?:,\d{3}){0,5}(?:\.\d{1,9})?"
_OPERAND = rf"[(]{{0,8}}-?{_NUMBER}[)]{{0,8}}"
_EXPRESSION = re.compile(
    rf"(?<![\w.]){_OPERAND}(?:[ \t]*(?:\*\*|[-+*/^×·÷−])[ \t]*{_OPERAND})+(?!\w)"
)
# "[0-10]", "1/2" and "2026-11-20" are ranges, fractions and dates, not questions.
_DELIBERATE = re.compile(r"[+*^×·]|[ \t][-/÷−][ \t]")
_ASCII = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", ",": None})
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,80}>")
_LABEL = re.compile(
    r"[>#*\-\s\"]*(?:(?:the\s+)?(?:user'?s?\s+)?(?:question|problem|query|user|task|q)\**\s*:\**\s*)?",
    re.IGNORECASE,
)

_CANDIDATE = re.compile(r"<candidate\b([^>]*)>(.*?)</candidate\s*>", re.DOTALL)
_NUMBERED = re.compile(r"=\s*[\"']?(\d{1,6})(?![\w.-])")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})+)\}")
_STATED = re.compile(r"\banswer(?: is|:)[ \t*$]*([^\s*$]+)", re.IGNORECASE)
_MOST_BITS = 4096
_LONGEST = 400

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that a prompt quotes, with the number it has there and the answer it ends in."""

    number: int
    text: str
    answer: str


def find_question(text: str) -> str | None:
    """The question that `text` asks or quotes, or None.

    ``[[…]]`` wins; then the first arithmetic expression, then the first line that ends in "?"
    (without quoting tags and a leading "Question:"). Quoted candidates are not looked at.
    """
    if marked := _MARK.search(text):
        return marked[1].strip()
    if "<candidate" in text:
        text = _CANDIDATE.sub("", text)
    return _find_expression(text) or _find_line(text)


def gold(question: str) -> str:
    """The right answer of a question, or of the question that a longer text asks.

    "What is 17 * 23 + 5?" has its value, exact ("17/3" where it is no integer); any other text
    has an integer of five digits.
    """
    marked = _MARK.search(question)
    return _truth(marked[1].strip() if marked else question)


def distractor(question: str, i: int) -> str:
    """The i-th wrong answer of a question, i from 0; all differ from each other and from `gold`."""
    truth = gold(question)
    step = 1 + _hash(truth) % 9
    distance = step * (i // 2 + 1)
    return str(Fraction(truth) + (distance if i % 2 == 0 else -distance))


def find_candidates(text: str) -> list[Candidate]:
    """The candidates a prompt quotes: ``<candidate …>`` blocks, else two or more boxed answers.

    A block counts as the integer among its attributes (``<candidate n="3">``), else by position.
    """
    if blocks := _CANDIDATE.findall(text):
        found = []
        for position, (attributes, body) in enumerate(blocks, 1):
            number = _NUMBERED.search(attributes)
            answer = find_answer(body)
            found.append(Candidate(int(number[1]) if number else position, body, answer))
        return found
    boxes = _BOXED.findall(text)
    if len(boxes) < 2:
        return []
    return [Candidate(i, box, box.strip()) for i, box in enumerate(boxes, 1)]


def find_answer(text: str) -> str:
    """The final answer a text states: the last box, else "answer is …", else its last word."""
    if boxes := _BOXED.findall(text):
        return str(boxes[-1]).strip()
    if stated := _STATED.findall(text):
        return str(stated[-1]).rstrip(".")
    return words[-1].rstrip(".") if (words := text.split()) else ""


def _truth(question: str) -> str:
    if expression := _find_expression(question):
        return str(_evaluate(expression))
    line = _find_line(question) or question
    return str(10_000 + _hash(" ".join(line.split())) % 90_000)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _find_line(text: str) -> str | None:
    if "?" not in text:
        return None
    for line in text.splitlines():
        if "?" not in line:
            continue
        bare = _TAG.sub("", line).strip().rstrip('"*')
        if bare.endswith("?"):
            label = _LABEL.match(bare)
            return bare[label.end() if label else 0 :]
    return None


def _find_expression(text: str) -> str | None:
    for match in _EXPRESSION.finditer(text):
        if not _DELIBERATE.search(match[0]):
            continue
        expression = _balance(match[0])
        if len(expression) <= _LONGEST and _evaluate(expression) is not None:
            return expression
    return None


def _balance(expression: str) -> str:
    """Without the outer parentheses that belong to the sentence around it."""
    surplus = expression.count("(") - expression.count(")")
    while surplus > 0 and expression.startswith("("):
        expression, surplus = expression[1:], surplus - 1
    while surplus < 0 and expression.endswith(")"):
        expression, surplus = expression[:-1], surplus + 1
    return expression


@lru_cache(maxsize=4096)
def _evaluate(expression: str) -> Fraction | None:
    source = expression.translate(_ASCII).replace("^", "**")
    try:
        return _value(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("not arithmetic")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > _MOST_BITS:
        raise ValueError("out of range")
    return Fraction(base ** int(exponent))
