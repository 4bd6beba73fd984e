"""Bringing a plan to disk: all of it or nothing, at whatever step it dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optictl.apply import Applied, apply, history, observe, recover, rollback, uninstall
from optictl.artifact import Artifact
from optictl.dry_run import DryRunSystem, ErrorOnWriteSystem
from optictl.errors import (
    CannotRead,
    CannotWrite,
    Drifted,
    HandEdited,
    Locked,
    NothingToRollBack,
    PlanOutdated,
)
from optictl.fake_system import Died, DiesAt, FakeSystem
from optictl.plan import Plan, plan
from optictl.state import Records, State
from optictl.system import RealSystem, System

PLACES = Records(Path("/var/lib/optictl"), "x")
UNIT = Path("/etc/systemd/system/x.service")
ENV = Path("/etc/x/env")
CONFIG = Path("/etc/x/proxy_config.yaml")

OLD = [Artifact(UNIT, b"old unit\n", unit=True), Artifact(ENV, b"KEY=old\n", 0o600, sensitive=True)]
NEW = [
    Artifact(UNIT, b"new unit\n", unit=True),
    Artifact(CONFIG, b"providers: []\n", effect="reload"),
]


def planned(system: System, artifacts: list[Artifact], *, force: bool = False) -> Plan:
    state = State.load(system, PLACES)
    return plan(
        artifacts,
        observe(system, artifacts, state),
        state,
        service="x.service",
        socket="x.socket",
        force=force,
    )


def install(
    system: System,
    artifacts: list[Artifact],
    *,
    force: bool = False,
    clock: Callable[[], float] = lambda: 0.0,
) -> Applied:
    made = planned(system, artifacts, force=force)
    return apply(made, system, PLACES, "install", clock=clock)


def content(system: System, path: Path) -> bytes | None:
    found = system.read(path)
    return None if found is None else found.content


def tree(root: Path) -> dict[str, object]:
    """Every file below a folder, but for the lock: content, mode and time of change."""
    return {
        str(path.relative_to(root)): (
            path.read_bytes(),
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def real(root: Path) -> RealSystem:
    (root / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
    return RealSystem(root)


def test_what_is_planned_is_on_disk(tmp_path: Path) -> None:
    system = real(tmp_path)
    done = install(system, OLD)
    assert done.changed == (UNIT, ENV)
    assert done.effects.daemon_reload
    assert (tmp_path / "etc/x/env").read_bytes() == b"KEY=old\n"
    assert (tmp_path / "etc/x/env").stat().st_mode & 0o777 == 0o600


def test_applying_twice_touches_no_file(tmp_path: Path) -> None:
    system = real(tmp_path)
    install(system, OLD)
    before = tree(tmp_path)
    again = install(system, OLD)
    assert again == Applied()
    assert tree(tmp_path) == before


def test_what_is_no_longer_wanted_goes(tmp_path: Path) -> None:
    system = real(tmp_path)
    install(system, OLD)
    install(system, NEW)
    assert content(system, ENV) is None
    assert content(system, CONFIG) == b"providers: []\n"


def test_secrets_are_kept_where_only_their_owner_reads(tmp_path: Path) -> None:
    system = real(tmp_path)
    install(system, OLD)
    install(system, NEW)
    records = tmp_path / "var/lib/optictl/x"
    for path in (records, *records.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


# Dying at every step.


def snapshot(system: System) -> dict[Path, tuple[bytes, int] | None]:
    found = {path: system.read(path) for path in (UNIT, ENV, CONFIG, PLACES.state)}
    return {path: file and (file.content, file.mode) for path, file in found.items()}


def installed() -> FakeSystem:
    system = FakeSystem()
    install(system, OLD)
    return system


def over_existing() -> FakeSystem:
    system = FakeSystem()
    system.put(CONFIG, b"someone's\n", 0o640)
    install(system, OLD)
    return system


def over_nothing() -> FakeSystem:
    system = FakeSystem()
    system.put(UNIT, b"written by hand\n")
    return system


def do_install(system: System) -> None:
    install(system, NEW, force=True)


def do_rollback(system: System) -> None:
    rollback(system, PLACES)


def do_uninstall(system: System) -> None:
    uninstall(system, PLACES, service="x.service", socket="x.socket")


@pytest.mark.parametrize(
    ("start", "run"),
    [
        (over_existing, do_install),
        (over_nothing, do_install),
        (over_existing, do_rollback),
        (over_existing, do_uninstall),
    ],
)
def test_death_at_any_step_leaves_all_old_or_all_new(
    start: Callable[[], FakeSystem], run: Callable[[System], None]
) -> None:
    whole = start()
    old = snapshot(whole)
    whole.fuse = DiesAt()
    run(whole)
    new = snapshot(whole)
    assert whole.fuse.steps > 10
    seen = set()
    for k in range(1, whole.fuse.steps + 1):
        system = start()
        system.fuse = DiesAt(k)
        with pytest.raises(Died):
            run(system)
        system.fuse = DiesAt()
        torn = [
            path
            for path in (UNIT, ENV, CONFIG)
            if content(system, path) not in {side[path] and side[path][0] for side in (old, new)}
        ]
        assert torn == [], k
        recover(system, PLACES)
        after = snapshot(system)
        assert after in (old, new), k
        seen.add(after == new)
        assert not [path for path in system.files if path.name.endswith(".optictl-new")], k
        files = dict(system.files)
        assert recover(system, PLACES) == []
        assert system.files == files, k
        # And from there the run goes through.
        if after == old:
            run(system)
            assert snapshot(system) == new, k
    assert seen == {True, False}


def test_death_while_recovering_loses_nothing() -> None:
    whole = over_existing()
    old = snapshot(whole)
    whole.fuse = DiesAt()
    do_install(whole)
    # Where the state has been written, but the run is not ended.
    late = whole.fuse.steps - 2
    for k in range(1, 200):
        system = over_existing()
        system.fuse = DiesAt(late)
        with pytest.raises(Died):
            do_install(system)
        system.fuse = DiesAt(k)
        try:
            recover(system, PLACES)
        except Died:
            system.fuse = DiesAt()
            recover(system, PLACES)
            assert snapshot(system) == old, k
        else:
            return
    raise AssertionError("recovering never came to its end")


class Mortal(RealSystem):
    """The disk, to a process that is killed at its k-th rename or fsync."""

    def __init__(self, root: Path, fuse: DiesAt) -> None:
        super().__init__(root)
        self._fuse = fuse

    def _fsync(self, fd: int) -> None:
        self._fuse.step()
        super()._fsync(fd)

    def _replace(self, old: Path, new: Path) -> None:
        self._fuse.step()
        super()._replace(old, new)


def test_death_at_any_step_on_a_real_disk(tmp_path: Path) -> None:
    def started(name: str) -> Path:
        root = tmp_path / name
        install(real(root), OLD)
        return root

    whole = Mortal(started("whole"), DiesAt())
    old = snapshot(whole)
    install(whole, NEW)
    new = snapshot(whole)
    for k in range(1, whole._fuse.steps + 1):
        root = started(str(k))
        with pytest.raises(Died):
            install(Mortal(root, DiesAt(k)), NEW)
        system = RealSystem(root)
        recover(system, PLACES)
        assert snapshot(system) in (old, new), k
        before = tree(root)
        recover(system, PLACES)
        assert tree(root) == before, k


def test_what_is_written_by_hand_after_a_crash_stays() -> None:
    whole = over_existing()
    whole.fuse = DiesAt()
    do_install(whole)
    system = over_existing()
    system.fuse = DiesAt(whole.fuse.steps - 2)
    with pytest.raises(Died):
        do_install(system)
    system.fuse = DiesAt()
    system.put(UNIT, b"mine\n")
    said = recover(system, PLACES)
    assert content(system, UNIT) == b"mine\n"
    assert any(f"{UNIT} was changed by hand" in line for line in said)


# What stops a run.


class Full(RealSystem):
    """A disk without room for what holds ``word``."""

    def __init__(self, root: Path, word: bytes) -> None:
        super().__init__(root)
        self._word = word

    def _fill(self, fd: int, content: bytes) -> None:
        if self._word in content:
            os.write(fd, content[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._fill(fd, content)


@pytest.mark.parametrize("word", [b"old unit", b"new unit", b"providers", b'"files"'])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, word: bytes) -> None:
    install(real(tmp_path), OLD)
    before = snapshot(RealSystem(tmp_path))
    with pytest.raises(CannotWrite, match=r"cannot write /.*No space left on device; free"):
        install(Full(tmp_path, word), NEW)
    assert snapshot(RealSystem(tmp_path)) == before
    assert not list(tmp_path.rglob("*.optictl-new"))
    assert [past.number for past in history(RealSystem(tmp_path), PLACES)] == [1]


def test_a_folder_where_a_file_shall_be_is_named(tmp_path: Path) -> None:
    system = real(tmp_path)
    (tmp_path / "etc/systemd/system/x.service").mkdir()
    with pytest.raises(CannotRead, match=r"x\.service: Is a directory; move"):
        install(system, OLD)


def test_a_lock_held_elsewhere_stops_all_that_write(tmp_path: Path) -> None:
    system = real(tmp_path)
    install(system, OLD)
    with RealSystem(tmp_path).lock(PLACES.lock):
        runs: list[Callable[[System], None]] = [do_install, do_rollback, do_uninstall]
        for run in runs:
            with pytest.raises(Locked, match=f"process {os.getpid()}"):
                run(system)
    do_install(system)


def test_of_two_who_planned_the_same_the_second_plans_again(tmp_path: Path) -> None:
    first, second = real(tmp_path), real(tmp_path)
    plans = planned(first, OLD), planned(second, OLD)
    apply(plans[0], first, PLACES, "install")
    with pytest.raises(PlanOutdated, match="plan again"):
        apply(plans[1], second, PLACES, "install")


def test_a_file_that_changed_since_it_was_planned_stays(tmp_path: Path) -> None:
    system = real(tmp_path)
    made = planned(system, OLD)
    (tmp_path / "etc/systemd/system/x.service").write_text("someone else's")
    with pytest.raises(PlanOutdated, match=r"x\.service has changed"):
        apply(made, system, PLACES, "install")


@pytest.mark.parametrize(
    ("record", "said"),
    [(b'{"version": 2}', "version 2 is newer"), (b'{"ver', "damaged"), (b"[]", "damaged")],
)
def test_records_that_cannot_be_read_stop_a_run(record: bytes, said: str) -> None:
    system = over_existing()
    system.put(PLACES.state, record, 0o600)
    with pytest.raises(CannotRead, match=said):
        install(system, NEW)
    assert content(system, UNIT) == b"old unit\n"


# Edits by hand.


def test_an_edit_by_hand_is_overwritten_only_when_forced() -> None:
    system = installed()
    system.put(UNIT, b"mine\n")
    with pytest.raises(HandEdited, match=str(UNIT)):
        install(system, NEW)
    assert content(system, UNIT) == b"mine\n"
    install(system, NEW, force=True)
    assert content(system, UNIT) == b"new unit\n"
    rollback(system, PLACES)
    assert content(system, UNIT) == b"mine\n"


def test_an_edit_by_hand_survives_rollback_and_uninstall_unless_forced() -> None:
    system = installed()
    install(system, NEW)
    system.put(UNIT, b"mine\n")
    before = dict(system.files)
    with pytest.raises(HandEdited, match=str(UNIT)):
        rollback(system, PLACES)
    with pytest.raises(HandEdited, match=str(UNIT)):
        uninstall(system, PLACES, service="x.service", socket="x.socket")
    assert system.files == before
    rollback(system, PLACES, force=True)
    assert content(system, UNIT) == b"old unit\n"


def test_a_file_of_someone_elses_is_overwritten_only_when_forced() -> None:
    system = over_existing()
    before = dict(system.files)
    with pytest.raises(HandEdited, match=rf"not written by optictl: {CONFIG};.* --force"):
        install(system, NEW)
    assert system.files == before
    install(system, NEW, force=True)
    assert content(system, CONFIG) == b"providers: []\n"
    rollback(system, PLACES)
    assert system.read(CONFIG) == before[CONFIG]


# Going back.


def test_rollback_goes_back_run_by_run_and_several_at_once() -> None:
    system = FakeSystem()
    for version in (b"1", b"2", b"3", b"4"):
        install(system, [Artifact(UNIT, version, unit=True)])
    done = rollback(system, PLACES)
    assert content(system, UNIT) == b"3"
    assert done.changed == (UNIT,)
    assert done.effects.daemon_reload
    rollback(system, PLACES, 2)
    assert content(system, UNIT) == b"1"
    rollback(system, PLACES)
    assert content(system, UNIT) is None
    with pytest.raises(NothingToRollBack):
        rollback(system, PLACES)


def test_going_back_further_than_is_kept_touches_nothing() -> None:
    system = over_existing()
    before = dict(system.files)
    with pytest.raises(NothingToRollBack, match="2 runs; 1 are kept"):
        rollback(system, PLACES, 2)
    assert system.files == before


def test_a_clock_that_jumps_back_does_not_change_the_order() -> None:
    system = FakeSystem()
    for version, time in ((b"1", 2e9), (b"2", 1e9), (b"3", 0.0)):
        install(system, [Artifact(UNIT, version)], clock=lambda now=time: now)
    assert [past.made_at[:4] for past in history(system, PLACES)] == ["1970", "2001", "2033"]
    rollback(system, PLACES)
    assert content(system, UNIT) == b"2"


def test_ten_runs_are_kept_and_their_numbers_go_on() -> None:
    system = FakeSystem()
    for version in range(13):
        install(system, [Artifact(UNIT, str(version).encode())])
    assert [past.number for past in history(system, PLACES)] == list(range(13, 3, -1))
    rollback(system, PLACES, 10)
    assert content(system, UNIT) == b"2"


def test_uninstall_can_be_taken_back(tmp_path: Path) -> None:
    system = real(tmp_path)
    install(system, OLD)
    before = snapshot(system)
    uninstall(system, PLACES, service="x.service", socket="x.socket")
    assert not (tmp_path / "etc/x").exists()
    assert (tmp_path / "etc/systemd/system").is_dir()
    rollback(system, PLACES)
    assert snapshot(system) == before


def test_purge_leaves_nothing(tmp_path: Path) -> None:
    system = real(tmp_path)
    (tmp_path / "var/lib").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    install(system, OLD)
    install(system, NEW)
    uninstall(system, PLACES, service="x.service", socket="x.socket", purge=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_purge_that_dies_is_finished_by_the_next() -> None:
    whole = over_existing()
    whole.fuse = DiesAt()
    uninstall(whole, PLACES, service="x.service", socket="x.socket", purge=True)
    for k in range(1, whole.fuse.steps + 1):
        system = over_existing()
        system.fuse = DiesAt(k)
        with pytest.raises(Died):
            uninstall(system, PLACES, service="x.service", socket="x.socket", purge=True)
        system.fuse = DiesAt()
        uninstall(system, PLACES, service="x.service", socket="x.socket", purge=True)
        assert set(system.files) == {CONFIG}, k
        assert system.folders == whole.folders, k


# Other systems.


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(tmp_path: Path) -> None:
    system = real(tmp_path)
    install(system, OLD)
    before = tree(tmp_path)
    dry = DryRunSystem(system)
    install(dry, NEW)
    steps = [
        (step.verb, step.path) for step in dry.steps if not step.path.is_relative_to(PLACES.folder)
    ]
    assert steps == [("write", UNIT), ("write", CONFIG), ("remove", ENV)]
    assert tree(tmp_path) == before
    dry = DryRunSystem(system)
    assert rollback(dry, PLACES).changed == (UNIT, ENV)
    assert ("remove", UNIT) in [(step.verb, step.path) for step in dry.steps]
    assert tree(tmp_path) == before


def test_a_check_for_drift_names_the_first_file_that_differs() -> None:
    system = installed()
    install(ErrorOnWriteSystem(system, PLACES.folder), OLD)
    with pytest.raises(Drifted, match=str(UNIT)):
        install(ErrorOnWriteSystem(system, PLACES.folder), NEW)


VERSIONS = st.dictionaries(
    st.sampled_from([UNIT, ENV, CONFIG]), st.sampled_from([b"a", b"b", b"c"]), max_size=3
)


@given(st.lists(st.one_of(VERSIONS, st.integers(1, 3)), max_size=12))
def test_any_runs_and_returns_keep_every_file_in_a_version_once_wanted(
    steps: list[dict[Path, bytes] | int],
) -> None:
    system = FakeSystem()
    past: list[dict[Path, bytes]] = [{}]
    for step in steps:
        if isinstance(step, int):
            if step > len(history(system, PLACES)):
                continue
            rollback(system, PLACES, step)
            del past[-step:]
        else:
            install(system, [Artifact(path, text) for path, text in step.items()])
            if step != past[-1]:
                past.append(step)
        there = {path: content(system, path) for path in (UNIT, ENV, CONFIG)}
        assert {path: text for path, text in there.items() if text is not None} == past[-1]
        known = system.read(PLACES.state)
        assert set(orjson.loads(known.content)["files"] if known else {}) == set(map(str, past[-1]))
