"""Programs in answers: taken out, run on cases apart from the service, told apart by their output.

A candidate's cases share one run of the sandbox; a program that does not end in time has no
output at all, not even for the cases before. What programs print is compared here, not beside
them, and reaches us behind a random word: nothing that they print passes for it.
"""

from __future__ import annotations

import ast
import re
import warnings
from asyncio import Semaphore
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex
from textwrap import dedent
from typing import Literal

import orjson

from proxy.sandbox.port import Sandbox

#: Programs of one request that run at once.
_AT_ONCE = 2
#: Characters of what is read as Python, and bytes of output that are kept of each case.
_LONGEST = 50_000
OUTPUT = 4_000


@dataclass(frozen=True, slots=True)
class Case:
    """What to run a program on, and what it should print; None: nothing is known of that.

    ``stdin`` is what the program reads. ``code`` is one statement run behind the program, as a
    prompt of Python's would: in one namespace for all of these cases, in their order.
    """

    kind: Literal["stdin", "code"]
    given: str
    wanted: str | None = None


class Runner:
    """Runs the programs of one request, a few at once, each for at most so many seconds."""

    def __init__(self, sandbox: Sandbox, seconds: float) -> None:
        self._sandbox = sandbox
        self._seconds = seconds
        self._slots = Semaphore(_AT_ONCE)

    async def printed(self, program: str, cases: Sequence[Case]) -> list[str | None]:
        """What ``program`` prints for each case; None where it fails."""
        marker = token_hex(16)
        given = [(case.kind, case.given) for case in cases]
        harness = f"{_HARNESS}\n_run{(program, given, marker, OUTPUT)!a}"
        async with self._slots:
            ran = await self._sandbox.run(harness, self._seconds)
        told = (line for line in ran.output.splitlines() if line.startswith(marker))
        printed = dict(_told(line.removeprefix(marker)) for line in told)
        return [printed.get(place) for place in range(len(cases))]

    async def passed(self, program: str, tests: Sequence[Case]) -> int:
        """How many of ``tests`` the program passes."""
        printed = await self.printed(program, tests)
        pairs = zip(printed, (test.wanted for test in tests), strict=True)
        return sum(
            canonical(text) == canonical(wanted)
            for text, wanted in pairs
            if text is not None and wanted is not None
        )


def _told(line: str) -> tuple[int, str | None]:
    """A case's place and its output; the last line may be cut, as what is read has an end."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        said = None
    match said:
        case [int(place), str(text)]:
            return place, text
    return -1, None


def _blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of ``text``: their language in lower case, '' where none, and content."""
    return [(language.lower(), dedent(body)) for language, body in _FENCED.findall(text)]


def program_in(answer: str) -> str | None:
    """The longest block of Python; shorter ones show how to use it.

    A block without a language counts where no other is marked as Python and it reads as that.
    """
    found = _blocks(answer)
    marked = [body for language, body in found if language in _PYTHON]
    plain = [body for language, body in found if not language]
    programs = [body for body in marked or plain if body.strip() and parsed(body) is not None]
    return max(programs, key=len, default=None)


def inputs_in(said: str) -> list[Case]:
    """A case for each fenced block, or for each of the calls that a block consists of."""
    return [case for _, body in _blocks(said) for case in _inputs(body)]


def _inputs(block: str) -> Iterator[Case]:
    tree = parsed(block)
    lines = tree.body if isinstance(tree, ast.Module) else []
    if lines and all(isinstance(line, ast.Expr) and _calls(line) for line in lines):
        yield from (Case("code", ast.get_source_segment(block, line) or "") for line in lines)
    elif block.strip():
        yield Case("stdin", block)


def _calls(tree: ast.AST) -> bool:
    """Whether anything is called in ``tree``."""
    return any(isinstance(node, ast.Call) for node in ast.walk(tree))


def canonical(text: str) -> str:
    """``text`` without what does not matter: the spaces in lines, the way a value is written."""
    stripped = "\n".join(" ".join(line.split()) for line in text.strip().splitlines())
    tree = parsed(stripped, "eval") if len(stripped) <= OUTPUT else None
    if tree is None:
        return stripped
    try:
        return repr(ast.literal_eval(tree))
    except (ValueError, TypeError, MemoryError, RecursionError):
        return stripped


def parsed(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST | None:
    """``text`` as Python, None where it is none or too long to tell."""
    if len(text) > _LONGEST:
        return None
    # Of strange escapes in a model's program nobody here needs to hear.
    with warnings.catch_warnings(action="ignore"):
        try:
            return ast.parse(text, mode=mode)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


_PYTHON = frozenset({"python", "python3", "py"})
_FENCED = re.compile(
    r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE
)

#: What is sent to the sandbox in front of a program.
_HARNESS = """\
import io, json, os, sys, types, typing


def _run(program, cases, marker, most):
    out, dumps, leave = sys.stdout, json.dumps, os._exit

    class Printed(io.BytesIO):
        def write(self, data):
            if self.tell() > most:
                raise MemoryError("too much output")
            return super().write(data)

    def module(name):
        made = sys.modules[name] = types.ModuleType(name)
        return vars(made)

    def printed(source, mode, names, stdin=""):
        raw = Printed()
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
        sys.stdout = text = io.TextIOWrapper(raw, "utf-8", "replace", "\\n")
        try:
            try:
                exec(compile(source, "<program>", mode, dont_inherit=True), names)
            except SystemExit as end:
                if end.code:
                    return None
            text.flush()
        except BaseException:
            # Whatever a candidate raises, it has failed this case; the next one is still run.
            return None
        return raw.getvalue()[:most].decode("utf-8", "replace")

    names = None
    for place, (kind, given) in enumerate(cases):
        if kind == "stdin":
            said = printed(program, "exec", module("__main__"), given)
        else:
            if names is None:
                names = module("program")
                # As where LeetCode runs it.
                names.update((name, getattr(typing, name)) for name in typing.__all__)
                printed(program, "exec", names)
            said = printed(given + "\\n", "single", names)
        out.write(f"\\n{marker}{dumps([place, said])}\\n")
        out.flush()
    leave(0)

"""
