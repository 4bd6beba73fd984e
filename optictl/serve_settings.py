"""What the flags of ``optictl serve`` name, read: files, patterns, keys, variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ConfigError
from proxy.settings import Secret, key_from_flag, read_key_file

if TYPE_CHECKING:
    from proxy.ensembles import Ensemble
    from proxy.upstream.config import PoolConfig


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


def pool_of(file: Path) -> PoolConfig:
    """The pool of a ``proxy_config.yaml``. Raises `ConfigError` with FILE:LINE."""
    # Imported here: most services have no such file, and its reader takes long to import.
    from proxy.upstream.config_file import load
    from proxy.upstream.routing import strategies

    return load(file, os.environ, strategies())


def ensembles_of(file: str | None, single: bool) -> Mapping[str, Ensemble]:
    """The ensembles of a registry; none without one. Raises `ConfigError` with FILE:LINE."""
    if file is None:
        return {}
    # Imported here, like the pool's reader.
    from proxy.ensembles_file import load

    return load(Path(file).expanduser(), single=single)


def exists(file: str | None) -> bool:
    """Whether the switch of ``--degraded-file`` is on. Raises `ConfigError` for a bad path."""
    if file is None:
        return False
    try:
        Path(file).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"--degraded-file {file}: {error.strerror}; mend its path") from None
    return True


def pattern(text: str) -> re.Pattern[str]:
    """A ``--task-pattern``. Raises `ConfigError` for one that is no regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"--task-pattern {text!r}: {error}") from None


def proxy_key_of(flag: str, file: str | None) -> Secret | None:
    """The clients' key, by whichever flag. Raises `ConfigError` for one that is unfit."""
    if file is not None:
        return read_key_file(file, "--optillm-api-key-file")
    return key_from_flag(flag, "--optillm-api-key") if flag else None


def log_level(flag: str | None, environ: Mapping[str, str], pool: PoolConfig | None) -> str:
    """The flag, the variable that the peer's pool reads, the pool's file, in that order."""
    if flag is not None:
        return flag
    named = environ.get("OPTILLM_LOG_LEVEL", "").lower()
    if named and named not in list(LogLevel):
        raise ConfigError(f"OPTILLM_LOG_LEVEL={named}: must be one of {', '.join(LogLevel)}")
    return named or (pool.log_level if pool is not None else None) or LogLevel.INFO.value


def refuse_local_inference(environ: Mapping[str, str], base_url: str) -> None:
    """OptiLLM reads OPTILLM_API_KEY as "run the model here", whatever its users meant by it."""
    if not environ.get("OPTILLM_API_KEY"):
        return
    named = ("OPENAI_API_KEY", "CEREBRAS_API_KEY", "AZURE_OPENAI_API_KEY")
    if base_url or any(environ.get(name) for name in named):
        raise ConfigError(
            "OPTILLM_API_KEY is set and an upstream is configured. OptiLLM would run models "
            "locally then. To protect this proxy, unset it and give --optillm-api-key-file FILE"
        )
    raise ConfigError(
        "OPTILLM_API_KEY asks for local inference, which is not installed: "
        "pip install 'optictl[local]' (or give --base-url for an upstream, and unset it)"
    )
