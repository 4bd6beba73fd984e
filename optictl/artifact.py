"""A file as it should be on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: What a change of a file asks for: the socket to listen anew and the service with it, the service
#: started anew, its HUP, the gateway started anew, or nothing.
Effect = Literal["rebind", "restart", "reload", "gateway", "none"]
#: A file of somebody else's in which a part is ours, by how that part is marked there; or one of
#: ours, "models", that somebody else's includes: it loses what stands in it, but is never removed.
Shared = Literal["router", "env", "handles", "models"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One rendered file. ``owner`` and ``group`` are names; None leaves them to whoever writes."""

    path: Path
    content: bytes
    mode: int = 0o644
    owner: str | None = None
    group: str | None = None
    #: Its content is never shown: not in a diff, not in a log.
    sensitive: bool = False
    effect: Effect = "restart"
    #: systemd has to read its units again once this one has changed.
    unit: bool = False
    #: Only a part of it is ours; ``content`` is the whole file all the same.
    shared: Shared | None = None
