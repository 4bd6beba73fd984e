"""Flags of ``optictl serve`` for calls that go out together, are shared, or are made twice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from proxy.settings import Sharing


def sharing(
    batch_mode: Annotated[
        bool,
        typer.Option(
            "--batch-mode",
            "--batch_mode",
            envvar="OPTILLM_BATCH_MODE",
            help="Calls for one model that arrive together go out together.",
        ),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            "--batch_size",
            envvar="OPTILLM_BATCH_SIZE",
            min=1,
            help="Most calls of a batch.",
        ),
    ] = 4,
    batch_wait_ms: Annotated[
        int,
        typer.Option(
            "--batch-wait-ms",
            "--batch_wait_ms",
            envvar="OPTILLM_BATCH_WAIT_MS",
            min=0,
            help="Milliseconds that a call waits for others.",
        ),
    ] = 50,
    single_flight: Annotated[
        bool,
        typer.Option(
            "--single-flight",
            help="Equal calls at temperature 0, at the same time and with the same key, are one.",
        ),
    ] = False,
    cache_ttl: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Seconds that answers to such calls are kept; implies --single-flight.",
        ),
    ] = None,
    cache_mb: Annotated[
        int, typer.Option(min=1, help="Most memory of those answers, for each worker.")
    ] = 64,
    hedge: Annotated[
        bool,
        typer.Option(
            "--hedge",
            help="Try a call a second time that takes longer than 95 % do; 5 % more calls at most.",
        ),
    ] = False,
) -> Sharing:
    """What the flags ask for."""
    return Sharing(
        batch_size=batch_size if batch_mode else None,
        batch_wait=batch_wait_ms / 1000,
        single_flight=single_flight,
        cache_ttl=cache_ttl,
        cache_bytes=cache_mb * 1024 * 1024,
        hedge=hedge,
    )


def with_sharing_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` taking the flags of `sharing` too; it gets the result as its ``sharing``."""
    flags = inspect.signature(sharing, eval_str=True).parameters

    @functools.wraps(command)
    def taking(*args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in flags}
        command(*args, sharing=sharing(**given), **kwargs)

    signature = inspect.signature(command, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "sharing"]
    taking.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *flags.values()]
    )
    return taking
