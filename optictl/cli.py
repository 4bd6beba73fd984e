"""The Typer app: every module of ``commands/`` is a command of its name, or a group of them."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

from optictl import commands
from optictl.console import say
from optictl.errors import OptictlError, UsageError
from proxy.errors import ConfigError


def build() -> typer.Typer:
    """The app; modules import what is heavy inside their functions, so that help is quick."""
    app = typer.Typer(
        name="optictl",
        help="Inference-time compute for ordinary models: run the proxy, look into it, try it.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
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
    try:
        build()(arguments, prog_name=program)
    except (OptictlError, ConfigError) as error:
        say(f"{program}: {error}")
        code = error.exit_code if isinstance(error, OptictlError) else UsageError.exit_code
        sys.exit(code)
