"""The disk, as `optictl.system` writes it."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from optictl.errors import CannotRead, CannotWrite, Locked
from optictl.fake_system import DiesAt, FakeSystem
from optictl.system import Found, RealSystem, System

FILE = Path("/etc/x/env")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/x").mkdir(parents=True)
    return tmp_path


class Refusing(RealSystem):
    """A disk that fails in a given way where a step of a write is carried out."""

    def __init__(self, root: Path, step: str, error: int) -> None:
        super().__init__(root)
        self._step, self._error = step, error

    def _fill(self, fd: int, content: bytes) -> None:
        self._fail("fill")
        super()._fill(fd, content)

    def _fsync(self, fd: int) -> None:
        self._fail("fsync")
        super()._fsync(fd)

    def _replace(self, old: Path, new: Path) -> None:
        self._fail("replace")
        super()._replace(old, new)

    def _fail(self, step: str) -> None:
        if step == self._step:
            raise OSError(self._error, os.strerror(self._error))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back_with_its_mode(root: Path) -> None:
    system = RealSystem(root)
    assert system.read(FILE) is None
    system.write(FILE, b"KEY=1\n", 0o600)
    assert system.read(FILE) == Found(b"KEY=1\n", 0o600)
    system.write(FILE, b"KEY=2\n", 0o640)
    assert system.read(FILE) == Found(b"KEY=2\n", 0o640)
    assert names(root / "etc/x") == ["env"]


def test_the_mode_is_that_asked_for_whatever_the_umask(root: Path) -> None:
    system = RealSystem(root)
    umask = os.umask(0o077)
    try:
        system.write(FILE, b"", 0o644)
        system.make_folder(Path("/etc/y/z"), 0o750)
    finally:
        os.umask(umask)
    assert (root / "etc/x/env").stat().st_mode & 0o777 == 0o644
    assert (root / "etc/y").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/y/z").stat().st_mode & 0o777 == 0o750


def test_a_secret_is_never_readable_by_more_than_it_shall_be(root: Path) -> None:
    seen = []

    class Watching(RealSystem):
        def _fill(self, fd: int, content: bytes) -> None:
            seen.append(os.fstat(fd).st_mode & 0o777)
            super()._fill(fd, content)

    (root / "etc/x/env").write_text("old")
    Watching(root).write(FILE, b"secret", 0o600)
    assert seen == [0o600]


def test_content_is_durable_before_it_gets_its_name_and_the_name_after(root: Path) -> None:
    steps = []

    class Watching(RealSystem):
        def _fsync(self, fd: int) -> None:
            steps.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")

        def _replace(self, old: Path, new: Path) -> None:
            steps.append(f"rename {old.name} {new.name}")
            super()._replace(old, new)

    Watching(root).write(FILE, b"1", 0o600)
    assert steps == [
        "fsync .env.optictl-new",
        "rename .env.optictl-new env",
        "fsync x",
    ]


@pytest.mark.parametrize("step", ["fill", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    root: Path, step: str
) -> None:
    RealSystem(root).write(FILE, b"old", 0o600)
    with pytest.raises(CannotWrite) as caught:
        Refusing(root, step, errno.ENOSPC).write(FILE, b"new", 0o644)
    assert str(caught.value) == (
        "cannot write /etc/x/env: No space left on device; free some space"
    )
    assert RealSystem(root).read(FILE) == Found(b"old", 0o600)
    assert names(root / "etc/x") == ["env"]


def test_a_read_only_disk_is_named(root: Path) -> None:
    with pytest.raises(CannotWrite, match="Read-only file system; make it writable"):
        Refusing(root, "fill", errno.EROFS).write(FILE, b"", 0o644)


def test_a_folder_is_no_file(root: Path) -> None:
    system = RealSystem(root)
    (root / "etc/x/env").mkdir()
    with pytest.raises(CannotRead, match="cannot read /etc/x/env: Is a directory; move"):
        system.read(FILE)
    with pytest.raises(CannotWrite, match="cannot write /etc/x/env: Is a directory; move"):
        system.write(FILE, b"", 0o644)
    assert names(root / "etc/x") == ["env"]


def test_what_a_dead_write_left_is_no_hindrance(root: Path) -> None:
    system = RealSystem(root)
    (root / "etc/x/.env.optictl-new").write_text("half")
    system.write(FILE, b"whole", 0o600)
    assert system.read(FILE) == Found(b"whole", 0o600)
    (root / "etc/x/.env.optictl-new").write_text("half")
    system.discard(FILE)
    assert names(root / "etc/x") == ["env"]


def test_a_read_only_disk_has_nothing_to_discard(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There unlink(2) fails with EROFS, whether the file is there or not."""

    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    system = RealSystem(root)
    monkeypatch.setattr(Path, "unlink", read_only)
    system.discard(FILE)
    with pytest.raises(CannotWrite, match="cannot write /etc/x/env: Read-only file system"):
        system.write(FILE, b"", 0o600)


# Links.


@pytest.mark.parametrize("target", ["/srv/dotfiles/env", "../../srv/dotfiles/env"])
def test_a_symlink_stays_one_and_leads_within_the_root(root: Path, target: str) -> None:
    (root / "srv/dotfiles").mkdir(parents=True)
    (root / "srv/dotfiles/env").write_text("old")
    (root / "etc/x/env").symlink_to(target)
    system = RealSystem(root)
    system.write(FILE, b"new", 0o600)
    assert (root / "etc/x/env").readlink() == Path(target)
    assert (root / "srv/dotfiles/env").read_bytes() == b"new"
    assert system.read(FILE) == Found(b"new", 0o600, target=Path(target))
    system.remove(FILE)
    assert (root / "etc/x/env").is_symlink()
    assert system.read(FILE) is None


def test_links_above_a_file_and_out_of_the_root_stay_in_it(root: Path) -> None:
    (root / "srv").mkdir()
    (root / "opt").symlink_to("../../../../srv")
    RealSystem(root).write(Path("/opt/file"), b"1", 0o644)
    assert (root / "srv/file").read_bytes() == b"1"


def test_links_in_a_circle_are_an_error(root: Path) -> None:
    (root / "etc/x/env").symlink_to("env")
    with pytest.raises(CannotRead, match="Too many levels"):
        RealSystem(root).read(FILE)


# Owners.


def test_owners_are_told_and_kept_on_the_machine_itself(tmp_path: Path) -> None:
    system = RealSystem()
    me, mine = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    system.write(tmp_path / "file", b"", 0o600, me, mine)
    assert system.read(tmp_path / "file") == Found(b"", 0o600, me, mine)
    system.write(tmp_path / "file", b"2", 0o600)
    assert system.read(tmp_path / "file") == Found(b"2", 0o600, me, mine)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_still_belongs_to_its_owner(tmp_path: Path) -> None:
    system = RealSystem()
    system.write(tmp_path / "file", b"1", 0o600, "54321", "54322")
    system.write(tmp_path / "file", b"2", 0o600)
    assert system.read(tmp_path / "file") == Found(b"2", 0o600, "54321", "54322")


def test_a_user_who_does_not_exist_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="no user 'nobody-at-all'; make it: useradd"):
        RealSystem().write(tmp_path / "file", b"", 0o600, "nobody-at-all")
    with pytest.raises(CannotWrite, match="no group 'nobody-at-all'; make it: groupadd"):
        RealSystem().write(tmp_path / "file", b"", 0o600, None, "nobody-at-all")
    assert names(tmp_path) == []


def test_a_staging_tree_has_no_owners(root: Path) -> None:
    RealSystem(root).write(FILE, b"", 0o600, "nobody-at-all", "nobody-at-all")
    assert RealSystem(root).read(FILE) == Found(b"", 0o600)


# The lock.

HOLD = """
import sys
from pathlib import Path
from optictl.system import RealSystem
with RealSystem(Path(sys.argv[1])).lock(Path("/run/lock")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_the_process_that_holds_it(root: Path) -> None:
    held = Path("/run/lock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=rf"/run/lock: .*\(process {holder.pid}\)") as caught:
            RealSystem(root).lock(held).__enter__()
        assert caught.value.exit_code == 11
        holder.kill()
    # A dead process holds nothing.
    with RealSystem(root).lock(held):
        pass


def test_who_holds_a_lock_may_take_it_again(root: Path) -> None:
    held, system = Path("/run/lock"), RealSystem(root)
    with system.lock(held):
        with system.lock(held):
            pass
        with pytest.raises(Locked):
            RealSystem(root).lock(held).__enter__()
    with RealSystem(root).lock(held):
        pass


def test_a_folder_may_be_made_by_another_command_meanwhile(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def after_another(path: Path) -> None:
        make(path)
        make(path)

    monkeypatch.setattr(Path, "mkdir", after_another)
    system = RealSystem(root)
    system.make_folder(Path("/var/lib/x/y"))
    assert system.is_folder(Path("/var/lib/x/y"))


def test_a_file_where_a_folder_should_be_is_told(root: Path) -> None:
    system = RealSystem(root)
    system.write(Path("/etc/file"), b"", 0o600)
    with pytest.raises(CannotWrite, match="cannot make the folder /etc/file: File exists"):
        system.make_folder(Path("/etc/file"))


# The same from both.


@pytest.fixture(params=["real", "fake"])
def system(request: pytest.FixtureRequest, root: Path) -> System:
    if request.param == "real":
        return RealSystem(root)
    fake = FakeSystem()
    fake.make_folder(Path("/etc/x"))
    return fake


def test_the_fake_disk_behaves_like_the_real_one(system: System) -> None:
    folder = Path("/etc/y/z")
    assert not system.is_folder(folder)
    assert system.listing(folder) == []
    system.make_folder(folder)
    system.make_folder(folder)
    assert system.is_folder(folder.parent)
    system.write(folder / "file", b"1", 0o600)
    assert system.listing(folder) == ["file"]
    with pytest.raises(CannotWrite, match="not empty"):
        system.remove_folder(folder)
    system.rename(folder, Path("/etc/y/new"))
    found = system.read(Path("/etc/y/new/file"))
    assert found is not None
    assert (found.content, found.mode) == (b"1", 0o600)
    system.remove(Path("/etc/y/new/file"))
    system.remove(Path("/etc/y/new/file"))
    system.remove_folder(Path("/etc/y/new"))
    assert system.listing(Path("/etc/y")) == []
    with pytest.raises(CannotWrite, match="No such file"):
        system.write(folder / "file", b"1", 0o600)
    with pytest.raises(CannotWrite, match="No such file"):
        system.rename(folder, Path("/etc/y/new"))
    with pytest.raises(CannotRead, match="Is a directory"):
        system.read(Path("/etc/y"))
    with pytest.raises(CannotWrite, match="Is a directory"):
        system.write(Path("/etc/y"), b"", 0o600)


def test_a_fake_symlink_stays_one() -> None:
    fake = FakeSystem(fuse=DiesAt())
    fake.put(Path("/srv/env"), b"old")
    fake.put(Path("/etc/x/other"), b"")
    fake.links[FILE] = Path("/srv/env")
    fake.write(FILE, b"new", 0o600)
    assert fake.files[Path("/srv/env")].content == b"new"
    assert fake.read(FILE) == Found(b"new", 0o600, "root", "root", Path("/srv/env"))
