"""Flags of ``optictl serve`` for the classifier that the approach ``router`` asks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.router.config import RouterSettings


class RouterPrecision(StrEnum):
    AUTO = "auto"
    BF16 = "bf16"
    INT8 = "int8"
    FP32 = "fp32"


def router(
    router: Annotated[
        bool,
        typer.Option(
            "--router/--no-router",
            help="Load the router's classifier where it is installed; else the smaller rungs of "
            "its ladder decide.",
        ),
    ] = True,
    router_model: Annotated[
        str,
        typer.Option(
            envvar="OPTILLM_ROUTER_DIR",
            metavar="DIR",
            help="Folder of the classifier; else this user's Hugging Face cache.",
        ),
    ] = "",
    router_min_confidence: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="What a choice has to be sure of, as a share of 1."),
    ] = 0.55,
    router_temperature: Annotated[
        float,
        typer.Option(min=0.05, max=20.0, help="Above 1 for a classifier that is too sure."),
    ] = 1.0,
    router_threads: Annotated[
        int, typer.Option(min=0, max=256, help="Threads of the classifier; 0: one to each CPU.")
    ] = 0,
    router_precision: Annotated[
        RouterPrecision, typer.Option(help="How the classifier computes.")
    ] = RouterPrecision.AUTO,
) -> RouterSettings | None:
    """What the flags ask for; None for no classifier at all."""
    if not router:
        return None
    return RouterSettings(
        # The service may run in another folder than the one it was started from.
        model=str(Path(router_model).expanduser().absolute()) if router_model else None,
        min_confidence=router_min_confidence,
        temperature=router_temperature,
        threads=router_threads,
        precision=router_precision.value,
    )


def with_router_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` taking the flags of `router` too; it gets the result as its ``router``."""
    flags = inspect.signature(router, eval_str=True).parameters

    @functools.wraps(command)
    def taking(*args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in flags}
        command(*args, router=router(**given), **kwargs)

    signature = inspect.signature(command, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "router"]
    taking.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *flags.values()]
    )
    return taking
