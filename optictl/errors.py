"""What a command can fail with.

    OptictlError                  exit 1
    ├── UsageError                exit 2: what was asked for cannot be meant
    ├── ProxyUnreachable          nothing answers there, or what does is no optillm-proxy
    └── ProxyRefused              the proxy answered with an error: its code and its words

`proxy.errors.ConfigError` (a setting that cannot be used) also exits 2.
"""

from __future__ import annotations

from typing import ClassVar


class OptictlError(Exception):
    """One line for the operator: what was wrong, where, what to do."""

    exit_code: ClassVar[int] = 1
    code: str = "failed"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(OptictlError):
    exit_code = 2
    code = "usage"


class ProxyUnreachable(OptictlError):
    code = "proxy_unreachable"


class ProxyRefused(OptictlError):
    """``code`` is the proxy's own (`proxy.errors`)."""

    code = "proxy_refused"
