"""How each ensemble did when ``optictl ensemble`` last tried it: a record of ours.

Anybody may read it: it holds names of models, seconds, and LiteLLM's words about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from optictl.ensemble_registry import dumps
from optictl.errors import CannotRead
from optictl.state import VERSION, Records, decode, digest, encode
from optictl.system import System
from proxy.ensembles import Ensemble


@dataclass(frozen=True, slots=True)
class Tried:
    """Seconds until each member, and then the handle, had answered."""

    handle: float
    members: Mapping[str, float] = field(default_factory=dict)
    #: Members that did not answer, and what came instead.
    missing: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "handle": round(self.handle, 3),
            "members": {model: round(seconds, 3) for model, seconds in self.members.items()},
            "missing": dict(self.missing),
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of an ensemble."""

    #: ISO 8601, UTC.
    at: str
    #: Of the row that was tried; it says nothing about another one of the same name.
    row: str
    #: What came of it, or else why it failed.
    tried: Tried | None = None
    failed: str = ""

    def is_of(self, ensemble: Ensemble) -> bool:
        return self.row == _row(ensemble)

    def as_json(self) -> dict[str, Any]:
        found = {} if self.tried is None else self.tried.as_json()
        return {"at": self.at, "failed": self.failed, **found}


@dataclass(frozen=True, slots=True)
class _Attempts:
    """The record: the last try of each ensemble, by its name."""

    ensembles: Mapping[str, Attempt] = field(default_factory=dict)
    version: int = VERSION


def last_tries(system: System, records: Records) -> Mapping[str, Attempt]:
    """The last try of each ensemble that has been tried, by its name.

    None of them where the record cannot be read, by this user or by anybody: another try makes it
    anew, and nothing depends on it.
    """
    try:
        found = system.read(records.tried)
        if found is None:
            return {}
        return decode(_Attempts, found.content, records.tried).ensembles
    except CannotRead:
        return {}


def remember(
    system: System, records: Records, ensemble: Ensemble, outcome: Tried | str, now: float
) -> None:
    """Write down how it went, or why it failed; ``now`` is in seconds since 1970."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    if isinstance(outcome, str):
        attempt = Attempt(at, _row(ensemble), failed=outcome)
    else:
        attempt = Attempt(at, _row(ensemble), outcome)
    _write(system, records, {**last_tries(system, records), ensemble.name: attempt})


def forget(system: System, records: Records, name: str) -> None:
    """Take out what is known of the ensemble ``name``, if anything is."""
    known = dict(last_tries(system, records))
    if known.pop(name, None) is not None:
        _write(system, records, known)


def _write(system: System, records: Records, known: Mapping[str, Attempt]) -> None:
    system.write(records.tried, encode(_Attempts(known)), 0o644)


def _row(ensemble: Ensemble) -> str:
    return digest(dumps([ensemble]).encode())
