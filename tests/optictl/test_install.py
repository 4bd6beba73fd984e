"""Installing: files and systemd together, or nothing of both; whatever it dies of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_manager import FakeManager

from optictl.adopting import adopt_files
from optictl.errors import HandEdited, RolledBack, UnitFailed
from optictl.fake_system import Died, DiesAt, FakeSystem
from optictl.install import Done, Proposal, install_site, remove, roll_back
from optictl.installing import would
from optictl.machine import Machine
from optictl.plan import Effects
from optictl.site_loading import load
from optictl.systemd import Unit

UNITS = Path("/etc/systemd/system")
SERVICE = UNITS / "optillm-proxy.service"
SOCKET = UNITS / "optillm-proxy.socket"
ENV = Path("/etc/optillm-proxy/env")
CONFIG = Path("/etc/optillm-proxy/proxy_config.yaml")
NAMES = ("optillm-proxy.socket", "optillm-proxy.service")
FROM_NOTHING = [
    ("daemon_reload",),
    ("enable", *NAMES),
    ("start", "optillm-proxy.socket"),
    ("start", "optillm-proxy.service"),
]


class Manager(FakeManager):
    """Knows the units of a disk in memory; dies with it."""

    def __init__(self, disk: FakeSystem, *units: Unit, fuse: DiesAt | None = None) -> None:
        super().__init__(*units)
        self.disk = disk
        self.fuse = fuse or DiesAt()

    def daemon_reload(self) -> None:
        super().daemon_reload()
        there = {path.name for path in self.disk.files if path.parent == UNITS}
        for name in there:
            if not self.show(name).known:
                self.units[name] = Unit(name, load="loaded", file_state="disabled")
        for name in set(self.units) - there:
            del self.units[name]

    def _called(self, verb: str, *units: str) -> None:
        self.fuse.step()
        super()._called(verb, *units)
        self.fuse.step()


@dataclass
class Bench:
    """A machine in memory with a site that can be changed."""

    folder: Path
    disk: FakeSystem = field(default_factory=FakeSystem)
    manager: Manager = field(init=False)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager = Manager(self.disk)
        (self.folder / "optictl.yaml").write_text("proxy: {base_model: qwen3}\n")

    def machine(self, *sets: str) -> Machine:
        user = "service.user=root"
        loaded = load(self.folder / "optictl.yaml", {}, (user, *sets))
        return Machine(loaded, self.disk, self.manager, systemd=252)

    def install(self, *sets: str, force: bool = False) -> Done:
        self.manager.calls.clear()
        return install_site(
            self.machine(*sets), agree=lambda _: None, tell=self.told.append, force=force
        )

    def contents(self) -> dict[Path, bytes]:
        """Files by path, without our own records."""
        return {
            path: found.content
            for path, found in self.disk.files.items()
            if not path.is_relative_to("/var/lib/optictl")
        }

    def running(self) -> bool:
        return all(self.manager.show(name).running for name in NAMES)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_from_nothing_the_service_comes_up_and_is_enabled(bench: Bench) -> None:
    done = bench.install()
    assert bench.manager.changes == FROM_NOTHING
    assert done.applied.checkpoint == 1
    assert not done.already
    assert {SERVICE, SOCKET, ENV, CONFIG} < set(bench.contents())


def test_the_second_time_nothing_is_written_and_systemd_is_asked_for_nothing(bench: Bench) -> None:
    bench.install()
    before = dict(bench.disk.files)
    steps = bench.disk.fuse.steps
    done = bench.install()
    assert done.already
    assert bench.manager.changes == []
    assert bench.disk.files == before
    assert bench.disk.fuse.steps == steps


def test_a_changed_unit_restarts_the_service_and_leaves_the_socket_alone(bench: Bench) -> None:
    bench.install()
    bench.install("proxy.workers=2")
    assert bench.manager.changes == [("daemon_reload",), ("restart", "optillm-proxy.service")]


def test_a_changed_port_stops_the_service_before_its_socket_listens_anew(bench: Bench) -> None:
    bench.install()
    bench.install("proxy.port=4021")
    assert bench.manager.changes == [
        ("daemon_reload",),
        ("stop", "optillm-proxy.service"),
        ("restart", "optillm-proxy.socket"),
        ("start", "optillm-proxy.service"),
    ]


def test_a_changed_list_of_providers_is_only_reloaded(bench: Bench) -> None:
    bench.install()
    bench.disk.put(CONFIG, b"providers: []\n")
    bench.install(force=True)
    assert bench.manager.changes == [("reload", "optillm-proxy.service")]


def test_a_service_that_was_stopped_is_started(bench: Bench) -> None:
    bench.install()
    bench.manager.stop("optillm-proxy.service")
    done = bench.install()
    assert bench.manager.changes == [("start", "optillm-proxy.service")]
    assert not done.already


def test_a_failed_service_is_forgiven_before_it_is_started(bench: Bench) -> None:
    bench.install()
    bench.manager.fails = {"restart"}
    with pytest.raises(UnitFailed):
        bench.manager.restart("optillm-proxy.service")
    bench.manager.fails.clear()
    bench.install()
    assert [call[0] for call in bench.manager.changes] == ["reset_failed", "start"]


def test_a_first_installation_that_does_not_warm_up_leaves_nothing(bench: Bench) -> None:
    bench.manager.fails = {"start"}
    with pytest.raises(RolledBack, match="all files are as they were") as failed:
        bench.install()
    assert failed.value.exit_code == 14
    assert bench.contents() == {}
    assert bench.manager.units == {}
    assert ("disable", *reversed(NAMES)) in bench.manager.changes


def test_a_change_that_does_not_warm_up_brings_the_old_files_and_the_old_service_back(
    bench: Bench,
) -> None:
    bench.install()
    before = bench.contents()
    bench.manager.fails = {"restart"}
    with pytest.raises(RolledBack, match="the old service serves"):
        bench.install("proxy.workers=2", "upstream.base_url=http://127.0.0.1:4001/v1")
    assert bench.contents() == before
    assert bench.running()
    bench.manager.fails.clear()
    assert bench.install().already


def test_where_the_old_one_fails_too_both_failures_are_told(bench: Bench) -> None:
    bench.install()
    bench.manager.fails = {"restart", "start"}
    with pytest.raises(RolledBack, match="does not come up either"):
        bench.install("proxy.workers=2")
    assert b"--workers 1" in bench.contents()[SERVICE]


def test_a_start_that_fails_without_new_files_is_no_reason_to_roll_back(bench: Bench) -> None:
    bench.install()
    before = bench.contents()
    bench.manager.stop("optillm-proxy.service")
    bench.manager.fails = {"start"}
    with pytest.raises(UnitFailed):
        bench.install()
    assert bench.contents() == before


def test_control_c_while_it_starts_puts_all_back(bench: Bench) -> None:
    bench.install()
    before = bench.contents()

    def interrupted(*units: str) -> None:
        raise KeyboardInterrupt

    restart = bench.manager.restart
    bench.manager.restart = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.install("proxy.workers=2")
    bench.manager.restart = restart  # type: ignore[method-assign]
    assert bench.contents() == before
    assert bench.running()


def test_what_nobody_agreed_to_is_not_done(bench: Bench) -> None:
    def no(proposal: Proposal) -> None:
        raise LookupError(proposal.summary)

    with pytest.raises(LookupError, match="5 to add"):
        install_site(bench.machine(), agree=no, tell=bench.told.append)
    assert bench.contents() == {}
    assert bench.manager.changes == []


def test_a_dry_run_says_every_step_and_does_none(bench: Bench) -> None:
    machine = would(bench.machine())
    install_site(machine, agree=lambda _: None, tell=bench.told.append)
    assert bench.told == [
        "have systemd read its units again",
        f"enable {', '.join(NAMES)}",
        "start optillm-proxy.socket",
        "start optillm-proxy.service, and wait for its warmup",
    ]
    assert bench.disk.files == {}
    assert bench.manager.changes == []


class TestWhatWasThereBefore:
    """A service that someone has written by hand."""

    @pytest.fixture
    def handwritten(self, bench: Bench) -> Bench:
        bench.disk.put(SERVICE, b"[Service]\nExecStart=/opt/optillm\n")
        by_hand = Unit(SERVICE.name, load="loaded", active="active", file_state="enabled")
        bench.manager.units[SERVICE.name] = by_hand
        return bench

    def test_it_is_not_overwritten(self, handwritten: Bench) -> None:
        with pytest.raises(HandEdited, match=r"not written by optictl: .*optillm-proxy\.service"):
            handwritten.install()
        assert handwritten.manager.changes == []
        assert set(handwritten.contents()) == {SERVICE}

    def test_forced_it_gives_way_to_the_socket(self, handwritten: Bench) -> None:
        handwritten.install(force=True)
        assert handwritten.manager.changes == [
            ("daemon_reload",),
            ("enable", "optillm-proxy.socket"),
            ("stop", "optillm-proxy.service"),
            ("start", "optillm-proxy.socket"),
            ("start", "optillm-proxy.service"),
        ]

    def test_rolled_back_it_runs_as_before(self, handwritten: Bench) -> None:
        handwritten.install(force=True)
        handwritten.manager.calls.clear()
        roll_back(handwritten.machine(), 1, tell=handwritten.told.append)
        assert handwritten.contents() == {SERVICE: b"[Service]\nExecStart=/opt/optillm\n"}
        assert handwritten.manager.changes == [
            ("stop", "optillm-proxy.service"),
            ("stop", "optillm-proxy.socket"),
            ("disable", "optillm-proxy.socket"),
            ("daemon_reload",),
            ("reset_failed", *NAMES),
            ("start", "optillm-proxy.service"),
        ]

    def test_where_ours_does_not_come_up_it_comes_back(self, handwritten: Bench) -> None:
        start = handwritten.manager.start

        def only_theirs(*units: str) -> None:
            if units == (SERVICE.name,) and SOCKET in handwritten.disk.files:
                raise UnitFailed("no warmup")
            start(*units)

        handwritten.manager.start = only_theirs  # type: ignore[method-assign]
        with pytest.raises(RolledBack, match="the old service serves"):
            handwritten.install(force=True)
        assert handwritten.contents() == {SERVICE: b"[Service]\nExecStart=/opt/optillm\n"}
        assert handwritten.manager.show(SERVICE.name).running
        assert handwritten.manager.show(SERVICE.name).enabled


class TestRollback:
    def test_the_files_and_the_service_before(self, bench: Bench) -> None:
        bench.install()
        before = bench.contents()
        bench.install("proxy.workers=2")
        bench.manager.calls.clear()
        roll_back(bench.machine(), 1, tell=bench.told.append)
        assert bench.contents() == before
        assert ("restart", "optillm-proxy.service") in bench.manager.changes
        assert bench.install().already

    def test_of_the_first_installation_nothing_is_left(self, bench: Bench) -> None:
        bench.install()
        roll_back(bench.machine(), 1, tell=bench.told.append)
        assert bench.contents() == {}
        assert bench.manager.units == {}

    def test_a_service_that_was_stopped_stays_so(self, bench: Bench) -> None:
        bench.install()
        bench.install("proxy.workers=2")
        bench.manager.stop("optillm-proxy.service")
        bench.manager.calls.clear()
        roll_back(bench.machine(), 1, tell=bench.told.append)
        assert {call[0] for call in bench.manager.changes} == {"daemon_reload", "reset_failed"}

    def test_what_was_edited_since_stops_it_before_anything_is_stopped(self, bench: Bench) -> None:
        bench.install()
        bench.disk.put(SERVICE, b"mine\n")
        bench.manager.calls.clear()
        with pytest.raises(HandEdited):
            roll_back(bench.machine(), 1, tell=bench.told.append)
        assert bench.manager.changes == []


class TestUninstall:
    def test_what_was_adopted_and_never_replaced_is_not_ours_to_remove(self, bench: Bench) -> None:
        by_hand = b"[Service]\nExecStart=/opt/optillm\n"
        bench.disk.put(SERVICE, by_hand)
        adopt_files(bench.machine(), [])
        theirs = Unit(SERVICE.name, load="loaded", active="active", file_state="enabled")
        bench.manager.units[SERVICE.name] = theirs
        done = remove(bench.machine(), purge=True, tell=bench.told.append)
        assert bench.contents() == {SERVICE: by_hand}
        assert done.already
        assert bench.manager.changes == []

    def test_what_was_adopted_and_then_edited_can_be_adopted_again(self, bench: Bench) -> None:
        bench.disk.put(SERVICE, b"[Service]\nExecStart=/opt/optillm\n")
        adopt_files(bench.machine(), [])
        assert adopt_files(bench.machine(), []).already == (SERVICE,)
        bench.disk.put(SERVICE, b"[Service]\nExecStart=/srv/optillm\n")
        assert adopt_files(bench.machine(), []).files == (SERVICE,)
        bench.install()

    def test_what_was_adopted_and_replaced_is(self, bench: Bench) -> None:
        bench.disk.put(SERVICE, b"[Service]\nExecStart=/opt/optillm\n")
        adopt_files(bench.machine(), [])
        bench.install()
        remove(bench.machine(), purge=False, tell=bench.told.append)
        assert bench.contents() == {}

    def test_it_leaves_the_site_and_the_way_back(self, bench: Bench) -> None:
        bench.install()
        before = bench.contents()
        bench.manager.calls.clear()
        done = remove(bench.machine(), purge=False, tell=bench.told.append)
        assert bench.manager.changes == [
            ("stop", "optillm-proxy.service"),
            ("stop", "optillm-proxy.socket"),
            ("disable", "optillm-proxy.service", "optillm-proxy.socket"),
            ("daemon_reload",),
            ("reset_failed", "optillm-proxy.socket", "optillm-proxy.service"),
        ]
        assert not done.already
        assert bench.contents() == {}
        roll_back(bench.machine(), 1, tell=bench.told.append)
        assert bench.contents() == before

    def test_purged_nothing_at_all_is_left(self, bench: Bench) -> None:
        bench.disk.make_folder(Path("/var/lib/optillm-proxy/deep"))
        bench.disk.put(Path("/var/lib/optillm-proxy/deep/log"), b"x")
        bench.install()
        remove(bench.machine(), purge=True, tell=bench.told.append)
        assert bench.disk.files.keys() <= {Path("/var/lib/optictl/optillm-proxy/lock")}
        assert Path("/etc/optillm-proxy") not in bench.disk.folders
        assert Path("/var/lib/optillm-proxy") not in bench.disk.folders

    def test_what_others_have_put_beside_it_is_left_and_named(self, bench: Bench) -> None:
        bench.install()
        bench.disk.put(Path("/etc/optillm-proxy/clients.key"), b"sk-1\n", 0o600)
        done = remove(bench.machine(), purge=True, tell=bench.told.append)
        assert done.left == (Path("/etc/optillm-proxy/clients.key"),)

    def test_twice_is_once(self, bench: Bench) -> None:
        bench.install()
        remove(bench.machine(), purge=False, tell=bench.told.append)
        assert remove(bench.machine(), purge=False, tell=bench.told.append).already

    def test_an_edited_file_stops_it_before_the_service_is_stopped(self, bench: Bench) -> None:
        bench.install()
        bench.disk.put(SERVICE, b"mine\n")
        bench.manager.calls.clear()
        with pytest.raises(HandEdited):
            remove(bench.machine(), purge=False, tell=bench.told.append)
        assert bench.manager.changes == []
        assert bench.running()


Work = Callable[[Bench], object]
WORKS: dict[str, Work] = {
    "a first installation": lambda bench: bench.install(),
    "a change": lambda bench: bench.install("proxy.workers=2", "proxy.port=4021"),
}


@pytest.mark.parametrize("work", WORKS.values(), ids=list(WORKS))
def test_killed_at_any_step_the_next_run_brings_the_machine_to_what_is_declared(
    work: Work, tmp_path: Path
) -> None:
    """Every write, fsync, rename and every word to systemd; before it and after it."""

    def begun(fuse: DiesAt) -> Bench:
        bench = Bench(tmp_path)
        if work is WORKS["a change"]:
            bench.install()
        bench.disk.fuse = bench.manager.fuse = fuse
        return bench

    whole = begun(DiesAt())
    work(whole)
    assert whole.disk.fuse.steps > 40
    for k in range(1, whole.disk.fuse.steps + 1):
        bench = begun(DiesAt(k))
        with pytest.raises(Died):
            work(bench)
        bench.disk.fuse = bench.manager.fuse = DiesAt()
        bench.disk.held.clear()
        work(bench)
        assert bench.contents() == whole.contents(), k
        assert bench.running(), k
        assert all(bench.manager.show(name).enabled for name in NAMES), k
        steps = bench.disk.fuse.steps
        work(bench)
        assert bench.manager.changes == [], k
        assert bench.disk.fuse.steps == steps, k


def test_a_run_that_died_before_systemd_was_told_is_made_up_for(bench: Bench) -> None:
    bench.install()

    def dies(*units: str) -> None:
        raise Died

    restart = bench.manager.restart
    bench.manager.restart = dies  # type: ignore[method-assign]
    with pytest.raises(Died):
        bench.install("proxy.workers=2")
    bench.manager.restart = restart  # type: ignore[method-assign]
    bench.disk.held.clear()
    done = bench.install("proxy.workers=2")
    assert done.applied.effects == Effects()
    assert ("start", "optillm-proxy.service") in bench.manager.changes
