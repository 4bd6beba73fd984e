"""Whether the service runs with the files that we wrote last.

Files come first and systemd second; a run that dies between them leaves a service that knows only
the old ones. So a mark is taken away before the first file is touched, and comes back when systemd
has been told everything. Without it the next run tells systemd everything again. Where LiteLLM
must be restarted too, a note of that stands in the mark's place.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from optictl import __version__
from optictl.state import VERSION, Records, State, decode, encode
from optictl.system import System


@dataclass(frozen=True, slots=True)
class Settled:
    """The files and the program that the service was last started with."""

    files: str
    program: str
    #: LiteLLM still runs with older files, whatever the service does.
    owes_gateway: bool = False
    version: int = VERSION

    @classmethod
    def of(cls, state: State) -> Settled:
        digests = {str(path): written.sha256 for path, written in state.files.items()}
        text = orjson.dumps(digests, option=orjson.OPT_SORT_KEYS)
        program = f"optictl {__version__} in {Path(sys.prefix).resolve()}"
        return cls(hashlib.sha256(text).hexdigest(), program)

    def save(self, system: System, records: Records) -> None:
        # Not for all to read: it is made from the digests of secrets.
        system.write(records.settled, encode(self), 0o600)


def is_settled(state: State, system: System, records: Records) -> bool:
    found = system.read(records.settled)
    if found is None:
        return False
    return decode(Settled, found.content, records.settled) == Settled.of(state)


def owes_gateway(system: System, records: Records) -> bool:
    """Whether LiteLLM has not been restarted since we last wrote its files."""
    found = system.read(records.settled)
    return found is not None and decode(Settled, found.content, records.settled).owes_gateway


def unsettle(system: System, records: Records, *, gateway: bool) -> None:
    """From here on, until `Settled.save`, systemd is owed everything.

    ``gateway``: and LiteLLM a restart.
    """
    if gateway:
        Settled("", "", owes_gateway=True).save(system, records)
    else:
        system.remove(records.settled)
