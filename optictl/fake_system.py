"""A disk in memory, for tests: it counts its steps, and can die at any of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from optictl.errors import CannotRead, CannotWrite
from optictl.system import MAX_LINKS, Found, temporary


class Died(BaseException):
    """As by ``kill -9``: nothing after it is carried out."""


@dataclass(slots=True)
class DiesAt:
    """Counts steps, and dies at the ``k``-th and at every later one; never without ``k``."""

    k: int | None = None
    steps: int = 0

    def step(self) -> None:
        if self.k is not None and self.steps + 1 >= self.k:
            raise Died
        self.steps += 1


@dataclass(slots=True)
class FakeSystem:
    """Files, folders and links by path. `/` is always there."""

    files: dict[Path, Found] = field(default_factory=dict)
    folders: dict[Path, int] = field(default_factory=lambda: {Path("/"): 0o755})
    links: dict[Path, Path] = field(default_factory=dict)
    fuse: DiesAt = field(default_factory=DiesAt)
    held: set[Path] = field(default_factory=set)

    def put(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """A file, and the folders above it, without a step."""
        for folder in reversed(path.parents):
            self.folders.setdefault(folder, 0o755)
        self.files[path] = Found(content, mode, "root", "root")

    def read(self, path: Path) -> Found | None:
        at = self._follow(path)
        if at in self.folders:
            raise CannotRead(f"cannot read {path}: Is a directory; move the folder away")
        found = self.files.get(at)
        return found and replace(found, target=self.links.get(path))

    def write(
        self,
        path: Path,
        content: bytes,
        mode: int,
        owner: str | None = None,
        group: str | None = None,
    ) -> None:
        target = self._follow(path)
        if target in self.folders:
            raise CannotWrite(f"cannot write {path}: Is a directory; move the folder away")
        if target.parent not in self.folders:
            raise CannotWrite(f"cannot write {path}: No such file or directory")
        old = self.files.get(target, Found(b"", 0, "root", "root"))
        new = Found(content, mode, owner or old.owner, group or old.group)
        beside = temporary(target)
        # Written in part, written, synced, renamed; then the folder synced.
        self.fuse.step()
        self.files[beside] = replace(new, content=content[: len(content) // 2])
        self.fuse.step()
        self.files[beside] = new
        self.fuse.step()
        self.fuse.step()
        self.files[target] = self.files.pop(beside)
        self.fuse.step()

    def discard(self, path: Path) -> None:
        if (beside := temporary(self._follow(path))) in self.files:
            self.fuse.step()
            del self.files[beside]

    def remove(self, path: Path) -> None:
        if (target := self._follow(path)) in self.files:
            self.fuse.step()
            del self.files[target]
            self.fuse.step()

    def rename(self, old: Path, new: Path) -> None:
        if old not in self.files and old not in self.folders:
            raise CannotWrite(f"cannot rename {old}: No such file or directory")
        self.fuse.step()
        for file in [file for file in self.files if file.is_relative_to(old)]:
            self.files[new / file.relative_to(old)] = self.files.pop(file)
        for folder in [folder for folder in self.folders if folder.is_relative_to(old)]:
            self.folders[new / folder.relative_to(old)] = self.folders.pop(folder)
        self.fuse.step()

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        if path in self.files:
            raise CannotWrite(f"cannot make the folder {path}: File exists")
        if path in self.folders:
            return
        self.make_folder(path.parent)
        self.fuse.step()
        self.folders[path] = mode
        self.fuse.step()

    def remove_folder(self, path: Path) -> None:
        if self.listing(path):
            raise CannotWrite(f"cannot remove the folder {path}: Directory not empty")
        self.fuse.step()
        del self.folders[path]
        self.fuse.step()

    def is_folder(self, path: Path) -> bool:
        return self._follow(path) in self.folders

    def listing(self, path: Path) -> list[str]:
        at = self._follow(path)
        there = [*self.files, *self.folders, *self.links]
        return sorted({other.name for other in there if other != at and other.parent == at})

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        if path in self.held:
            yield
            return
        self.make_folder(path.parent, 0o700)
        self.files.setdefault(path, Found(b"", 0o600, "root", "root"))
        self.held.add(path)
        try:
            yield
        finally:
            self.held.discard(path)

    def _follow(self, path: Path) -> Path:
        for _ in range(MAX_LINKS):
            if path not in self.links:
                return path
            path = path.parent / self.links[path]
        raise CannotRead(f"cannot read {path}: Too many levels of symbolic links")
