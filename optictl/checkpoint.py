"""Copies of what a run is about to change, taken and made durable before it touches a file.

A checkpoint is a folder: the old files as 0, 1, 2, … and the manifest, which is written last, so
that a checkpoint without one has seen no file touched. While a run lasts the folder is called
``in-progress``; a rename to the next number ends the run. The numbers count and are no times: a
clock may jump back. To go back, a checkpoint becomes ``in-progress`` again and is undone, which
is what the next run does with one that it finds. (After Certbot's reverter.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from optictl.artifact import Effect, Shared
from optictl.errors import CannotRead
from optictl.plan import Change
from optictl.shared_files import transplanted
from optictl.state import VERSION, Records, decode, digest, encode
from optictl.system import Found, System

#: How many finished checkpoints are kept.
KEEP = 10

IN_PROGRESS = "in-progress"
#: The same, where edits by hand are overwritten too, since the operator said so.
FORCED = "in-progress-forced"
DISCARDED = "discarded"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as it was; ``copy`` is its name in the checkpoint."""

    copy: str
    sha256: str
    mode: int
    owner: str | None
    group: str | None

    def matches(self, found: Found | None) -> bool:
        return found is not None and (
            (self.sha256, self.mode, self.owner, self.group)
            == (digest(found.content), found.mode, found.owner, found.group)
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that is changed: what it was, and the digest of what it becomes."""

    path: Path
    was: Kept | None
    becomes: str | None
    unit: bool = False
    effect: Effect = "none"
    shared: Shared | None = None

    def knows(self, sha256: str | None) -> bool:
        """Whether that is nobody else's work. A file that is gone loses nothing by coming back."""
        return (
            sha256 in (None, self.becomes)
            or (self.was is not None and self.was.sha256 == sha256)
            # Of such a file only our part is put back.
            or self.shared is not None
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    note: str
    #: For people only: ISO 8601, UTC.
    made_at: str
    entries: tuple[Entry, ...]
    #: Folders that the run made, each after those above it.
    folders: tuple[Path, ...] = ()
    version: int = VERSION


def numbers(system: System, records: Records) -> list[int]:
    """Finished checkpoints, oldest first."""
    return sorted(int(name) for name in system.listing(records.checkpoints) if name.isdecimal())


def folder_of(number: int) -> str:
    return f"{number:06d}"


def manifest(system: System, records: Records, name: str) -> Manifest | None:
    path = records.checkpoints / name / MANIFEST
    found = system.read(path)
    return None if found is None else decode(Manifest, found.content, path)


def begin(
    system: System,
    records: Records,
    changes: Sequence[Change],
    folders: tuple[Path, ...],
    note: str,
    now: float,
) -> None:
    """Register what ``changes`` and the new state will replace."""
    at = records.checkpoints / IN_PROGRESS
    system.make_folder(records.folder, 0o700)
    system.make_folder(records.checkpoints, 0o700)
    system.make_folder(at, 0o700)
    entries = []
    for index, change in enumerate(changes):
        kept = _keep(system, at / str(index), change.before)
        becomes = None if change.after is None else digest(change.after.content)
        entries.append(Entry(change.path, kept, becomes, *change.asks_for, change.shared))
    state = _keep(system, at / str(len(entries)), system.read(records.state))
    entries.append(Entry(records.state, state, None))
    made_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    record = Manifest(note, made_at, tuple(entries), folders)
    system.write(at / MANIFEST, encode(record), 0o600)


def finish(system: System, records: Records) -> int:
    """End the run in progress: from here on it is not undone. Returns its number."""
    number = max(numbers(system, records), default=0) + 1
    at = records.checkpoints
    system.rename(at / IN_PROGRESS, at / folder_of(number))
    for old in numbers(system, records)[:-KEEP]:
        discard(system, records, folder_of(old))
    return number


def undo(system: System, records: Records, name: str) -> tuple[list[Path], list[Path]]:
    """Put everything back as it was. Returns the paths put back, and those left to whoever
    has written them since. What stops it can be mended: the next run goes on with it.
    """
    record = manifest(system, records, name)
    restored: list[Path] = []
    left: list[Path] = []
    for entry in reversed(record.entries) if record else ():
        system.discard(entry.path)
        now = system.read(entry.path)
        ours = entry.path == records.state or name == FORCED
        if not ours and not entry.knows(_digest(now)):
            left.append(entry.path)
        elif _restore(system, records.checkpoints / name, entry, now):
            restored.append(entry.path)
    for folder in reversed(record.folders) if record else ():
        remove_if_empty(system, folder)
    discard(system, records, name)
    return [path for path in reversed(restored) if path != records.state], left


def discard(system: System, records: Records, name: str) -> None:
    """Remove a checkpoint. Renamed first, so that half of one is never taken for a whole."""
    system.rename(records.checkpoints / name, records.checkpoints / DISCARDED)
    clear(system, records)


def clear(system: System, records: Records) -> None:
    """Finish what `discard` began."""
    at = records.checkpoints / DISCARDED
    if system.is_folder(at):
        for name in system.listing(at):
            system.remove(at / name)
        system.remove_folder(at)


def missing_folders(system: System, paths: Iterable[Path]) -> tuple[Path, ...]:
    """The folders that files at ``paths`` need and that are not there, each after its parents."""
    missing = {folder for path in paths for folder in path.parents if not system.is_folder(folder)}
    return tuple(sorted(missing))


def remove_if_empty(system: System, folder: Path) -> bool:
    empty = system.is_folder(folder) and not system.listing(folder)
    if empty:
        system.remove_folder(folder)
    return empty


def foreign(system: System, manifests: Iterable[Manifest], records: Records) -> Iterator[Path]:
    """Files that undoing ``manifests``, newest first, would take from whoever has written them."""
    at: dict[Path, str | None] = {}
    for record in manifests:
        for entry in record.entries:
            if entry.path == records.state:
                continue
            if entry.path not in at:
                at[entry.path] = _digest(system.read(entry.path))
            if not entry.knows(at[entry.path]):
                yield entry.path
            at[entry.path] = None if entry.was is None else entry.was.sha256


def _digest(found: Found | None) -> str | None:
    return None if found is None else digest(found.content)


def _keep(system: System, copy: Path, found: Found | None) -> Kept | None:
    if found is None:
        return None
    system.write(copy, found.content, 0o600)
    return Kept(copy.name, digest(found.content), found.mode, found.owner, found.group)


def _restore(system: System, copies: Path, entry: Entry, now: Found | None) -> bool:
    """Put one file back; whether anything was to be done."""
    was = entry.was
    edited = now is not None and entry.becomes not in (None, digest(now.content))
    if entry.shared is not None and now is not None and (edited or was is None):
        return _restore_part(system, copies, entry, entry.shared, now)
    if was is None:
        if now is not None:
            system.remove(entry.path)
        return now is not None
    if was.matches(now):
        return False
    content = _copied(system, copies, entry, was)
    system.make_folder(entry.path.parent)
    system.write(entry.path, content, was.mode, was.owner, was.group)
    return True


def _copied(system: System, copies: Path, entry: Entry, was: Kept) -> bytes:
    copy = system.read(copies / was.copy)
    if copy is None or digest(copy.content) != was.sha256:
        raise CannotRead(f"{copies / was.copy}: the copy of {entry.path} is damaged")
    return copy.content


def _restore_part(system: System, copies: Path, entry: Entry, shared: Shared, now: Found) -> bool:
    """Put our part of somebody else's file back; what they have written since stays."""
    old = b"" if entry.was is None else _copied(system, copies, entry, entry.was)
    content = transplanted(shared, now.content, old, entry.path)
    if content == now.content:
        return False
    system.write(entry.path, content, now.mode, now.owner, now.group)
    return True
