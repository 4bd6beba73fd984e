r"""LaTeX to plain mathematics: ``\frac{1}{2}x^{10}`` reads ``(1/2)x^10``.

Not a typesetter: what an answer is made of is kept (fractions, roots, powers, names, text), what
only makes it look well is dropped, and what is unknown keeps its name without the backslash.
"""

from __future__ import annotations

import re

from proxy.answers.surface import words

#: Groups nested deeper than this are not mathematics that anybody wrote.
MAX_DEPTH = 40

_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[0-9]+(?:\.[0-9]+)?|.", re.DOTALL)
_SIMPLE = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|[^\W\d_]|pi|sqrt\([^()]*\))")
_INTEGER_FRACTION = re.compile(r"[0-9]+/[0-9]+")
_INNER = re.compile(r"\([^()]*\)")
_SUM = re.compile(r"[^\w.^* ]")

_FRACTIONS = frozenset({r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"})
_TEXT = words(
    r"\boxed \fbox \mbox \hbox \text \textbf \textit \textrm \textsf \texttt \textnormal \mathrm "
    r"\mathbf \mathit \mathsf \mathtt \mathcal \mathbb \boldsymbol \bm \operatorname \emph "
    r"\underline \overline"
)
_DROPPED = words(
    r"\left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle "
    r"\limits \nolimits \rm \bf \it \! \( \) \[ \]"
)
_NAMED = {
    r"\cdot": "*",
    r"\times": "*",
    r"\ast": "*",
    r"\div": "/",
    r"\le": "<=",
    r"\leq": "<=",
    r"\leqslant": "<=",
    r"\ge": ">=",
    r"\geq": ">=",
    r"\geqslant": ">=",
    r"\lt": "<",
    r"\gt": ">",
    r"\ne": "!=",
    r"\neq": "!=",
    r"\pm": "±",
    r"\infty": "infinity",
    r"\circ": "°",
    r"\degree": "°",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\vert": "|",
    r"\mid": "|",
    r"\quad": " ",
    r"\qquad": " ",
    r"\,": " ",
    r"\;": " ",
    r"\:": " ",
    r"\\": "; ",
    "~": " ",
    "&": ", ",
}
_CLOSING = frozenset({"}", r"\}", r"\rbrace"})
_OPENING = frozenset({"{", r"\{", r"\lbrace"})


def plain(text: str) -> str:
    """Write LaTeX as plain mathematics; text that nests too deeply comes back as it is."""
    reader = _Reader(text)
    parts: list[str] = []
    try:
        while reader.tokens:
            parts.append(reader.group())
    except RecursionError:
        return text
    return "".join(parts)


class _Reader:
    """Recursive descent over the tokens, kept in reverse so that the next one is popped."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = _TOKEN.findall(text)[::-1]
        self.depth = 0

    def group(self) -> str:
        """Everything up to the brace that closes this group, or to the end."""
        self.descend()
        parts: list[str] = []
        left, left_token = "", ""
        while self.tokens and (token := self.tokens.pop()) not in _CLOSING:
            part = self.atom(token)
            if not part:
                continue
            if token in _FRACTIONS:
                part = self.placed(part, left)
            elif left and _run_together(left, left_token, part, token):
                part = f" {part}"
            parts.append(part)
            left, left_token = part, token
        self.depth -= 1
        return "".join(parts)

    def placed(self, fraction: str, left: str) -> str:
        """A fraction with the parentheses that its neighbours make necessary."""
        if left[-1:].isdigit() and _INTEGER_FRACTION.fullmatch(fraction):
            # A mixed number: 1\frac{1}{2} is 1 1/2 and not a product.
            return f" {fraction}"
        following = (t for t in reversed(self.tokens) if t not in _DROPPED and not t.isspace())
        right = next(following, "}")
        if left[-1:].isalnum() or left[-1:] in (")", "^", "/"):
            return f"({fraction})"
        return f"({fraction})" if right[0].isalnum() or right[0] in "(^\\{" else fraction

    def atom(self, token: str) -> str:
        if token in _OPENING:
            inner = self.group()
            # "{,}" is TeX's thousands separator; braces around several things are a set.
            return f"{{{inner}}}" if "," in inner and inner != "," else inner
        if token in _FRACTIONS:
            above, below = self.argument(), self.argument()
            product = not _SUM.search(_INNER.sub("", above[1:]))
            return f"{above if product and above else _wrapped(above)}/{_wrapped(below)}"
        if token == r"\sqrt":
            return self.root()
        if token in ("^", "_") and self.tokens and self.tokens[-1][0] in "{\\":
            script = self.argument()
            return script if script in ("°", "") else f"{token}{_wrapped(script)}"
        if token in _TEXT and self.tokens and self.tokens[-1] == "{":
            self.tokens.pop()
            return self.group()
        if token in (r"\begin", r"\end"):
            self.argument()
            return "[" if token == r"\begin" else "]"
        if token in _TEXT or token in _DROPPED:
            return ""
        return _NAMED.get(token) or token.removeprefix("\\")

    def argument(self) -> str:
        """What a command applies to: a group, a command with its own, or one character."""
        self.skip_spaces()
        if not self.tokens or self.tokens[-1] in _CLOSING:
            return ""
        token = self.tokens.pop()
        if token[0].isdigit() and len(token) > 1:
            self.tokens.append(token[1:])
            token = token[0]
        if token == "{":
            return self.group()
        self.descend()
        argument = self.atom(token)
        self.depth -= 1
        return argument

    def root(self) -> str:
        self.skip_spaces()
        degree = "2"
        if self.tokens and self.tokens[-1] == "[":
            self.tokens.pop()
            parts = []
            while self.tokens and (token := self.tokens.pop()) != "]":
                parts.append(self.atom(token))
            degree = "".join(parts)
            self.skip_spaces()
        if self.tokens and self.tokens[-1][0].isdigit():
            # Not TeX, where one digit would be taken, but what people write: √12.
            radicand = self.tokens.pop()
        else:
            radicand = self.argument()
        return f"sqrt({radicand})" if degree == "2" else f"{_wrapped(radicand)}^(1/{degree})"

    def descend(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RecursionError

    def skip_spaces(self) -> None:
        while self.tokens and self.tokens[-1].isspace():
            self.tokens.pop()


def _run_together(left: str, left_token: str, right: str, right_token: str) -> bool:
    """Whether two things that were apart in LaTeX would read as one."""
    if left[-1].isalpha() and right[0].isalpha():
        return left_token.startswith("\\") or right_token.startswith("\\")
    if left[-1].isdigit() and right[0].isalpha():
        return right_token in _TEXT
    return left[-1].isdigit() and right[0].isdigit() and left_token in ("^", "_")


def _wrapped(part: str) -> str:
    return part if _SIMPLE.fullmatch(part) else f"({part})"
