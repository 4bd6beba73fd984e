"""The exit statuses of every command: one meaning each, the same everywhere."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """A status that is not here is a failure."""

    meaning: str

    def __new__(cls, status: int, meaning: str) -> Exit:
        member = int.__new__(cls, status)
        member._value_ = status
        member.meaning = meaning
        return member

    OK = 0, "done, or there was nothing to do"
    FAILED = 1, "it failed; `verify`: something is not as declared; `check`: a check failed"
    USAGE = 2, "it cannot be meant: usage or settings; `plan --detailed-exitcode`: it differs"
    NOT_RUNNING = 3, "`status`: the service is stopped; `check --strict`: there are warnings"
    UNKNOWN_UNIT = 4, "systemd has no such service"
    NOT_INITIALISED = 10, "there is no optictl.yaml yet"
    LOCKED = 11, "another optictl is writing"
    HAND_EDITED = 13, "someone else has written a file that would be overwritten"
    ROLLED_BACK = 14, "the new state did not work; everything is as it was before"
    NEEDS_ROOT = 77, "only root may do that"
    INTERRUPTED = 130, "stopped from the keyboard"
