"""Symbolic equality of answers, computed in a child process: ``x(x+1)`` is ``x^2 + x``.

A simplification may take for ever, all memory, or the interpreter's lock, so it happens where it
can be killed. The child has an empty environment and limits on memory and processor time. What it
is sent comes from a model: it builds its formulas from the trees of `proxy.answers.expression`,
and computer algebra never sees the text.

One JSON line goes each way. The child's first says whether it has sympy (the ``[math]`` extra).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import operator
import resource
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from proxy.answers.expression import Apply, Expression, parse

#: Seconds for the child to import sympy, which takes about two.
START_TIMEOUT = 60.0
#: Bytes of address space that the child may have.
MAX_MEMORY = 1 << 30
#: Seconds of processor time for one comparison, should the parent not be there to end it.
MAX_CPU = 20

# Isolated mode leaves out the working directory and the user's site, so the child is told where
# this package is; at the end of its path, because that place may be site-packages.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from proxy.run.calculator import main; main()"
_COMMAND = (sys.executable, "-I", "-c", _BOOT, str(Path(__file__).parents[2]))

#: What sympy raises where it is out of its depth. Anything else ends the child.
_UNDECIDED = (
    ArithmeticError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


class Calculator:
    """Compares answers in one child process, one after the other.

    The child starts with the first comparison. One that takes too long is killed and replaced by
    the next; one without sympy is not started again.
    """

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._child: asyncio.Task[Process | None] | None = None
        self._turn = asyncio.Lock()

    async def equivalent(
        self,
        a: str,
        b: str,
        timeout: float = 2.0,  # noqa: ASYNC109
    ) -> bool | None:
        """Whether two answers are the same formula; None where that cannot be told.

        That is where one of them is no formula (`proxy.answers.expression.parse`), where sympy is
        not installed, and where `timeout` seconds did not suffice; they count from the call. A
        child that is still importing then goes on doing so, and the next call finds it ready.
        """
        left, right = parse(a), parse(b)
        if left is None or right is None:
            return None
        if left == right:
            return True
        try:
            async with asyncio.timeout(timeout), self._turn:
                return await self._ask(a, b)
        except TimeoutError:
            return None

    async def close(self) -> None:
        """End the child, once it has answered what it was asked."""
        async with self._turn:
            await self._end()

    async def _ask(self, a: str, b: str) -> bool | None:
        if self._child is None:
            self._child = asyncio.create_task(_start(self._command))
        child = await asyncio.shield(self._child)
        if child is None:
            return None
        reply = b""
        try:
            reply = await _exchange(child, json.dumps([a, b]))
        finally:
            # Without a whole line it is dead, or will answer when something else was asked.
            if not reply.endswith(b"\n"):
                await self._end()
        equal: bool | None = json.loads(reply) if reply.endswith(b"\n") else None
        return equal

    async def _end(self) -> None:
        started, self._child = self._child, None
        if started is None:
            return
        started.cancel()
        await asyncio.wait([started])
        if not started.cancelled() and (child := started.result()) is not None:
            await _kill(child)


async def _start(command: Sequence[str]) -> Process | None:
    """A child that is ready to compare; None where it cannot: no sympy, or it does not start."""
    spawning = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd="/",
            env={},
            # A Ctrl-C in the terminal is for the service; the child ends with it.
            start_new_session=True,
        )
    )
    try:
        child = await asyncio.shield(spawning)
    except OSError:
        return None
    except asyncio.CancelledError:
        # uvloop would lose a process whose start is cancelled.
        with contextlib.suppress(OSError):
            await _kill(await spawning)
        raise
    greeting = b""
    try:
        assert child.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT):
                greeting = await child.stdout.readline()
    finally:
        if greeting != b"true\n":
            await _kill(child)
    return child if greeting == b"true\n" else None


async def _exchange(child: Process, question: str) -> bytes:
    """Send one line, read one line; what came of it where the child dies."""
    assert child.stdin is not None
    assert child.stdout is not None
    if child.stdin.is_closing():
        return b""  # uvloop would raise RuntimeError
    try:
        child.stdin.write(f"{question}\n".encode())
        await child.stdin.drain()
        return await child.stdout.readline()
    except ConnectionError:
        return b""


async def _kill(child: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    # Unlike wait(), this also reads the pipes to their end, and so leaves no transport open.
    await child.communicate()


def main() -> None:
    """The child: say whether sympy is there, then answer each line until there are no more."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, MAX_MEMORY)
    _limit(resource.RLIMIT_CPU, round(START_TIMEOUT))
    try:
        import sympy  # noqa: F401
    except ImportError:
        _say(False)
        return
    _say(True)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, round(used.ru_utime + used.ru_stime) + MAX_CPU)
        _say(_equal(*json.loads(line)))


def _say(reply: bool | None) -> None:
    sys.stdout.write(f"{json.dumps(reply)}\n")
    sys.stdout.flush()


def _limit(kind: int, soft: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _equal(a: str, b: str) -> bool | None:
    """Equal where sympy proves it, different where some point shows it, else None."""
    import sympy

    left, right = parse(a), parse(b)
    if left is None or right is None:
        return None
    try:
        sides = _formula(left), _formula(right)
        if any(side.has(sympy.nan, sympy.zoo, sympy.oo) for side in sides):
            return None
        if _differ_somewhere(*sides):
            return False
        difference = sides[0] - sides[1]
        # ln(x^2) is 2 ln x where both are defined; that no sign was lost was seen point by point.
        positive = {symbol: sympy.Dummy(positive=True) for symbol in difference.free_symbols}
        return True if sympy.simplify(difference.subs(positive)) == 0 else None
    except _UNDECIDED:
        return None


def _differ_somewhere(left: Any, right: Any) -> bool:
    """Whether two formulas have different real values at one of four points of either sign."""
    import sympy

    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    for point in range(4):
        values = {
            symbol: sympy.Rational((-1) ** (point * place) * sympy.prime(place + 4), 5 + point)
            for place, symbol in enumerate(symbols, start=1)
        }
        at_point = [side.subs(values) for side in (left, right)]
        if all(side.evalf().is_real for side in at_point):
            gap = (at_point[0] - at_point[1]).evalf(30)
            if abs(gap) > 1e-15 * (1 + abs(at_point[0].evalf())):
                return True
    return False


def _formula(tree: Expression) -> Any:
    """The tree in sympy. Symbols are real, so that sqrt(x^2) is |x| and not x."""
    import sympy

    match tree:
        case Fraction():
            return sympy.Rational(tree.numerator, tree.denominator)
        case "pi":
            return sympy.pi
        case "e":
            return sympy.E
        case str():
            return sympy.Symbol(tree, real=True)
        case Apply("-", (operand,)):
            return -_formula(operand)
        case Apply("log", (operand,)):
            # Which base a bare log has is not said, so it equals no ln and no number by itself.
            return sympy.log(_formula(operand)) / sympy.Symbol("log base", positive=True)
    functions = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "^": operator.pow,
        "sqrt": sympy.sqrt,
        "sin": sympy.sin,
        "cos": sympy.cos,
        "tan": sympy.tan,
        "ln": sympy.log,
        "exp": sympy.exp,
        "abs": sympy.Abs,
    }
    return functions[tree.name](*map(_formula, tree.arguments))
