"""The program around its commands: what fails is one line, or the envelope under ``--json``."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from optictl.console import emit_json, say
from optictl.errors import OptictlError, UsageError
from optictl.exit_status import Exit
from optictl.result import Result
from proxy.errors import ConfigError


class Program(TyperGroup):
    """Every command's errors pass here, so that no command handles them.

    Raises SystemExit, as a program does.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            status = self._run(
                arguments,
                prog_name=prog_name or "optictl",
                complete_var=complete_var,
                # Else Typer prints what it raises; here it arrives.
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except BrokenPipeError:
            # Python flushes at its end, and would complain of the same pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = Exit.FAILED
        sys.exit(status or Exit.OK)

    def _run(self, arguments: Sequence[str], *, prog_name: str, **extra: Any) -> int | None:
        try:
            # What a command does not end with by itself is None.
            status: int | None = super().main(arguments, prog_name, **extra)
            return status
        except (OptictlError, ConfigError) as error:
            code, exit_code = described(error)
            message = str(error)
        except TyperException as error:
            code, exit_code, message = UsageError.code, Exit.USAGE, _usage(error)
        except Abort:
            code, exit_code, message = "interrupted", Exit.INTERRUPTED, "interrupted"
        if asks_for_json(arguments):
            errors = [{"code": code, "message": message}]
            emit_json(Result(self.named(arguments), None, exit_code, errors))
        elif message:
            say(f"{prog_name}: {message}")
        return exit_code

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer ends without a word.
            raise Abort from None

    def named(self, arguments: Sequence[str]) -> str:
        """The command that ``arguments`` call: ``config show``; empty where there is none."""
        names: list[str] = []
        group: Any = self
        for argument in arguments:
            known = getattr(group, "commands", {})
            if argument in known:
                names.append(argument)
                group = known[argument]
        return " ".join(names)


def asks_for_json(arguments: Sequence[str]) -> bool:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in before


def described(error: OptictlError | ConfigError) -> tuple[str, Exit]:
    """An error's code and exit status."""
    if isinstance(error, OptictlError):
        return error.code, error.exit_code
    return "config", Exit.USAGE


def report_crash(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """As ``sys.excepthook``: a bug of ours is one line, its traceback goes to a file.

    Python ends with status 1 after this.
    """
    if issubclass(kind, KeyboardInterrupt):  # before any command was found
        say("optictl: interrupted")
        return
    where = _traceback(kind, error, at)
    message = f"a bug: {kind.__name__}; report it, with its traceback: {where}"
    if asks_for_json(sys.argv[1:]):
        emit_json(Result("", None, Exit.FAILED, [{"code": "crashed", "message": message}]))
    else:
        say(f"optictl: {message}")


def _traceback(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> str:
    """Keep it in a file; in the journal for a unit, whose /tmp is its own. Returns where."""
    if "JOURNAL_STREAM" not in os.environ:
        with suppress(OSError):
            descriptor, path = tempfile.mkstemp(prefix="optictl-crash-", suffix=".log")
            with os.fdopen(descriptor, "w") as file:
                file.write("".join(traceback.format_exception(kind, error, at)))
            return path
    sys.__excepthook__(kind, error, at)
    return "above"


def _usage(error: TyperException) -> str:
    """In one line, with where to look; empty where Typer has shown the help instead."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see: {context.command_path} --help" if context and message else message
