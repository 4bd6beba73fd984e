"""Systems that write nothing: a dry run, and a check for drift."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optictl.errors import Drifted
from optictl.system import Found, System
from optictl.systemd import LINES, Manager, Scope, Unit


@dataclass(frozen=True, slots=True)
class Step:
    """Something that would be done to a path."""

    verb: Literal["write", "remove", "rename", "make folder", "remove folder"]
    path: Path


class _ReadsThrough(ABC):
    """Asks another system, and takes no lock: it writes nothing."""

    def __init__(self, inner: System) -> None:
        self._inner = inner

    def read(self, path: Path) -> Found | None:
        return self._inner.read(self._before(path))

    def is_folder(self, path: Path) -> bool:
        return self._inner.is_folder(self._before(path))

    def listing(self, path: Path) -> list[str]:
        return self._inner.listing(self._before(path))

    def lock(self, path: Path) -> AbstractContextManager[None]:
        return nullcontext()

    def write(
        self,
        path: Path,
        content: bytes,
        mode: int,
        owner: str | None = None,
        group: str | None = None,
    ) -> None:
        self._would(Step("write", path))

    def discard(self, path: Path) -> None:  # noqa: B027 - nothing to do is what it does
        """Nothing: what a write has left beside a file is no file of anyone's."""

    def remove(self, path: Path) -> None:
        self._would(Step("remove", path))

    def rename(self, old: Path, new: Path) -> None:
        self._would(Step("rename", old))

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        self._would(Step("make folder", path))

    def remove_folder(self, path: Path) -> None:
        self._would(Step("remove folder", path))

    def _before(self, path: Path) -> Path:
        return path

    @abstractmethod
    def _would(self, step: Step) -> None: ...


class DryRunSystem(_ReadsThrough):
    """Reads what there is, and only notes in ``steps`` what it would do."""

    def __init__(self, inner: System) -> None:
        super().__init__(inner)
        self.steps: list[Step] = []
        self._renamed: dict[Path, Path] = {}

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._renamed[new] = self._before(old)

    def _before(self, path: Path) -> Path:
        """Where that is, as long as nothing has been renamed."""
        for new, old in self._renamed.items():
            if path.is_relative_to(new):
                return old / path.relative_to(new)
        return path

    def _would(self, step: Step) -> None:
        self.steps.append(step)


class DryRunManager:
    """Tells what the real one sees, and asks nothing of it."""

    def __init__(self, inner: Manager) -> None:
        self._inner = inner
        self.scope: Scope = inner.scope

    def show(self, unit: str) -> Unit:
        return self._inner.show(unit)

    def journal(self, *units: str, lines: int = LINES) -> list[str]:
        return self._inner.journal(*units, lines=lines)

    def journal_command(self, *units: str) -> list[str]:
        return self._inner.journal_command(*units)

    def daemon_reload(self) -> None: ...

    def enable(self, *units: str) -> None: ...

    def disable(self, *units: str) -> None: ...

    def start(self, *units: str) -> None: ...

    def stop(self, *units: str) -> None: ...

    def restart(self, *units: str) -> None: ...

    def reload(self, *units: str) -> None: ...

    def reset_failed(self, *units: str) -> None: ...

    def make_user(self, name: str, home: Path) -> None: ...


class ErrorOnWriteSystem(_ReadsThrough):
    """Raises `Drifted` at the first change, except of our own records below ``records``."""

    def __init__(self, inner: System, records: Path) -> None:
        super().__init__(inner)
        self._records = records

    def _would(self, step: Step) -> None:
        if not step.path.is_relative_to(self._records):
            raise Drifted(f"{step.path} is not as declared; see: optictl plan")
