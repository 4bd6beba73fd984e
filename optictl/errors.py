"""What a command can fail with.

    OptictlError                  exit 1
    ├── UsageError                exit 2: what was asked for cannot be meant
    ├── ProxyUnreachable          nothing answers there, or what does is no optillm-proxy
    ├── ProxyRefused              the proxy answered with an error: its code and its words
    ├── CannotRead                a file or folder cannot be read: which, and why
    ├── CannotWrite               a file or folder cannot be written: which, and why
    ├── NothingToRollBack         fewer checkpoints are kept than were asked for
    ├── PlanOutdated              exit 2: the disk is no longer what the plan was made from
    ├── Locked                    exit 11: another optictl is writing
    ├── HandEdited                exit 13: files changed since optictl last wrote them
    └── Drifted                   exit 13: a file is not as declared

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


class CannotRead(OptictlError):
    code = "cannot_read"


class CannotWrite(OptictlError):
    code = "cannot_write"


class NothingToRollBack(OptictlError):
    code = "nothing_to_roll_back"


class PlanOutdated(OptictlError):
    exit_code = 2
    code = "plan_outdated"


class Locked(OptictlError):
    exit_code = 11
    code = "locked"


class HandEdited(OptictlError):
    exit_code = 13
    code = "hand_edited"


class Drifted(OptictlError):
    exit_code = 13
    code = "drifted"
