"""Bring a plan to disk, all of it or nothing, and take it back.

Every function here that writes holds the lock of `Records` and first ends what an interrupted run
has left. A caller that does more than one of them, or more than files, holds the lock around all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from optictl import checkpoint
from optictl.artifact import Artifact
from optictl.errors import NothingToRollBack, OptictlError, PlanOutdated
from optictl.plan import Change, Effects, Plan, hand_edited, plan
from optictl.state import Records, State
from optictl.system import Found, System


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done to files, and what systemd has to be told of it."""

    changed: tuple[Path, ...] = ()
    effects: Effects = field(default_factory=Effects)
    #: The checkpoint that takes this back; None where there is nothing to take back.
    checkpoint: int | None = None
    #: What an interrupted run had left, as `recover` says it.
    recovered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """A finished run that can be taken back."""

    number: int
    note: str
    #: By the clock of then: ISO 8601, UTC.
    made_at: str
    changed: tuple[Path, ...]


def observe(
    system: System, artifacts: Sequence[Artifact], state: State
) -> dict[Path, Found | None]:
    """What `plan` has to know of the disk."""
    paths = [*(artifact.path for artifact in artifacts), *state.files]
    return {path: system.read(path) for path in paths}


def apply(
    plan: Plan,
    system: System,
    records: Records,
    note: str,
    *,
    clock: Callable[[], float] = time.time,
) -> Applied:
    """Carry out ``plan``. Where that fails, or is interrupted, every file is as it was before.

    Raises `HandEdited`, `PlanOutdated` when the disk is not what the plan was made from, `Locked`,
    `CannotRead` and `CannotWrite`. With nothing to do, it writes nothing.
    """
    with _writing(system, records) as recovered:
        plan.refuse_hand_edits()
        _refuse_outdated(plan, system, records)
        changes = plan.pending
        if not changes:
            state = State(plan.files, plan.state.folders)
            if state != plan.state:
                state.save(system, records)
            return Applied(recovered=recovered)
        number = _run(changes, plan, system, records, note, clock())
        changed = tuple(change.path for change in changes)
        return Applied(changed, plan.effects, number, recovered)


def recover(system: System, records: Records) -> list[str]:
    """Undo what an interrupted run has left half done. Returns what to tell the operator."""
    if not system.is_folder(records.checkpoints):
        return []
    with system.lock(records.lock):
        return list(_recover(system, records))


def rollback(system: System, records: Records, n: int = 1, *, force: bool = False) -> Applied:
    """Take back the last ``n`` runs, the newest first.

    Raises `NothingToRollBack`, and `HandEdited` for files that someone has changed since.
    """
    with _writing(system, records) as recovered:
        newest = checkpoint.numbers(system, records)[::-1]
        if not 1 <= n <= len(newest):
            raise NothingToRollBack(f"cannot go back {n} runs; {len(newest)} are kept")
        manifests = [_manifest(system, records, number) for number in newest[:n]]
        edited = dict.fromkeys(map(str, checkpoint.foreign(system, manifests, records)))
        if edited and not force:
            raise hand_edited(edited)
        name = checkpoint.FORCED if force else checkpoint.IN_PROGRESS
        changed: dict[Path, None] = {}
        for number in newest[:n]:
            at = records.checkpoints
            system.rename(at / checkpoint.folder_of(number), at / name)
            restored, _ = checkpoint.undo(system, records, name)
            changed |= dict.fromkeys(restored)
        effects = Effects.of(
            (entry.unit, entry.effect)
            for entry in chain.from_iterable(record.entries for record in manifests)
            if entry.path in changed
        )
        return Applied(tuple(changed), effects, None, recovered)


def uninstall(
    system: System,
    records: Records,
    *,
    service: str,
    socket: str,
    purge: bool = False,
    force: bool = False,
    clock: Callable[[], float] = time.time,
) -> Applied:
    """Remove all that we wrote, and the folders we made for it as far as they are empty.

    It can be taken back like any run, unless ``purge`` removes our records too.
    """
    with _writing(system, records) as recovered:
        state = State.load(system, records)
        nothing = plan(
            [], observe(system, [], state), state, service=service, socket=socket, force=force
        )
        done = apply(nothing, system, records, "uninstall", clock=clock)
        # Of the next installation it says nothing.
        system.remove(records.tried)
        if purge:
            _purge(system, records)
        return Applied(done.changed, done.effects, None if purge else done.checkpoint, recovered)


def history(system: System, records: Records) -> list[Past]:
    """The runs that can be taken back, newest first."""
    past = []
    for number in reversed(checkpoint.numbers(system, records)):
        record = _manifest(system, records, number)
        changed = tuple(entry.path for entry in record.entries if entry.path != records.state)
        past.append(Past(number, record.note, record.made_at, changed))
    return past


@contextmanager
def _writing(system: System, records: Records) -> Iterator[tuple[str, ...]]:
    with system.lock(records.lock):
        yield tuple(_recover(system, records))


def _recover(system: System, records: Records) -> Iterator[str]:
    checkpoint.clear(system, records)
    for name in (checkpoint.IN_PROGRESS, checkpoint.FORCED):
        if not system.is_folder(records.checkpoints / name):
            continue
        restored, left = checkpoint.undo(system, records, name)
        if restored:
            yield f"an interrupted run was undone: {', '.join(map(str, restored))}"
        for path in left:
            yield f"{path} was changed by hand after an interrupted run, and left as it is"


def _refuse_outdated(plan: Plan, system: System, records: Records) -> None:
    if State.load(system, records) != plan.state:
        raise PlanOutdated("another optictl has written since this was planned; plan again")
    for change in plan.changes:
        if system.read(change.path) != change.before:
            raise PlanOutdated(f"{change.path} has changed since this was planned; plan again")


def _run(
    changes: Sequence[Change], plan: Plan, system: System, records: Records, note: str, now: float
) -> int:
    folders = checkpoint.missing_folders(
        system, [change.path for change in changes if change.after is not None]
    )
    try:
        checkpoint.begin(system, records, changes, folders, note, now)
        for folder in folders:
            system.make_folder(folder)
        for change in changes:
            _write(system, change)
        kept = _sweep(system, changes, (*plan.state.folders, *folders))
        State(plan.files, kept).save(system, records)
        return checkpoint.finish(system, records)
    except (OptictlError, KeyboardInterrupt):
        if system.is_folder(records.checkpoints / checkpoint.IN_PROGRESS):
            checkpoint.undo(system, records, checkpoint.IN_PROGRESS)
        raise


def _write(system: System, change: Change) -> None:
    if change.after is None:
        system.remove(change.path)
    else:
        new = change.after
        system.write(change.path, new.content, new.mode, new.owner, new.group)


def _sweep(
    system: System, changes: Sequence[Change], folders: tuple[Path, ...]
) -> tuple[Path, ...]:
    """Remove those of our folders that the removals have emptied; which are left."""
    if all(change.after is not None for change in changes):
        return folders
    gone = {folder for folder in reversed(folders) if checkpoint.remove_if_empty(system, folder)}
    return tuple(folder for folder in folders if folder not in gone)


def _purge(system: System, records: Records) -> None:
    for number in checkpoint.numbers(system, records):
        checkpoint.discard(system, records, checkpoint.folder_of(number))
    if system.is_folder(records.checkpoints):
        system.remove_folder(records.checkpoints)
    for record in (records.state, records.settled, records.tried):
        system.remove(record)
        system.discard(record)
    system.remove(records.lock)
    system.remove_folder(records.folder)
    checkpoint.remove_if_empty(system, records.base)


def _manifest(system: System, records: Records, number: int) -> checkpoint.Manifest:
    record = checkpoint.manifest(system, records, checkpoint.folder_of(number))
    if record is None:
        where = records.checkpoints / checkpoint.folder_of(number)
        raise NothingToRollBack(f"{where} is no whole checkpoint; remove it")
    return record
