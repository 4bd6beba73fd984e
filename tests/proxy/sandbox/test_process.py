"""A program in a process of its own: what it can do, what it cannot, and how it ends."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import eventually

from proxy.sandbox.port import Ran
from proxy.sandbox.process import MAX_OUTPUT, Subprocess

#: Says when the program of its sandbox sleeps, by what that writes to its folder.
_WORKER = """
import asyncio
import tempfile
from pathlib import Path
from proxy.sandbox.process import Subprocess

async def work():
    running = asyncio.create_task(Subprocess().run(
        "import time; open('asleep', 'w').close(); time.sleep(600)", 600))
    while not list(Path(tempfile.gettempdir()).glob("optillm-*/asleep")):
        await asyncio.sleep(0.01)
    print("asleep", flush=True)
    await running

asyncio.run(work())
"""


def run(program: str, seconds: float = 20.0) -> Ran:
    return asyncio.run(Subprocess().run(program, seconds))


def refused(program: str) -> str:
    """Why a program ended that did what programs may not."""
    ran = run(program)
    assert ran.error is not None, ran
    assert "PermissionError: programs may not" in ran.error
    return ran.error


class TestPrograms:
    def test_what_they_print_is_read(self) -> None:
        assert run("print(6 * 7)") == Ran("42")

    def test_functions_see_each_other(self) -> None:
        """In OptiLLM's they do not: its namespaces are two."""
        program = "def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nprint(f(5))"
        assert run(program).output == "120"

    def test_they_inherit_no_future_statement(self) -> None:
        assert run("def f(a: 1): ...\nprint(f.__annotations__)").output == "{'a': 1}"

    def test_sympy_is_there(self) -> None:
        assert "sympy" in Subprocess().libraries
        program = "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 4))"
        assert run(program).output == "[-2, 2]"

    @pytest.mark.parametrize(
        ("program", "said"),
        [
            ("1/0", "ZeroDivisionError"),
            ("print('a'); undefined", "NameError"),
            ("def", "SyntaxError"),
            ("raise SystemExit('gave up')", "gave up"),
            ("import no_such_library", "ModuleNotFoundError"),
        ],
    )
    def test_why_one_fails_is_told_with_its_own_lines_only(self, program: str, said: str) -> None:
        error = run(program).error
        assert error is not None
        assert said in error
        assert "child.py" not in error

    def test_output_without_end_is_cut_off(self) -> None:
        ran = run("while True: print('x' * 1000)")
        assert len(ran.output) <= MAX_OUTPUT
        assert ran.error is not None
        assert "printed more than" in ran.error


class TestLimits:
    def test_time(self) -> None:
        assert run("while True: pass", 0.5) == Ran("", "It was not done after 0.5 seconds.")

    def test_memory(self) -> None:
        assert "MemoryError" in str(run("x = bytearray(8 << 30)").error)

    def test_the_size_of_files(self) -> None:
        assert run("open('big', 'wb').write(bytes(64 << 20))").error is not None

    def test_leaving_ends_it(self) -> None:
        async def test() -> None:
            running = asyncio.create_task(Subprocess().run("while True: pass", 60))
            await asyncio.sleep(0.3)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        before = children()
        asyncio.run(test())
        assert children() == before

    @pytest.mark.parametrize("turns", range(3, 6))
    def test_a_loop_that_ends_meanwhile_waits_for_it(
        self,
        turns: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

        async def test() -> None:
            program = "open('busy', 'w').close()\nwhile True: pass"
            running = asyncio.create_task(Subprocess().run(program, 60))
            while not list(tmp_path.glob("*/busy")):
                await asyncio.sleep(0.01)
            running.cancel()
            # Until it is being ended; then who waits for that is cancelled, too.
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()

        before = children()
        asyncio.run(test())
        gc.collect()
        assert not [str(warning.message) for warning in recwarn]
        assert children() == before

    def test_a_worker_that_is_killed_leaves_none_behind(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", _WORKER]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"asleep\n"
            programs = children(worker.pid)
            worker.kill()
        assert len(programs) == 1
        assert eventually(lambda: not any(Path("/proc", pid).exists() for pid in programs))


class TestAhead:
    """A process that waits for the program while that is still being written."""

    def test_it_takes_the_program_that_comes(self) -> None:
        async def test() -> Ran:
            async with Subprocess().ready(20) as run:
                while not children() - before:
                    await asyncio.sleep(0.01)
                return await run("print(6 * 7)")

        before = children()
        assert asyncio.run(test()) == Ran("42")
        assert children() == before

    def test_time_counts_from_the_program_on(self) -> None:
        async def test() -> Ran:
            async with Subprocess().ready(0.5) as run:
                await asyncio.sleep(0.6)
                return await run("while True: pass")

        assert asyncio.run(test()) == Ran("", "It was not done after 0.5 seconds.")

    def test_without_a_program_it_is_ended(self) -> None:
        async def test() -> None:
            async with Subprocess().ready(20):
                pass

        before = children()
        asyncio.run(test())
        assert children() == before

    def test_one_that_cannot_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def refused(*_: object, **__: object) -> None:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
        told = "It could not be started: Resource temporarily unavailable."
        assert run("print(1)") == Ran("", told)


class TestPlace:
    def test_a_folder_of_its_own_that_is_gone_afterwards(self) -> None:
        program = "open('a', 'w').write('1')\nimport os\nprint(os.getcwd(), open('a').read())"
        folder, content = run(program).output.split()
        assert content == "1"
        assert not Path(folder).exists()

    def test_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        said = run("import os\nprint(dict(os.environ), 'PATH' in os.environ)").output
        assert "sk-secret" not in said
        assert said.endswith("False")

    @pytest.mark.parametrize(
        "program",
        [
            "print(open('/etc/passwd').read())",
            "import os; os.open('/etc/passwd', os.O_RDONLY)",
            "open('/proc/%d/environ' % __import__('os').getppid())",
            "open('../escaped', 'w')",
            "import os; os.symlink('/etc/passwd', 'here')",
            "import shutil; shutil.rmtree('/tmp/none')",
            "import os; os.remove('/tmp/none')",
        ],
    )
    def test_other_files_are_out_of_reach(self, program: str) -> None:
        refused(program)

    @pytest.mark.parametrize(
        "program",
        [
            "import os; os.system('true')",
            "import os; os.fork()",
            "import subprocess; subprocess.run(['true'])",
            "import os; os.kill(1, 0)",
            "import ctypes; ctypes.CDLL('libc.so.6')",
            "import ctypes; ctypes.pythonapi.getpid",
        ],
    )
    def test_so_are_other_processes_and_the_c_library(self, program: str) -> None:
        refused(program)


class TestNetwork:
    @pytest.mark.parametrize(
        "program",
        [
            "import socket; socket.socket()",
            "import socket; socket.create_connection(('127.0.0.1', 1))",
            "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1')",
        ],
    )
    def test_python_opens_no_socket(self, program: str) -> None:
        refused(program)

    def test_where_the_kernel_permits_it_there_is_none_to_open(self) -> None:
        here = str(Path("/proc/self/ns/net").readlink())
        there = run("import os\nprint(os.readlink('/proc/self/ns/net'))").output
        assert there.startswith("net:")
        assert (there != here) == namespaces_work()


def namespaces_work() -> bool:
    """Whether a process may leave for a network of its own, tried in a child."""
    pid = os.fork()
    if not pid:
        libc = ctypes.CDLL(None)
        os._exit(int(libc.unshare(0x50000000) != 0 and libc.unshare(0x40000000) != 0))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def children(of: int | str = "self") -> set[str]:
    """The processes that this one, or another, has started."""
    found = Path(f"/proc/{of}/task").glob("*/children")
    return {pid for listed in found for pid in listed.read_text().split()}
