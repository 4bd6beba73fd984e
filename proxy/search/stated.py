"""The tests that a problem states, found without a model and only where they are unmistakable.

- Sessions at Python's prompt (``>>> f(1)``, and what it shows) and ``assert`` statements, of which
  some call what is neither built in nor their own.
- What a program reads and prints: an input and an output whose headings call them samples, or below
  a heading "Example", or each in a fenced block. A bare "Input" describes.
- LeetCode's ``Input: nums = [2, 7], target = 9``, where the problem has the function's signature.

A sample without a fence ends at a blank line. One that is read wrongly is passed by no program,
which costs its run and settles nothing.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from proxy.search.programs import OUTPUT, Case, parsed

#: Characters of a problem that are looked at, and tests that are taken from it.
_LONGEST = 20_000
_MOST = 12


def stated_tests(problem: str) -> list[Case]:
    """The tests in ``problem``, with what they need in front; empty where it states none."""
    text = problem[:_LONGEST].replace("\r\n", "\n")
    code = [*_session(text), *_assertions(text)]
    if not _call_the_program(code):
        code = []
    cases = [*code, *_samples(text)][:_MOST]
    tested = any(case.wanted is not None for case in cases)
    return [case for case in cases if len(case.wanted or "") <= OUTPUT] if tested else []


def _session(text: str) -> Iterator[Case]:
    """What is typed at Python's prompt; nothing is wanted of what shows nothing or fails."""
    for found in _PROMPT.finditer(_QUOTES.sub("", text)):
        first, *others = found["source"].splitlines()
        indent = len(found["indent"])
        source = "\n".join([first, *(line[indent + len("... ") :] for line in others)])
        shown = found["shown"].strip()
        if parsed(source) is not None:
            silent = not shown or shown.startswith("Traceback")
            yield Case("code", source, None if silent else shown)


def _assertions(text: str) -> Iterator[Case]:
    for line in _ASSERTION.findall(text):
        tree = parsed(line)
        if isinstance(tree, ast.Module) and isinstance(tree.body[0], ast.Assert):
            yield Case("code", f"bool({ast.get_source_segment(line, tree.body[0].test)})", "True")


def _call_the_program(cases: Sequence[Case]) -> bool:
    """Whether they call what is neither built in nor defined by themselves."""
    called: set[str] = set()
    known = set(vars(builtins))
    trees = (parsed(case.given) for case in cases)
    for node in (node for tree in trees if tree is not None for node in ast.walk(tree)):
        match node:
            case ast.Call():
                called.add(_root(node))
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                known.add(name)
            case ast.alias():
                known.add(node.asname or node.name.partition(".")[0])
    return not called <= {*known, ""}


def _root(node: ast.expr) -> str:
    """The name that a call begins with; '' where it is a value's."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True, slots=True)
class _Section:
    """What stands below a heading: ``in``, ``out``, ``example``, or '' for any other."""

    kind: str
    #: Whether the heading says that it is no description.
    sample: bool
    body: str
    fenced: bool


def _samples(text: str) -> Iterator[Case]:
    """The inputs that an output follows."""
    in_example = False
    for section, following in pairwise(_sections(_INLINE.sub(r"\n\1", text))):
        if section.kind not in ("in", "out"):
            in_example = section.kind == "example"
        if (section.kind, following.kind) != ("in", "out") or not following.body:
            continue
        if in_example or section.sample or (section.fenced and following.fenced):
            case = _called(section.body, following.body, text)
            if case is not None:
                yield case


def _sections(text: str) -> Iterator[_Section]:
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    for heading, end in zip(headings, ends, strict=False):
        fenced = _FENCED.match(text, heading.end(), end)
        if fenced is not None:
            body = fenced[1]
        else:
            below = _FENCE.sub("", text[heading.end() : end]).strip()
            body = _BLANK.split(below, maxsplit=1)[0]
        kind = "example" if heading["example"] else (heading["put"] or "").lower()
        yield _Section(kind, bool(heading["sample"]), body.strip(), fenced is not None)


def _called(given: str, wanted: str, problem: str) -> Case | None:
    """A sample as a call where it names arguments; None where nobody says of which function."""
    given_here = _CONSTANT.sub(lambda found: _CONSTANTS[found[0]], " ".join(given.split()))
    tree = parsed(f"f({given_here})", "eval")
    call = tree.body if isinstance(tree, ast.Expression) else None
    if not isinstance(call, ast.Call) or call.args or not call.keywords:
        return Case("stdin", f"{given}\n", wanted)
    names = {str(keyword.arg) for keyword in call.keywords}
    for name, of_self, parameters in _SIGNATURE.findall(problem):
        if names <= set(_WORD.findall(parameters)):
            function = f"Solution().{name}" if of_self else name
            expected = _CONSTANT.sub(lambda found: _CONSTANTS[found[0]], wanted)
            return Case("code", f"{function}({given_here})", expected)
    return None


#: What a docstring or a fence puts below what is shown.
_QUOTES = re.compile(r"^[ \t]*(?:```.*|\"\"\"|''')[ \t]*$", re.MULTILINE)
_PROMPT = re.compile(
    r"^(?P<indent>[ \t]*)>>> (?P<source>.+(?:\n(?P=indent)\.\.\.(?: .*)?)*)"
    r"(?P<shown>(?:\n(?P=indent)(?!>>>)[ \t]*\S.*)*)",
    re.MULTILINE,
)
_ASSERTION = re.compile(r"^[ \t]*(assert\b.+)$", re.MULTILINE)

#: "Input: 3 Output: 4" in one line.
_INLINE = re.compile(
    r"(?<![ \t])(?<!Sample)(?<!Example)[ \t]+"
    r"((?:Sample |Example )?(?:Input|Output|Explanation)(?: ?\d+)?:)"
)
_HEADING = re.compile(
    r"""^[ \t#>*_-]*+
    (?: (?P<sample> (?:sample|example)s? [ \t]+ )? (?:std|standard[ \t]+)? (?P<put>in|out)put
      | (?P<example> (?:.*\s)? (?:sample|example)s? )
      | notes? | explanations? | constraints? | hints? | tasks? | (?<=\#[ ]) .* )
    (?: [ \t]* [#]?\d+ )? [ \t*_-]* (?: [:][ \t*_]* | $ )""",
    re.MULTILINE | re.VERBOSE | re.IGNORECASE,
)
_FENCED = re.compile(r"\s*^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n")

_SIGNATURE = re.compile(r"\bdef[ \t]+(\w+)[ \t]*\([ \t\n]*(self\b)?([^)]{0,1000})\)")
_WORD = re.compile(r"\w+")
_CONSTANTS = {"true": "True", "false": "False", "null": "None"}
_CONSTANT = re.compile(r"\b(?:true|false|null)\b")
