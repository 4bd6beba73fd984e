"""Flags of ``optictl serve`` for what the operator sees: logs, conversations, traces."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.errors import ConfigError
from proxy.settings import ConversationLog, Tracing


class LogFormat(StrEnum):
    LOGFMT = "logfmt"
    JSON = "json"


def telemetry(
    log_format: Annotated[
        LogFormat,
        typer.Option(envvar="OPTILLM_LOG_FORMAT", help="How lines of the log are written."),
    ] = LogFormat.LOGFMT,
    log_conversations: Annotated[
        bool,
        typer.Option(
            "--log-conversations",
            "--log_conversations",
            envvar="OPTILLM_LOG_CONVERSATIONS",
            help="Keep every request, its calls and its answer on disk.",
        ),
    ] = False,
    conversation_log_dir: Annotated[
        str,
        typer.Option(
            "--conversation-log-dir",
            "--conversation_log_dir",
            envvar="OPTILLM_CONVERSATION_LOG_DIR",
            help="Folder with a file of conversations for each day; else conversations in "
            "systemd's StateDirectory, or ~/.optillm/conversations.",
        ),
    ] = "",
    conversation_log_days: Annotated[
        int, typer.Option(min=1, help="Days that conversations are kept.")
    ] = 30,
    conversation_log_mb: Annotated[
        int, typer.Option(min=8, help="Most that conversations hold on disk; the oldest go first.")
    ] = 1024,
    trace_log: Annotated[
        str,
        typer.Option(
            envvar="OPTILLM_TRACE_LOG",
            metavar="FILE|DIR",
            help="Keep traces on disk too: in a file, or the last 30 days (1 GB) in a folder.",
        ),
    ] = "",
    trace_text: Annotated[
        bool, typer.Option("--trace-text", help="Traces hold prompts and answers too.")
    ] = False,
    usage_file: Annotated[
        str,
        typer.Option(
            envvar="OPTILLM_USAGE_FILE",
            help="Usage by day and handle; else usage.jsonl in systemd's StateDirectory.",
        ),
    ] = "",
    otel_endpoint: Annotated[
        str,
        typer.Option(
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            metavar="URL",
            help="OpenTelemetry collector that gets traces, over HTTP: http://127.0.0.1:4318.",
        ),
    ] = "",
) -> dict[str, Any]:
    """The fields of `proxy.settings.Settings` that the flags ask for."""
    conversations = ConversationLog(
        _conversations(conversation_log_dir),
        days=conversation_log_days,
        size=conversation_log_mb * 1024 * 1024,
    )
    return {
        "log_format": log_format.value,
        "conversations": conversations if log_conversations else None,
        "tracing": Tracing(
            log=_place(trace_log, "--trace-log"),
            daily=bool(trace_log) and (trace_log.endswith("/") or Path(trace_log).is_dir()),
            text=trace_text,
            usage=_place(usage_file, "--usage-file") or _in_state("usage.jsonl"),
            otel=_collector(otel_endpoint),
        ),
    }


def _conversations(given: str) -> Path:
    """The folder of conversations, where a service whose home is hidden can write too."""
    if given:
        return Path(given).expanduser().absolute()
    return _in_state("conversations") or Path.home() / ".optillm/conversations"


def _place(text: str, flag: str) -> Path | None:
    """A file or folder to write to; None for ''. Raises `ConfigError` where it cannot be made."""
    if not text:
        return None
    place = Path(text).expanduser().absolute()
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise ConfigError(f"{flag} {text}: cannot be written; make its folder, or take another")
    return place


def _in_state(name: str) -> Path | None:
    """A file in the folder that systemd gives the service, where it does."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(folder) / name if folder else None


def _collector(url: str) -> str | None:
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--otel-endpoint {url}: must begin with http:// or https://")
    try:
        installed = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise ConfigError(
            "--otel-endpoint (OTEL_EXPORTER_OTLP_ENDPOINT) needs an extra: "
            "pip install 'optictl[otel]', or leave it out"
        )
    return url


def with_telemetry_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` taking the flags of `telemetry` too; it gets the result as its ``telemetry``."""
    flags = inspect.signature(telemetry, eval_str=True).parameters

    @functools.wraps(command)
    def taking(*args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in flags}
        command(*args, telemetry=telemetry(**given), **kwargs)

    signature = inspect.signature(command, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "telemetry"]
    taking.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *flags.values()]
    )
    return taking
