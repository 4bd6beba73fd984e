"""Our entries in router.yaml or in a file that it includes: moved, taken out, killed on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from optictl.apply import apply, observe, recover, rollback, uninstall
from optictl.errors import HandEdited
from optictl.fake_system import Died, DiesAt, FakeSystem
from optictl.gateway_config import Config, read_config
from optictl.plan import Plan, plan
from optictl.site import Site
from optictl.state import Records, State
from optictl.wiring import parts, wired
from proxy.ensembles import Ensemble, Member, Team
from proxy.errors import ConfigError
from proxy.settings import Limits

RECORDS = Records(Path("/var/lib/optictl"), "x")
FOLDER = Path("/srv/litellm")
ROUTER, ENV, OURS = FOLDER / "router.yaml", FOLDER / "env.local", FOLDER / "optictl_models.yaml"
A, B = "opt-code-fast-s", "opt-chat-balanced-m"
MODELS = b"model_list:\n- model_name: a\n  litellm_params: {model: openai/a}"
#: Their router.yaml: with no list of files, with one, and with one that has our file in it.
PLAIN = MODELS
LISTS = b"include:\r\n    - more.yaml # theirs\r\n" + MODELS.replace(b"\n", b"\r\n")
NAMES_OURS = b"include:\n- ./optictl_models.yaml\n" + MODELS
ROUTERS = pytest.mark.parametrize(
    "router", [PLAIN, LISTS, NAMES_OURS], ids=["plain", "lists", "names ours"]
)


def site(mode: str) -> Site:
    gateway = {"router": str(ROUTER), "env_file": str(ENV), "mode": mode}
    return Site.model_validate({"proxy": {"base_model": "b"}, "gateway": gateway})


def ensemble(name: str) -> Ensemble:
    return Ensemble(name, "moa", Team((Member("a"), Member("b")), 2), limits=Limits())


class World:
    """LiteLLM's folder, on a disk in memory."""

    def __init__(self, router: bytes = PLAIN) -> None:
        self.disk = FakeSystem()
        self.disk.put(ROUTER, router, 0o640)
        self.disk.put(ENV, b"A=1", 0o640)
        self.disk.put(FOLDER / "more.yaml", b"model_list: [{model_name: m, litellm_params: {}}]")
        self.disk.files[ROUTER] = replace(self.disk.files[ROUTER], owner="litellm", group="ai")

    def copy(self, fuse: DiesAt) -> World:
        made = World()
        made.disk = replace(
            self.disk, files=dict(self.disk.files), folders=dict(self.disk.folders), fuse=fuse
        )
        made.disk.held = set()
        return made

    def planned(self, mode: str, *names: str) -> Plan:
        on = [ensemble(name) for name in names]
        made = list(parts(self.disk, site(mode), on, url="http://127.0.0.1:4020/v1", key=None))
        state = State.load(self.disk, RECORDS)
        actual = observe(self.disk, made, state)
        return plan(made, actual, state, service="x.service", socket="x.socket")

    def install(self, mode: str, *names: str) -> None:
        apply(self.planned(mode, *names), self.disk, RECORDS, "ensemble")

    def move(self, mode: str) -> None:
        """As ``optictl install`` does with another ``gateway.mode``."""
        self.install(mode, *wired(self.disk, site(mode)))

    def uninstall(self) -> None:
        uninstall(self.disk, RECORDS, service="x.service", socket="x.socket")

    def files(self) -> dict[str, bytes]:
        there = (path for path in self.disk.files if path.parent == FOLDER)
        return {path.name: self.disk.files[path].content for path in there}

    def read(self) -> Config:
        """As LiteLLM does that starts now: a file that is included has to be there."""

        def content(path: Path) -> bytes | None:
            found = self.disk.read(path)
            return None if found is None else found.content

        return read_config(ROUTER, content, {})

    def handles(self) -> list[str]:
        """What LiteLLM has of us."""
        return [each.name for each in self.read().entries if each.name.startswith("opt-")]


@ROUTERS
def test_on_they_stand_in_a_file_of_ours_and_off_all_is_as_it_was(router: bytes) -> None:
    world = World(router)
    before = world.files()
    world.install("include", A, B)
    assert world.handles() == [A, B]
    assert wired(world.disk, site("include")) == (A, B)
    assert b"model_name: opt" not in world.files()["router.yaml"]
    assert world.planned("include", A, B).pending == ()
    found = world.disk.read(OURS)
    assert found is not None
    assert (found.mode, found.owner, found.group) == (0o640, "litellm", "ai")
    world.install("include", A)
    assert world.handles() == [A]
    world.install("include")
    assert world.handles() == []
    left = world.files()
    assert (left.pop("optictl_models.yaml", None) is not None) == (router == NAMES_OURS)
    assert left == before


def test_a_change_of_our_file_asks_for_a_restart_of_litellm() -> None:
    world = World()
    world.install("include", A)
    changes = {change.path: change for change in world.planned("include", A, B).pending}
    assert ROUTER not in changes
    assert changes[OURS].asks_for == (False, "gateway")


def test_a_line_of_theirs_for_our_file_is_all_that_it_takes() -> None:
    world = World(NAMES_OURS)
    world.install("include", A)
    assert world.files()["router.yaml"] == NAMES_OURS


@ROUTERS
def test_in_another_mode_they_move_and_are_never_twice_there(router: bytes) -> None:
    world = World(router)
    before = world.files()
    world.install("block", A, B) if router != NAMES_OURS else world.install("include", A, B)
    for mode in ("include", "block", "include", "block"):
        world.move(mode)
        assert world.handles() == [A, B]
        assert (b"opt-" in world.files().get("optictl_models.yaml", b"")) == (mode == "include")
        assert wired(world.disk, site(mode)) == (A, B)
    world.install("block")
    left = world.files()
    left.pop("optictl_models.yaml", None)
    assert left == before


@ROUTERS
@pytest.mark.parametrize("back", [lambda w: rollback(w.disk, RECORDS), World.uninstall])
def test_taken_back_litellm_starts_and_has_nothing_of_us(
    router: bytes, back: Callable[[World], object]
) -> None:
    world = World(router)
    before = world.files()
    world.install("include", A)
    back(world)
    assert world.handles() == []
    left = world.files()
    assert (left.pop("optictl_models.yaml", None) is not None) == (router == NAMES_OURS)
    assert left == before


def test_a_rollback_moves_them_back_also_where_others_have_written_since() -> None:
    world = World()
    world.install("block", A)
    world.move("include")
    edited = world.files()["router.yaml"] + b"general_settings: {}\n"
    world.disk.put(ROUTER, edited, 0o640)
    rollback(world.disk, RECORDS)
    assert world.handles() == [A]
    assert OURS not in world.disk.files
    assert "general_settings" in world.read().documents[0]


Work = Callable[[World], object]
WORKS: dict[str, tuple[Work, Work]] = {
    "on": (lambda w: None, lambda w: w.install("include", A)),
    "one more": (lambda w: w.install("include", A), lambda w: w.install("include", A, B)),
    "off": (lambda w: w.install("include", A), lambda w: w.install("include")),
    "to include": (lambda w: w.install("block", A), lambda w: w.move("include")),
    "to block": (lambda w: w.install("include", A), lambda w: w.move("block")),
    "uninstall": (lambda w: w.install("include", A), World.uninstall),
}


@ROUTERS
@pytest.mark.parametrize(("prepare", "work"), WORKS.values(), ids=list(WORKS))
def test_killed_at_any_step_litellm_starts_and_the_next_run_goes_on(
    router: bytes, prepare: Work, work: Work
) -> None:
    start = World(router)
    if router == NAMES_OURS:
        # From here on the file is there, if empty: before, LiteLLM does not start.
        start.install("include", A)
        start.install("include")
    prepare(start)
    before = start.files()
    whole = start.copy(DiesAt())
    work(whole)
    for k in range(1, whole.disk.fuse.steps + 1):
        world = start.copy(DiesAt(k))
        with pytest.raises(Died):
            work(world)
        world.disk.fuse, world.disk.held = DiesAt(), set()
        assert "a" in {each.name for each in world.read().entries}, k
        recover(world.disk, RECORDS)
        assert world.files() in (before, whole.files()), k
        work(world)
        assert world.files() == whole.files(), k


@pytest.mark.parametrize("router", [PLAIN, LISTS], ids=["plain", "lists"])
def test_and_so_it_does_where_a_rollback_was_killed(router: bytes) -> None:
    start = World(router)
    before = start.files()
    start.install("include", A)
    whole = start.copy(DiesAt())
    rollback(whole.disk, RECORDS)
    for k in range(1, whole.disk.fuse.steps + 1):
        world = start.copy(DiesAt(k))
        with pytest.raises(Died):
            rollback(world.disk, RECORDS)
        world.disk.fuse, world.disk.held = DiesAt(), set()
        world.read()
        recover(world.disk, RECORDS)
        if world.files() != before:  # it died before its first step
            rollback(world.disk, RECORDS)
        assert world.files() == before, k


def test_our_file_as_somebody_has_changed_it_is_not_overwritten() -> None:
    world = World()
    world.install("include", A)
    world.disk.put(OURS, world.files()[OURS.name] + b"# mine\n", 0o640)
    with pytest.raises(HandEdited, match="changed since optictl last wrote it"):
        world.install("include", A, B)


@pytest.mark.parametrize(
    ("path", "broken", "place"),
    [
        (OURS, b"model_list:\n- model_name: 'open\n", f"{OURS}:3:1: "),
        (OURS, b"- a\n", f"{OURS}:1: "),
        (
            ROUTER,
            b"# BEGIN OPTICTL AUTO\nmodel_list: ['open\n# END OPTICTL AUTO\n",
            f"{ROUTER}:4:1: ",
        ),
    ],
)
def test_entries_that_are_no_yaml_are_refused_with_their_place(
    path: Path, broken: bytes, place: str
) -> None:
    world = World()
    world.disk.put(path, broken)
    with pytest.raises(ConfigError) as refused:
        wired(world.disk, site("include"))
    assert str(refused.value).startswith(place)
