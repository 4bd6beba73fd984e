"""Symbolic equality: what it says, and that its child process is always in step, or gone."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

import proxy
from proxy.run.calculator import MAX_MEMORY, Calculator

T = TypeVar("T")
Scenario = Callable[[Calculator], Awaitable[T]]

#: Time for whatever will come, however busy the machine is.
ENOUGH = 60.0

#: A child that finds x equal to anything and y to nothing, dies of z, and never answers about w.
FAKE = """
print("true", flush=True)
for line in sys.stdin:
    a, b = json.loads(line)
    if "w" in a: time.sleep(600)
    if "z" in a: break
    print("true" if "x" in a else "false", flush=True)
"""
REAL = "sys.path.append(ROOT); from proxy.run.calculator import main; main()"


class Child:
    """The command of a child that leaves its process id in a file whenever it starts."""

    def __init__(self, folder: Path, script: str) -> None:
        self._pids = folder / "pids"
        root = str(Path(proxy.__file__).parents[1])
        log = f"open({str(self._pids)!r}, 'a').write(f'{{os.getpid()}}\\n')"
        prelude = f"import json, os, sys, time; ROOT = {root!r}; {log}\n"
        self.command = [sys.executable, "-I", "-c", prelude + script]

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in self._pids.read_text().split()] if self._pids.exists() else []

    @property
    def living(self) -> list[int]:
        return [pid for pid in self.pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., T]:
    """Run a scenario on a loop in a thread, as the engine does, and close the calculator."""

    def run(child: Child | None, scenario: Scenario[T]) -> T:
        results: list[T] = []

        async def life() -> None:
            calculator = Calculator(child.command) if child else Calculator()
            try:
                results.append(await scenario(calculator))
            finally:
                await calculator.close()

        def work() -> None:
            with asyncio.Runner(loop_factory=request.param) as runner:
                runner.run(life())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert child is None or child.living == []
        return results[0]

    return run


@pytest.fixture
def fake(tmp_path: Path) -> Child:
    return Child(tmp_path, FAKE)


Run = Callable[[Child | None, Scenario[T]], T]

EQUAL = [
    ("x(x+1)", "x^2+x"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\sin^2 x + \cos^2 x", "1"),
    ("2^10", "1024"),
    ("(x^2-1)/(x-1)", "x+1"),
    ("n(n+1)(2n+1)/6", "(2n^3+3n^2+n)/6"),
    ("e^x e^y", "e^(x+y)"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    ("ln(x^2)", "2 ln x"),
    ("abs(x)", r"\sqrt{x^2}"),
    ("0.5x", r"\frac{x}{2}"),
    (r"\pi r^2", "r*r*pi"),
]
DIFFERENT = [
    ("x+1", "x+2"),
    ("x", "y"),
    (r"\sqrt{x^2}", "x"),
    ("pi", "3.14159"),
    ("2^(1/3)", "1.26"),
    ("log(100)", "ln(100)"),
    ("(x+y+z+a+b+c)^64", "x+1"),
]
UNDECIDED = [("Paris", "x+1"), ("1/2x", "x/2"), ("1/0", "x"), ("9^9^9", "x"), ("(1,2)", "x+1")]


def test_which_formulas_are_equal(run: Run[dict[tuple[str, str], bool | None]]) -> None:
    pairs = [*EQUAL, *DIFFERENT, *UNDECIDED]

    async def compare(calculator: Calculator) -> dict[tuple[str, str], bool | None]:
        return {pair: await calculator.equivalent(*pair, timeout=ENOUGH) for pair in pairs}

    expected = {
        **dict.fromkeys(EQUAL, True),
        **dict.fromkeys(DIFFERENT, False),
        **dict.fromkeys(UNDECIDED, None),
    }
    assert run(None, compare) == expected


def test_no_child_is_started_for_what_needs_none(run: Run[list[bool | None]], fake: Child) -> None:
    async def compare(calculator: Calculator) -> list[bool | None]:
        pairs = [("Paris", "London"), ("x y", "x*y"), ("x" * 300, "x")]
        return [await calculator.equivalent(*pair) for pair in pairs]

    assert run(fake, compare) == [None, True, None]
    assert fake.pids == []


def test_without_sympy_it_is_started_once(run: Run[list[bool | None]], tmp_path: Path) -> None:
    child = Child(tmp_path, f"sys.modules['sympy'] = None; {REAL}")

    async def compare(calculator: Calculator) -> list[bool | None]:
        return [await calculator.equivalent("2x", "x+x", ENOUGH) for _ in range(3)]

    assert run(child, compare) == [None, None, None]
    assert len(child.pids) == 1


def test_a_command_that_does_not_exist_cannot_tell() -> None:
    async def compare() -> bool | None:
        return await Calculator(["/nonexistent/python"]).equivalent("2x", "x+x")

    assert asyncio.run(compare()) is None


def test_comparisons_at_once_get_their_own_answers(
    run: Run[list[bool | None]], fake: Child
) -> None:
    async def compare(calculator: Calculator) -> list[bool | None]:
        return await asyncio.gather(
            *(calculator.equivalent(a, "v+1", ENOUGH) for a in ["x", "y", "y", "x", "y", "x"])
        )

    assert run(fake, compare) == [True, False, False, True, False, True]
    assert len(fake.pids) == 1


def test_one_that_takes_too_long_is_killed_and_replaced(
    run: Run[list[bool | None]], fake: Child
) -> None:
    async def compare(calculator: Calculator) -> list[bool | None]:
        first = await calculator.equivalent("x", "v+1", ENOUGH)
        late = await calculator.equivalent("w", "v+1", 0.05)
        assert len(fake.pids) == 1
        assert fake.living == []
        return [first, late, await calculator.equivalent("y", "v+1", ENOUGH)]

    assert run(fake, compare) == [True, None, False]
    assert len(fake.pids) == 2


@pytest.mark.parametrize("pause", [0, 0.001, 0.05])
def test_a_cancelled_comparison_answers_no_other(
    run: Run[list[bool | None]], fake: Child, pause: float
) -> None:
    async def compare(calculator: Calculator) -> list[bool | None]:
        answers = [await calculator.equivalent("x", "v+1", ENOUGH)]
        for other in ("x^2", "w"):
            task = asyncio.create_task(calculator.equivalent(other, "v+1", ENOUGH))
            await asyncio.sleep(pause)
            task.cancel()
            await asyncio.wait([task])
            answers.append(await calculator.equivalent("y", "v+1", ENOUGH))
        return answers

    assert run(fake, compare) == [True, False, False]


def test_cancelling_one_that_waits_its_turn_disturbs_nobody(
    run: Run[list[bool | None]], fake: Child
) -> None:
    async def compare(calculator: Calculator) -> list[bool | None]:
        tasks = [
            asyncio.create_task(calculator.equivalent(a, "v+1", ENOUGH)) for a in ("x", "y", "x^2")
        ]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return [await tasks[0], await tasks[2]]

    assert run(fake, compare) == [True, True]
    assert len(fake.pids) == 1


def test_one_that_dies_is_replaced(run: Run[list[bool | None]], fake: Child) -> None:
    async def compare(calculator: Calculator) -> list[bool | None]:
        answers = [await calculator.equivalent("z", "v+1", ENOUGH)]
        answers.append(await calculator.equivalent("x", "v+1", ENOUGH))
        os.kill(fake.pids[-1], 9)
        while fake.living:
            await asyncio.sleep(0.01)
        answers.append(await calculator.equivalent("y", "v+1", ENOUGH))
        answers.append(await calculator.equivalent("y", "v+1", ENOUGH))
        return answers

    first, second, _, last = run(fake, compare)
    assert (first, second, last) == (None, True, False)


def test_one_that_still_starts_is_not_killed(run: Run[list[bool | None]], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    child = Child(tmp_path, f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n{FAKE}")

    async def compare(calculator: Calculator) -> list[bool | None]:
        early = await calculator.equivalent("x", "v+1", 0.05)
        gate.touch()
        return [early, await calculator.equivalent("x", "v+1", ENOUGH)]

    assert run(child, compare) == [None, True]
    assert len(child.pids) == 1


@pytest.mark.parametrize("pause", [0, 0.002, 0.2])
def test_closing_ends_one_that_still_starts(
    run: Run[bool | None], tmp_path: Path, pause: float
) -> None:
    child = Child(tmp_path, "time.sleep(600)")

    async def compare(calculator: Calculator) -> bool | None:
        return await calculator.equivalent("x", "v+1", pause)

    assert run(child, compare) is None


def test_the_child_knows_no_secrets_and_has_limits(
    run: Run[None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    child = Child(tmp_path, REAL)

    async def look(calculator: Calculator) -> None:
        assert await calculator.equivalent("2x", "x+x", ENOUGH) is True
        process = Path(f"/proc/{child.pids[0]}")
        assert b"secret" not in (process / "environ").read_bytes()
        limits = {
            line[:25].strip(): line[25:].split()[0]
            for line in (process / "limits").read_text().splitlines()
        }
        assert int(limits["Max address space"]) <= MAX_MEMORY
        assert int(limits["Max cpu time"]) < 120
        assert limits["Max core file size"] == "0"

    run(child, look)


def test_the_parent_does_not_import_sympy() -> None:
    code = "import sys, proxy.run.calculator; sys.exit('sympy' in sys.modules)"
    root = str(Path(proxy.__file__).parents[1])

    async def imported() -> int | None:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=root)
        return await child.wait()

    assert asyncio.run(imported()) == 0
