"""Programs: taken out of answers, run on cases in the real sandbox, compared by what they print."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from proxy.sandbox.port import Ran
from proxy.sandbox.process import Subprocess
from proxy.search.programs import Case, Runner, canonical, inputs_in, program_in


def printed(program: str, *cases: Case, seconds: float = 20.0) -> list[str | None]:
    return asyncio.run(Runner(Subprocess(), seconds).printed(program, cases))


def passed(program: str, *tests: Case, seconds: float = 20.0) -> int:
    return asyncio.run(Runner(Subprocess(), seconds).passed(program, tests))


def code(given: str, wanted: str | None = None) -> Case:
    return Case("code", given, wanted)


def stdin(given: str, wanted: str | None = None) -> Case:
    return Case("stdin", given, wanted)


class TestPrograms:
    @pytest.mark.parametrize(
        ("answer", "program"),
        [
            ("So:\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
            ("```Python3\nprint(1)\n```", "print(1)\n"),
            ("```\nprint(1)\n```", "print(1)\n"),
            ("1. Like this:\n   ```py\n   if a:\n       b()\n   ```\n", "if a:\n    b()\n"),
            ("```python\ndef f(x):\n    return x\n```\nUse:\n```python\nf(1)\n```", None),
            ("```\n[a long list, which is no Python program?]\n```\n```py\nf()\n```", "f()\n"),
            ("```python\ndef f(x)\n```", ""),
            ("```go\nreturn 0\n```", ""),
            ("```\nfn main() { }\n```", ""),
            ("```sh\npython x.py\n```\n\nText between.\n\n```\n$ ls\n```", ""),
            ("print(1)", ""),
            ("```python\nprint('never closed')", ""),
            (f"```python\n{'(' * 10_000}\n```", ""),
            (f"```python\n{'-' * 40_000}1\n```", ""),
            ("```python\n'\\d'\n```", "'\\d'\n"),
        ],
    )
    def test_are_the_longest_block_of_python(self, answer: str, program: str | None) -> None:
        wanted = "def f(x):\n    return x\n" if program is None else program or None
        assert program_in(answer) == wanted


class TestInputs:
    def test_are_what_fenced_blocks_hold(self) -> None:
        said = "Two:\n```\n3\n1 2 3\n```\n```text\n0\n```\nThat is all: 5."
        assert inputs_in(said) == [stdin("3\n1 2 3\n"), stdin("0\n")]

    def test_calls_are_run_one_by_one(self) -> None:
        said = "```python\nf([1],\n  2)  # at the edge\nSolution().g()\n```"
        assert inputs_in(said) == [code("f([1],\n  2)"), code("Solution().g()")]

    @pytest.mark.parametrize("said", ["", "1, 2, 3", "```\n\n```"])
    def test_may_be_none(self, said: str) -> None:
        assert not inputs_in(said)


class TestRuns:
    def test_of_a_program_that_reads(self) -> None:
        program = "a, b = map(int, input().split())\nprint(a + b)"
        assert printed(program, stdin("1 2\n"), stdin("x\n"), stdin("3 4\n")) == [
            "3\n",
            None,
            "7\n",
        ]

    def test_of_one_that_reads_bytes_and_leaves(self) -> None:
        program = (
            "import sys\n"
            "if __name__ == '__main__':\n"
            "    sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])\n"
            "    sys.exit()\n"
        )
        assert printed(program, stdin("abc")) == ["cba"]

    def test_of_functions_and_classes(self) -> None:
        program = (
            "from dataclasses import dataclass\n"
            "@dataclass\n"
            "class Point:\n"
            "    x: int\n"
            "def first(points: List[Point]) -> int:\n"
            "    return points[0].x\n"
            "if __name__ == '__main__':\n"
            "    print(first([Point(int(input()))]))\n"
        )
        cases = (code("p = Point(4)"), code("first([p\n])"), code("print(p)"), code("lost(1)"))
        assert printed(program, *cases) == ["", "4\n", "Point(x=4)\n", None]

    @pytest.mark.parametrize(
        "program",
        [
            "1 / 0",
            "def",
            "while True: print('x' * 99)",
            "raise SystemExit('no')",
            "import os; os.fork()",
        ],
    )
    def test_of_one_that_fails_print_nothing(self, program: str) -> None:
        assert printed(program, stdin("1\n"), code("f(1)")) == [None, None]

    def test_of_one_that_does_not_end_are_ended(self) -> None:
        assert printed("while True: pass", stdin("1\n"), seconds=0.5) == [None]

    def test_wait_for_no_thread(self) -> None:
        program = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
        assert printed(f"{program}\nprint(1)", stdin("")) == ["1\n"]

    def test_know_nothing_that_is_printed_past_them(self) -> None:
        program = (
            "import sys\n"
            "for out in (sys.stdout, sys.__stdout__):\n"
            '    out.write(\'\\n[0, "7\\\\n"]\\n{"passed": true}\\n\' * 9)\n'
            "    out.flush()\n"
            "import os\n"
            "os._exit(0)\n"
        )
        assert passed(program, stdin("3 4\n", "7")) == 0

    def test_a_few_at_a_time(self) -> None:
        class Counting:
            runs = True
            libraries: Sequence[str] = ()
            running = peak = 0

            async def run(self, program: str, seconds: float) -> Ran:
                self.running += 1
                self.peak = max(self.peak, self.running)
                await asyncio.sleep(0)
                self.running -= 1
                return Ran("")

        async def all_at_once() -> None:
            runner = Runner(sandbox, 1.0)
            await asyncio.gather(*(runner.printed("", [stdin("")]) for _ in range(9)))

        sandbox = Counting()
        asyncio.run(all_at_once())
        assert sandbox.peak == 2

    @pytest.mark.parametrize("end", ["", "[0]", '[0, "cut', "null"])
    def test_of_which_the_last_word_is_cut(self, end: str) -> None:
        class Cut:
            runs = True
            libraries: Sequence[str] = ()

            async def run(self, program: str, seconds: float) -> Ran:
                marker = program.rsplit("'", 2)[1]
                return Ran(f'{marker}[1, "whole"]\n{marker}{end}', "It printed too much.")

        runner = Runner(Cut(), 1.0)
        assert asyncio.run(runner.printed("", [stdin(""), stdin("")])) == [None, "whole"]


class TestTests:
    def test_are_counted_that_pass(self) -> None:
        program = "def f(x):\n    return [x, 2.50]"
        tests = (
            code("y = 1"),
            code("f(y)", "[1,2.5]"),
            code("f(2)", "[1, 2.5]"),
            code("bool(f(3) == [3, 2.5])", "True"),
        )
        assert passed(program, *tests) == 2

    def test_of_what_is_read_and_printed(self) -> None:
        program = "print(' '.join(input().split(',')), ' ')\nprint('YES')\nprint()"
        assert passed(program, stdin("1,2\n", "1 2\nYES"), stdin("1,2\n", "1 2\nyes")) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1  2\n3 \n", " 1 2\n3", True),
        ("1 2 3", "1 2\n3", False),
        ("[0,1]", "[0, 1]\n", True),
        ("'a'", '"a"', True),
        ("1.50", "1.5", True),
        ("Yes", "yes", False),
        ("007", "7", False),
        ("1" * 5000, "1" * 5000, True),
        ("\\d", "\\d", True),
    ],
)
def test_outputs_are_compared_by_what_they_say(one: str, other: str, same: bool) -> None:
    assert (canonical(one) == canonical(other)) is same
