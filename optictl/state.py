"""What optictl remembers of what it wrote: one JSON file, and where its records are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from optictl.artifact import Artifact, Effect, Shared
from optictl.errors import CannotRead
from optictl.shared_files import part
from optictl.system import System

T = TypeVar("T")

#: The newest form of our records that this version reads.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Records:
    """Where the records of a service are: in a folder of its own below ``base``."""

    base: Path
    service: str

    @property
    def folder(self) -> Path:
        return self.base / self.service

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def settled(self) -> Path:
        return self.folder / "settled.json"

    @property
    def tried(self) -> Path:
        return self.folder / "tried.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"


@dataclass(frozen=True, slots=True)
class Written:
    """A file as we last wrote it, and what its removal will ask for."""

    sha256: str
    mode: int
    sensitive: bool = False
    unit: bool = False
    effect: Effect = "restart"
    #: Someone else wrote it, and has handed it over: it may be replaced, but is not ours to remove.
    adopted: bool = False
    shared: Shared | None = None

    @classmethod
    def of(cls, artifact: Artifact) -> Written:
        # Of somebody else's file we remember our part alone: the rest changes without us.
        content, shared = artifact.content, artifact.shared
        return cls(
            digest(content if shared is None else part(shared, content, artifact.path)),
            artifact.mode,
            artifact.sensitive,
            artifact.unit,
            artifact.effect,
            shared=artifact.shared,
        )


@dataclass(frozen=True, slots=True)
class State:
    """What is ours on this machine."""

    files: Mapping[Path, Written] = field(default_factory=dict)
    #: Folders that we made, each after those above it.
    folders: tuple[Path, ...] = ()
    version: int = VERSION

    @classmethod
    def load(cls, system: System, records: Records) -> State:
        """The state on disk; an empty one where there is none yet."""
        found = system.read(records.state)
        return cls() if found is None else decode(cls, found.content, records.state)

    def save(self, system: System, records: Records) -> None:
        # Not for all to read: it holds the digests of secrets.
        system.write(records.state, encode(self), 0o600)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def encode(record: object) -> bytes:
    return TypeAdapter(type(record)).dump_json(record, indent=2) + b"\n"


def decode(kind: type[T], content: bytes, path: Path) -> T:
    """A record read back. Raises `CannotRead` for a damaged one, or one of a newer optictl."""
    try:
        version = orjson.loads(content)["version"]
        if version > VERSION:
            raise CannotRead(
                f"{path}: version {version} is newer than this optictl knows ({VERSION}); "
                "upgrade optictl"
            )
        return TypeAdapter(kind).validate_json(content)
    except (ValidationError, ValueError, KeyError, TypeError):
        raise CannotRead(f"{path} is damaged; restore it, or move it away") from None
