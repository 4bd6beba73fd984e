"""What a command can fail with.

    OptictlError                  exit 1
    ├── UsageError                exit 2: what was asked for cannot be meant
    │   └── NeedsYes              a question, and nobody there to answer it
    ├── Declined                  the operator said no; nothing was done
    ├── ProxyUnreachable          nothing answers there, or what does is no optillm-proxy
    ├── ProxyRefused              the proxy answered with an error: its code and its words
    ├── CannotRead                a file or folder cannot be read: which, and why
    ├── CannotWrite               a file or folder cannot be written: which, and why
    ├── NothingToRollBack         fewer checkpoints are kept than were asked for
    ├── PlanOutdated              exit 2: the disk is no longer what the plan was made from
    ├── SystemdFailed             systemd is not there, or did not do what it was asked for
    │   └── UnitFailed            a unit did not come up; with what it said
    ├── UpgradeFailed             the new version is none, or does not take the settings
    ├── GatewayFailed             LiteLLM does not restart, or does not come back
    ├── EnsembleFailed            a handle is there and does not answer as it should
    ├── WarmupFailed              the service did not get to answer
    ├── FetchFailed               the router's classifier could not be fetched, or is none
    ├── Drifted                   a file is not as declared
    ├── NotRunning                exit 3
    ├── UnknownUnit               exit 4
    ├── NotInitialised            exit 10: there is no optictl.yaml
    ├── Locked                    exit 11: another optictl is writing
    ├── HandEdited                exit 13: files that someone else has written
    ├── RolledBack                exit 14: it did not work, and all is as it was
    └── NeedsRoot                 exit 77

`proxy.errors.ConfigError` (a setting that cannot be used) also exits 2. Each code is told about at
length in ``explanations/CODE.md``, which is what ``optictl explain CODE`` shows.
"""

from __future__ import annotations

from typing import ClassVar

from optictl.exit_status import Exit


class OptictlError(Exception):
    """One line for the operator: what was wrong, where, what to do."""

    exit_code: ClassVar[Exit] = Exit.FAILED
    code: str = "failed"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(OptictlError):
    exit_code = Exit.USAGE
    code = "usage"


class NeedsYes(UsageError):
    code = "needs_yes"


class Declined(OptictlError):
    code = "declined"


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
    exit_code = Exit.USAGE
    code = "plan_outdated"


class SystemdFailed(OptictlError):
    code = "systemd_failed"


class UnitFailed(SystemdFailed):
    code = "unit_failed"


class UpgradeFailed(OptictlError):
    code = "upgrade_failed"


class GatewayFailed(OptictlError):
    code = "gateway_failed"


class EnsembleFailed(OptictlError):
    code = "ensemble_failed"


class WarmupFailed(OptictlError):
    code = "warmup_failed"


class FetchFailed(OptictlError):
    code = "fetch_failed"


class Drifted(OptictlError):
    code = "drifted"


class NotRunning(OptictlError):
    exit_code = Exit.NOT_RUNNING
    code = "not_running"


class UnknownUnit(OptictlError):
    exit_code = Exit.UNKNOWN_UNIT
    code = "unknown_unit"


class NotInitialised(OptictlError):
    exit_code = Exit.NOT_INITIALISED
    code = "not_initialised"


class Locked(OptictlError):
    exit_code = Exit.LOCKED
    code = "locked"


class HandEdited(OptictlError):
    exit_code = Exit.HAND_EDITED
    code = "hand_edited"


class RolledBack(OptictlError):
    exit_code = Exit.ROLLED_BACK
    code = "rolled_back"


class NeedsRoot(OptictlError):
    exit_code = Exit.NEEDS_ROOT
    code = "needs_root"
