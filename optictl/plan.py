"""From what shall be and what is to the changes between them. Pure: nothing here touches a disk."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from optictl.artifact import Artifact, Effect, Shared
from optictl.errors import HandEdited, PlanOutdated
from optictl.shared_files import without
from optictl.state import State, Written, digest
from optictl.system import Found

Kind = Literal["add", "change", "remove", "same"]


@dataclass(frozen=True, slots=True)
class Effects:
    """What systemd has to be told. A restart takes the place of a reload."""

    daemon_reload: bool = False
    #: The socket listens anew; the service restarts with it.
    rebind: bool = False
    restart: bool = False
    reload: bool = False
    #: LiteLLM is restarted, before the service: its warmup goes through it.
    gateway: bool = False

    @classmethod
    def of(cls, changed: Iterable[tuple[bool, Effect]]) -> Effects:
        """From whether each changed file is a unit, and its effect."""
        files = list(changed)
        asked = {effect for _, effect in files}
        return cls(
            daemon_reload=any(unit for unit, _ in files),
            rebind="rebind" in asked,
            restart=bool(asked & {"rebind", "restart"}),
            reload="reload" in asked and not asked & {"rebind", "restart"},
            gateway="gateway" in asked,
        )

    def units(self, service: str, socket: str) -> dict[str, list[str]]:
        """Which units restart, and which reload."""
        return {
            "restart": [*([socket] if self.rebind else []), *([service] if self.restart else [])],
            "reload": [service] if self.reload else [],
        }


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one file."""

    kind: Kind
    path: Path
    before: Found | None
    after: Artifact | None
    #: As we last wrote it, if we ever did.
    written: Written | None = None

    @property
    def hand_edited(self) -> bool:
        """Whether what would be lost is not what we last wrote."""
        return (
            self.kind in ("change", "remove")
            and self.shared is None
            and self.before is not None
            and self.written is not None
            and (digest(self.before.content), self.before.mode)
            != (self.written.sha256, self.written.mode)
        )

    @property
    def foreign(self) -> bool:
        """Whether what would be lost was never ours."""
        return self.kind == "change" and self.written is None and self.shared is None

    @property
    def shared(self) -> Shared | None:
        """In whose file our part is marked how; what else stands there is not ours to compare."""
        side = self.after or self.written
        return None if side is None else side.shared

    @property
    def sensitive(self) -> bool:
        return any(side.sensitive for side in (self.after, self.written) if side is not None)

    @property
    def asks_for(self) -> tuple[bool, Effect]:
        """Whether a unit changes, and what the change asks of the service."""
        side = self.after or self.written
        return (side.unit, side.effect) if side else (False, "none")

    def diff(self) -> str:
        """A unified diff, with changes of mode and owner above it; empty for ``same``."""
        return "".join(f"{line}\n" for line in self._diff())

    def _diff(self) -> Iterator[str]:
        if self.kind == "same":
            return
        before = b"" if self.before is None else self.before.content
        after = b"" if self.after is None else self.after.content
        old = "/dev/null" if self.before is None else f"a{self.path}"
        new = "/dev/null" if self.after is None else f"b{self.path}"
        yield from self._attributes()
        if before == after and self.before is not None and self.after is not None:
            return
        if self.sensitive:
            yield from (f"--- {old}", f"+++ {new}", "(sensitive, changed)")
            return
        if self.foreign:
            # Whoever wrote it may have put a key there.
            yield from _unified("", after.decode(), f"{old} (not written by optictl)", new)
            return
        try:
            yield from _unified(before.decode(), after.decode(), old, new)
        except UnicodeDecodeError:
            yield from (f"--- {old}", f"+++ {new}", "(binary, changed)")

    def _attributes(self) -> Iterator[str]:
        if self.after is None:
            return
        if self.before is None:
            yield f"{self.path}: mode {self.after.mode:04o}"
            return
        if self.before.mode != self.after.mode:
            yield f"{self.path}: mode {self.before.mode:04o} -> {self.after.mode:04o}"
        for name, old, new in _ownership(self.before, self.after):
            yield f"{self.path}: {name} {old} -> {new}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that would be done, and from what it was made."""

    changes: tuple[Change, ...]
    #: What we remembered when this was made.
    state: State
    #: The unit that a change restarts or reloads.
    service: str
    socket: str
    #: The paths of what is declared.
    wanted: frozenset[Path]
    force: bool = False

    @property
    def pending(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.kind != "same")

    @property
    def of_others(self) -> tuple[Path, ...]:
        """Files that would lose what someone else has written there."""
        return tuple(each.path for each in self.changes if each.hand_edited or each.foreign)

    @property
    def effects(self) -> Effects:
        return Effects.of(change.asks_for for change in self.pending)

    @property
    def files(self) -> dict[Path, Written]:
        """What will be ours."""
        return {
            change.path: Written.of(change.after)
            for change in self.changes
            if change.after is not None and change.path in self.wanted
        }

    @property
    def fingerprint(self) -> str:
        """Equal for two plans that do the same to the same files."""
        sides = [
            [str(change.path), _found(change.before), _artifact(change.after)]
            for change in self.changes
        ]
        return hashlib.sha256(orjson.dumps(sides)).hexdigest()

    def summary(self) -> str:
        """``2 to add, 1 to change, 0 to remove; restart: x.socket, x.service``."""
        count = dict.fromkeys(("add", "change", "remove", "same"), 0)
        for change in self.changes:
            count[change.kind] += 1
        said = f"{count['add']} to add, {count['change']} to change, {count['remove']} to remove"
        for verb, units in self.effects.units(self.service, self.socket).items():
            if units:
                said += f"; {verb}: {', '.join(units)}"
        return said

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and ``--out``; without what is sensitive."""
        effects = self.effects
        return {
            "summary": self.summary(),
            "fingerprint": self.fingerprint,
            "changes": [
                {
                    "kind": change.kind,
                    "path": str(change.path),
                    "hand_edited": change.hand_edited,
                    "foreign": change.foreign,
                    "diff": change.diff(),
                }
                for change in self.changes
            ],
            "effects": {
                "daemon_reload": effects.daemon_reload,
                **effects.units(self.service, self.socket),
            },
        }

    def require(self, fingerprint: str) -> None:
        """Raise `PlanOutdated` unless a saved plan's fingerprint is this one's."""
        if fingerprint != self.fingerprint:
            raise PlanOutdated(
                "the machine or the settings have changed since this plan was saved; plan again"
            )

    def refuse_hand_edits(self) -> None:
        """Raise `HandEdited` for files that would lose what someone wrote there, unless forced."""
        if self.force:
            return
        foreign = [str(change.path) for change in self.changes if change.foreign]
        edited = [str(change.path) for change in self.changes if change.hand_edited]
        if foreign:
            also = f"; changed since optictl last wrote it: {', '.join(edited)}" if edited else ""
            raise HandEdited(
                f"not written by optictl: {', '.join(foreign)}{also}; "
                "take over what stands there with optictl adopt, or overwrite it with --force"
            )
        if edited:
            raise hand_edited(edited)


def plan(
    artifacts: Sequence[Artifact],
    actual: Mapping[Path, Found | None],
    state: State,
    *,
    service: str,
    socket: str,
    force: bool = False,
) -> Plan:
    """The changes, in the order of ``artifacts``; then what we wrote and nobody wants any more.

    What names a file comes after it in ``artifacts``: so it is removed before it.

    ``actual`` has every path of ``artifacts`` and ``state`` (`optictl.apply.observe`).
    """
    wanted = frozenset(artifact.path for artifact in artifacts)
    changes = [
        Change(
            _kind(actual[artifact.path], artifact),
            artifact.path,
            actual[artifact.path],
            artifact,
            state.files.get(artifact.path),
        )
        for artifact in artifacts
    ]
    changes += [
        _removal(path, before, written)
        for path, written in reversed(list(state.files.items()))
        if path not in wanted and (before := actual[path]) is not None and not written.adopted
    ]
    return Plan(tuple(changes), state, service, socket, wanted, force)


def _removal(path: Path, before: Found, written: Written) -> Change:
    """A file of ours goes; of somebody else's goes our part."""
    if written.shared is None:
        return Change("remove", path, before, None, written)
    content = without(written.shared, before.content, path)
    after = Artifact(
        path,
        content,
        before.mode,
        sensitive=written.sensitive,
        effect=written.effect,
        shared=written.shared,
    )
    kind: Kind = "same" if content == before.content else "change"
    return Change(kind, path, before, after, written)


def hand_edited(paths: Iterable[str]) -> HandEdited:
    return HandEdited(
        f"changed since optictl last wrote it: {', '.join(paths)}; "
        "carry the change over into the settings, or overwrite it with --force"
    )


def _kind(before: Found | None, after: Artifact) -> Kind:
    if before is None:
        return "add"
    alike = (before.content, before.mode) == (after.content, after.mode)
    return "same" if alike and not any(_ownership(before, after)) else "change"


def _ownership(before: Found, after: Artifact) -> Iterator[tuple[str, str, str]]:
    """What differs, where both sides have a say in it."""
    for name, old, new in (
        ("owner", before.owner, after.owner),
        ("group", before.group, after.group),
    ):
        if old is not None and new is not None and old != new:
            yield name, old, new


def _unified(before: str, after: str, old: str, new: str) -> Iterator[str]:
    if not before and not after:
        yield from (f"--- {old}", f"+++ {new}")
        return
    # Only at \n: other ends of line are content, and a reader of diffs takes them for that.
    lines = difflib.unified_diff(_lines(before), _lines(after), old, new)
    for line in lines:
        yield line.removesuffix("\n")
        if not line.endswith("\n"):
            yield "\\ No newline at end of file"


def _lines(text: str) -> list[str]:
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    return lines if lines[-1] else lines[:-1]


def _found(found: Found | None) -> object:
    return found and [
        digest(found.content),
        found.mode,
        found.owner,
        found.group,
        found.target and str(found.target),
    ]


def _artifact(artifact: Artifact | None) -> object:
    return artifact and [
        digest(artifact.content),
        artifact.mode,
        artifact.owner,
        artifact.group,
    ]
