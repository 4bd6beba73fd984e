"""The Typer app: every module of ``commands/`` is a command of its name, or a group of them."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from typing import Annotated

import typer
from typer.main import get_command

from optictl import __version__, commands
from optictl.console import data
from optictl.program import Program, report_crash


def build() -> typer.Typer:
    """The app; modules import what is heavy inside their functions, so that help is quick."""
    app = typer.Typer(
        name="optictl",
        cls=Program,
        no_args_is_help=True,
        add_completion=True,
        # Plain help: boxes would take Rich, and with it half of the time that help takes.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    for info in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{info.name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=info.name)
            continue
        settings = getattr(module, "CONTEXT_SETTINGS", None)
        app.command(info.name, context_settings=settings)(getattr(module, info.name))
    return app


def main() -> None:
    """The console script ``optictl``."""
    _run(sys.argv[1:], "optictl")


def optillm() -> None:
    """The console script ``optillm``: an ExecStart line of OptiLLM with only the path changed."""
    _run(["serve", *sys.argv[1:]], "optillm")


def _run(arguments: list[str], program: str) -> None:
    sys.excepthook = report_crash
    # To call the app itself would put Typer's hook in the place of ours.
    get_command(build())(arguments, prog_name=program)


def _print_version(wanted: bool) -> None:
    if wanted:
        data(f"optictl {__version__}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Say what is run and asked; twice: all of it."
        ),
    ] = 0,
) -> None:
    """Inference-time compute for ordinary models: run the proxy, look into it, try it."""
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
