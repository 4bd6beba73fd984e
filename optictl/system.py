"""The port to disk, and the disk behind it.

`optictl.dry_run` has a dry run and a check for drift, `optictl.fake_system` a disk in memory.
Paths are absolute. A symlink stays a symlink:
every call that reads, writes or removes a file goes to where the link leads.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optictl.errors import CannotRead, CannotWrite, Locked, OptictlError

#: As many links as Linux follows (path_resolution(7)).
MAX_LINKS = 40

_HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EISDIR: "move the folder away",
    errno.EACCES: "run this as root, or as who owns it",
    errno.EPERM: "run this as root, or as who owns it",
    errno.EROFS: "make it writable",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it is on disk. Owner and group are names, or None in a staging tree."""

    content: bytes
    mode: int
    owner: str | None = None
    group: str | None = None
    #: Where the path leads, if it is a symlink.
    target: Path | None = None


class System(Protocol):
    """What is done to files. Every failure is an `OptictlError` that names path and cause."""

    def read(self, path: Path) -> Found | None:
        """The file at ``path``, or None. A folder there is an error."""
        ...

    def write(
        self,
        path: Path,
        content: bytes,
        mode: int,
        owner: str | None = None,
        group: str | None = None,
    ) -> None:
        """Put a whole file at ``path``, or leave what is there.

        No owner and no group: those of the file that is replaced, else the caller's.
        """
        ...

    def discard(self, path: Path) -> None:
        """Remove what an interrupted `write` of ``path`` has left beside it."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file. One that is not there is none to remove."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or a folder a new name, at once and for good."""
        ...

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        """Make a folder, and those above it (0755). One that is there stays as it is."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def is_folder(self, path: Path) -> bool: ...

    def listing(self, path: Path) -> list[str]:
        """The names in a folder, sorted; none where there is no folder."""
        ...

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Hold the file at ``path`` alone. Inside, this `System` may take it again.

        Raises `Locked` at once, with the holder's process id, where another has it.
        """
        ...


def temporary(target: Path) -> Path:
    """Where a file is written before it gets its name. Always the same, so that it is found."""
    return target.with_name(f".{target.name}.optictl-new")


class RealSystem:
    """The disk below ``root``.

    In a staging tree (any other root than /) links lead where they would if it were /, and no
    owner is set or told: its users may not exist here.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._staging = root != Path("/")
        self._held: set[Path] = set()

    def read(self, path: Path) -> Found | None:
        with _failing(CannotRead, "read", path):
            at = self._follow(path)
            try:
                with at.open("rb") as file:
                    stat = os.fstat(file.fileno())
                    content = file.read()
            except FileNotFoundError:
                return None
            link = self._place(path)
            return Found(
                content,
                stat.st_mode & 0o7777,
                None if self._staging else _user_name(stat.st_uid),
                None if self._staging else _group_name(stat.st_gid),
                link.readlink() if link.is_symlink() else None,
            )

    def write(
        self,
        path: Path,
        content: bytes,
        mode: int,
        owner: str | None = None,
        group: str | None = None,
    ) -> None:
        with _failing(CannotWrite, "write", path):
            target = self._follow(path)
            uid, gid = self._ids(path, target, owner, group)
            new = temporary(target)
            new.unlink(missing_ok=True)
            try:
                self._create(new, content, mode, uid, gid)
                self._replace(new, target)
            except OSError:
                with suppress(OSError):
                    new.unlink(missing_ok=True)
                raise
            self._sync(target.parent)

    def discard(self, path: Path) -> None:
        with _failing(CannotWrite, "remove", path):
            left = temporary(self._follow(path))
            # A read-only disk refuses to remove even what is not there.
            if left.exists():
                left.unlink()

    def remove(self, path: Path) -> None:
        with _failing(CannotWrite, "remove", path):
            target = self._follow(path)
            try:
                target.unlink()
            except FileNotFoundError:
                return
            self._sync(target.parent)

    def rename(self, old: Path, new: Path) -> None:
        with _failing(CannotWrite, "rename", old):
            self._replace(self._place(old), self._place(new))
            self._sync(self._place(new).parent)

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        with _failing(CannotWrite, "make the folder", path):
            self._make_folder(self._follow(path), mode)

    def remove_folder(self, path: Path) -> None:
        with _failing(CannotWrite, "remove the folder", path):
            target = self._follow(path)
            target.rmdir()
            self._sync(target.parent)

    def is_folder(self, path: Path) -> bool:
        with _failing(CannotRead, "read", path):
            return self._follow(path).is_dir()

    def listing(self, path: Path) -> list[str]:
        with _failing(CannotRead, "read", path):
            try:
                return sorted(entry.name for entry in self._follow(path).iterdir())
            except FileNotFoundError:
                return []

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        if path in self._held:
            yield
            return
        with _failing(CannotWrite, "lock", path):
            fd = self._take(path)
        self._held.add(path)
        try:
            yield
        finally:
            self._held.discard(path)
            os.close(fd)

    def _place(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def _follow(self, path: Path) -> Path:
        """Where a path leads, with the links in it followed as if ``root`` were /."""
        at, links = self._root, 0
        parts = list(reversed(path.relative_to("/").parts))
        while parts:
            part = parts.pop()
            if part == "..":
                at = at if at == self._root else at.parent
            elif (inside := at / part).is_symlink():
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = inside.readlink()
                at = self._root if target.is_absolute() else at
                parts.extend(reversed([step for step in target.parts if step != "/"]))
            else:
                at = inside
        return at

    def _ids(
        self, path: Path, target: Path, owner: str | None, group: str | None
    ) -> tuple[int, int]:
        """Whom the new file shall belong to; -1 is whoever writes."""
        if self._staging:
            return -1, -1
        try:
            old = target.stat()
            uid, gid = old.st_uid, old.st_gid
        except FileNotFoundError:
            uid, gid = -1, -1
        return (
            uid if owner is None else _user_id(path, owner),
            gid if group is None else _group_id(path, group),
        )

    def _create(self, new: Path, content: bytes, mode: int, uid: int, gid: int) -> None:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Before the content: at no time may more people read it than shall.
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
            self._fill(fd, content)
            self._fsync(fd)
        finally:
            os.close(fd)

    def _make_folder(self, place: Path, mode: int) -> None:
        if place.is_dir():
            return
        if place.parent != place:
            self._make_folder(place.parent, 0o755)
        try:
            place.mkdir()
        except FileExistsError:
            # Before the lock is held, another command may make it at the same time.
            if place.is_dir():
                return
            raise
        # Apart from mkdir: the umask must not hide the settings from the service.
        place.chmod(mode)
        self._sync(place.parent)

    def _take(self, path: Path) -> int:
        self.make_folder(path.parent, 0o700)
        place = self._place(path)
        while True:
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed it between our open and our flock.
                if place.exists() and place.stat().st_ino == os.fstat(fd).st_ino:
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, str(os.getpid()).encode(), 0)
                    return fd
            except BlockingIOError:
                holder = os.pread(fd, 20, 0).decode(errors="replace")
                os.close(fd)
                raise Locked(
                    f"{path}: another optictl is writing (process {holder or 'unknown'}); "
                    "wait until it has ended"
                ) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _sync(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fsync(fd)
        finally:
            os.close(fd)

    # What a test's subclass lets fail.

    def _fill(self, fd: int, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def _fsync(self, fd: int) -> None:
        os.fsync(fd)

    def _replace(self, old: Path, new: Path) -> None:
        old.replace(new)


@contextmanager
def _failing(kind: type[OptictlError], verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"; {_HINTS[error.errno]}" if error.errno in _HINTS else ""
        raise kind(f"cannot {verb} {path}: {error.strerror}{hint}") from error


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_id(path: Path, name: str) -> int:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise CannotWrite(
            f"cannot write {path}: there is no user '{name}'; make it: useradd --system {name}"
        ) from None


def _group_id(path: Path, name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise CannotWrite(
            f"cannot write {path}: there is no group '{name}'; make it: groupadd --system {name}"
        ) from None
