"""The one envelope in which every command answers ``--json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Raised when a member changes its meaning; new members do not raise it.
RESULT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What a command found: ``data`` in JSON types, ``errors`` as ``{code, message}``."""

    command: str
    data: T
    exit_code: int = 0
    errors: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "optictl_result_version": RESULT_VERSION,
            "command": self.command,
            "status": "error" if self.errors else "success",
            "exit_code": self.exit_code,
            "data": self.data,
            "errors": self.errors,
        }
