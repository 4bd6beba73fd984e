"""Answers that are formulas, as trees: what may be handed to computer algebra, and nothing else.

Answers are written by a model and may be written by an attacker, so no algebra system ever sees
their text. This parser accepts a whitelist (numbers, single letters, Greek letters, + - * / ^,
parentheses, implicit products, a few functions, pi and e) of bounded length and magnitude.
"""

from __future__ import annotations

import cmath
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from proxy.answers.normal_form import normalise
from proxy.answers.quantity import quantity
from proxy.answers.surface import NUMBER, words

MAX_LENGTH = 200
#: Largest absolute value of a constant exponent.
MAX_EXPONENT = 64
#: About the bits, or the polynomial degree, that evaluating the expression can make.
MAX_WEIGHT = 4096
MAX_DEPTH = 50

FUNCTIONS = frozenset({"sqrt", "sin", "cos", "tan", "log", "ln", "exp", "abs"})
_GREEK = words("alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi omega")
_NAMES = sorted(FUNCTIONS | _GREEK | {"pi"}, key=len, reverse=True)
_NAME = re.compile("|".join([*_NAMES, "[a-z]"]))
#: Longer runs of letters that are no name are words: "xy" is a product, "yes" and "max" are not.
_MAX_PRODUCT = 2
_PRODUCTS = frozenset({"xyz", "abc"})
_TOKEN = re.compile(rf"\s*(?:(?P<number>{NUMBER})|(?P<letters>[a-z]+)|(?P<sign>[-+*/^()]))\s*")


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator (+ - * / ^, - with one operand is the sign) or a function, applied."""

    name: str
    arguments: tuple[Expression, ...]


#: A number, a symbol or constant by name, or an application.
Expression: TypeAlias = Fraction | str | Apply


def parse(answer: str) -> Expression | None:
    """The tree of an answer; None for what is no formula, too large, or has two readings.

    ``1/2x`` has two readings, ``\\frac{1}{2x}`` and ``\\frac{x}{2}`` have one.
    """
    if len(answer) > MAX_LENGTH:
        return None
    key = normalise(answer)
    try:
        number = quantity(key)
        tree = _Parser(_tokens(key.casefold())).expression() if number is None else number
        return tree if _weight(tree) <= MAX_WEIGHT else None
    except _NoFormulaError:
        return None


def worth_comparing(a: str, b: str) -> bool:
    """Whether two different normalised answers may be the same formula: cheap, and no verdict.

    False for two numbers (their keys say it already), for words and for prose.
    """
    if a == b or (a.isalpha() and b.isalpha()):
        return False
    left, right = parse(a), parse(b)
    if left is None or right is None:
        return False
    return not (isinstance(left, Fraction) and isinstance(right, Fraction))


class _NoFormulaError(ValueError):
    """The text is no formula that the whitelist covers."""


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _NoFormulaError
        place = found.end()
        names = _NAME.findall(found["letters"] or "")
        single = sum(len(name) == 1 for name in names)
        if single > _MAX_PRODUCT and found["letters"] not in _PRODUCTS:
            raise _NoFormulaError
        tokens += names or [found[0].strip()]
    return tokens


class _Parser:
    """Recursive descent; the tokens are in reverse, so that the next one is the last."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]
        self.depth = 0

    @property
    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def take(self, *expected: str) -> str:
        """The next token if it is one of the expected ones, else nothing."""
        return self.tokens.pop() if self.next in expected else ""

    def expression(self) -> Expression:
        tree = self.sum()
        if self.tokens:
            raise _NoFormulaError
        return tree

    def sum(self) -> Expression:
        tree = self.product()
        while sign := self.take("+", "-"):
            tree = Apply(sign, (tree, self.product()))
        return tree

    def product(self) -> Expression:
        tree = self.signed()
        divided = False
        while True:
            if sign := self.take("*", "/"):
                tree = Apply(sign, (tree, self.signed()))
                divided = sign == "/"
            elif self.next == "(" or self.next.isalpha():
                if divided:
                    raise _NoFormulaError  # 1/2x
                tree = Apply("*", (tree, self.power()))
            else:
                return tree

    def signed(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NoFormulaError
        sign = self.take("+", "-")
        tree = self.signed() if sign else self.power()
        self.depth -= 1
        return Apply("-", (tree,)) if sign == "-" else tree

    def power(self) -> Expression:
        base = self.atom()
        if not self.take("^"):
            return base
        exponent = self.signed()
        if _exponent_weight(exponent) > MAX_EXPONENT:
            raise _NoFormulaError
        return Apply("^", (base, exponent))

    def atom(self) -> Expression:
        if not self.tokens:
            raise _NoFormulaError
        token = self.tokens.pop()
        if token == "(":
            tree = self.sum()
            if not self.take(")"):
                raise _NoFormulaError
            return tree
        if token in FUNCTIONS:
            return self.applied(token)
        if token.isalpha():
            return token
        if token in "+-*/^)":
            raise _NoFormulaError
        return Fraction(token.replace(",", ""))

    def applied(self, function: str) -> Expression:
        """``sin(x)``, ``sin x``, ``sin 2x`` and ``sin^2 x``."""
        exponent = self.atom() if self.take("^") else None
        if exponent is not None and not isinstance(exponent, Fraction):
            raise _NoFormulaError
        argument = self.atom() if self.next == "(" else self.power()
        if isinstance(argument, Fraction) and self.next.isalpha() and self.next not in FUNCTIONS:
            argument = Apply("*", (argument, self.power()))
        tree = Apply(function, (argument,))
        return tree if exponent is None else Apply("^", (tree, exponent))


def _weight(tree: Expression) -> int:
    match tree:
        case Fraction():
            return tree.numerator.bit_length() + tree.denominator.bit_length()
        case Apply("^", (base, exponent)):
            return _weight(base) * max(1, _exponent_weight(exponent))
        case Apply(_, arguments):
            return sum(map(_weight, arguments))
    return 1


def _exponent_weight(exponent: Expression) -> int:
    """The absolute value of a constant exponent; the size of one with symbols in it."""
    try:
        value = _value(exponent)
        return _weight(exponent) if value is None else math.ceil(abs(value))
    except (ArithmeticError, ValueError):
        raise _NoFormulaError from None


def _value(tree: Expression) -> complex | None:
    """What a constant expression evaluates to, about; None where there are symbols in it."""
    match tree:
        case Fraction():
            return float(tree)
        case str():
            return _CONSTANTS.get(tree)
        case Apply(name, arguments):
            values = [_value(argument) for argument in arguments]
            known = [value for value in values if value is not None]
            return _FUNCTIONS[name, len(values)](*known) if len(known) == len(values) else None


_CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e}
_FUNCTIONS: Mapping[tuple[str, int], Callable[..., complex]] = {
    ("+", 2): operator.add,
    ("-", 2): operator.sub,
    ("-", 1): operator.neg,
    ("*", 2): operator.mul,
    ("/", 2): operator.truediv,
    ("^", 2): operator.pow,
    ("sqrt", 1): cmath.sqrt,
    ("sin", 1): cmath.sin,
    ("cos", 1): cmath.cos,
    ("tan", 1): cmath.tan,
    ("log", 1): cmath.log,
    ("ln", 1): cmath.log,
    ("exp", 1): cmath.exp,
    ("abs", 1): abs,
}
