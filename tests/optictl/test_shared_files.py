"""Files of others with a part of ours: planned, written, taken back, and theirs all the while."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from optictl.apply import apply, observe, recover, rollback, uninstall
from optictl.artifact import Artifact
from optictl.blocks import with_block
from optictl.fake_system import Died, DiesAt, FakeSystem
from optictl.handles import row, with_handles
from optictl.plan import Effects, Plan, plan
from optictl.state import Records, State
from optictl.system import System

RECORDS = Records(Path("/var/lib/optictl"), "x")
ENV = Path("/srv/litellm/env.local")
ROUTER = Path("/srv/litellm/router.yaml")
HANDLES = Path("/srv/handles.jsonl")
THEIRS = {
    ENV: b"A=1\r\n# mine\r\nexport B=2",
    ROUTER: b"model_list:\n- model_name: a\n  litellm_params: {model: openai/a}\nx: 1\n",
    HANDLES: b'{"handle":"a"}\n',
}
ENTRY = ["- model_name: opt-x", "  litellm_params: {model: openai/opt-x}"]
NEW_ENTRY = ["- model_name: opt-y", "  litellm_params: {model: openai/opt-y}"]


def put(disk: FakeSystem) -> FakeSystem:
    for path, content in THEIRS.items():
        disk.put(path, content, 0o640)
    return disk


@pytest.fixture
def disk() -> FakeSystem:
    return put(FakeSystem())


def bytes_of(system: System, path: Path) -> bytes:
    found = system.read(path)
    assert found is not None
    return found.content


def wanted(system: System, entry: Sequence[str] = ENTRY) -> list[Artifact]:
    """What we want to stand in each file, from how it is now."""
    name = entry[0].rpartition(" ")[2]
    contents = {
        ROUTER: with_block(bytes_of(system, ROUTER), entry, ROUTER, where="router"),
        ENV: with_block(bytes_of(system, ENV), [f"NAME={name}"], ENV, where="env"),
        HANDLES: with_handles(bytes_of(system, HANDLES), [row(name)], HANDLES),
    }
    return [
        Artifact(ROUTER, contents[ROUTER], 0o640, effect="gateway", shared="router"),
        Artifact(ENV, contents[ENV], 0o640, effect="gateway", shared="env", sensitive=True),
        Artifact(HANDLES, contents[HANDLES], 0o640, effect="none", shared="handles"),
    ]


def planned(system: System, artifacts: list[Artifact]) -> Plan:
    state = State.load(system, RECORDS)
    actual = observe(system, artifacts, state)
    return plan(artifacts, actual, state, service="x.service", socket="x.socket")


def install(system: System, entry: Sequence[str] = ENTRY) -> Effects:
    return apply(planned(system, wanted(system, entry)), system, RECORDS, "ensemble").effects


def contents(system: System) -> dict[Path, bytes]:
    return {path: bytes_of(system, path) for path in THEIRS}


def test_what_others_wrote_there_is_no_hindrance_and_stays(disk: FakeSystem) -> None:
    made = planned(disk, wanted(disk))
    assert made.of_others == ()
    assert install(disk) == Effects(gateway=True)
    for path, theirs in THEIRS.items():
        assert bytes_of(disk, path).startswith(theirs[:10])
        assert b"opt-x" in bytes_of(disk, path)
        assert disk.files[path].mode == 0o640
    assert planned(disk, wanted(disk)).pending == ()


def test_uninstalled_each_file_is_as_it_was_byte_for_byte(disk: FakeSystem) -> None:
    install(disk)
    uninstall(disk, RECORDS, service="x.service", socket="x.socket")
    assert contents(disk) == THEIRS
    assert State.load(disk, RECORDS).files == {}


def test_rolled_back_each_file_is_as_it_was_byte_for_byte(disk: FakeSystem) -> None:
    install(disk)
    rollback(disk, RECORDS)
    assert contents(disk) == THEIRS


def test_what_others_write_meanwhile_survives_a_rollback(disk: FakeSystem) -> None:
    install(disk)
    install(disk, NEW_ENTRY)
    disk.put(HANDLES, bytes_of(disk, HANDLES) + b'{"handle":"b"}\n', 0o640)
    disk.put(ROUTER, bytes_of(disk, ROUTER).replace(b"x: 1", b"x: 2"), 0o640)
    disk.put(ENV, b"C=3\n" + bytes_of(disk, ENV), 0o640)
    rollback(disk, RECORDS)
    for path, edit in ((HANDLES, b'"b"'), (ROUTER, b"x: 2"), (ENV, b"C=3")):
        assert edit in bytes_of(disk, path)
        assert b"opt-x" in bytes_of(disk, path)
        assert b"opt-y" not in bytes_of(disk, path)


def test_and_an_uninstallation(disk: FakeSystem) -> None:
    install(disk)
    disk.put(ENV, bytes_of(disk, ENV).replace(b"A=1", b"A=9"), 0o640)
    uninstall(disk, RECORDS, service="x.service", socket="x.socket")
    assert contents(disk) == {**THEIRS, ENV: THEIRS[ENV].replace(b"A=1", b"A=9")}


def test_dead_at_any_step_each_file_is_whole_and_the_next_run_goes_on(disk: FakeSystem) -> None:
    whole = put(FakeSystem())
    install(whole)
    steps, new = whole.fuse.steps, contents(whole)
    for k in range(1, steps + 1):
        disk = put(FakeSystem(fuse=DiesAt(k)))
        with pytest.raises(Died):
            install(disk)
        disk.fuse, disk.held = DiesAt(), set()
        for path, content in contents(disk).items():
            assert content in (THEIRS[path], new[path]), k
        recover(disk, RECORDS)
        # All old; or all new, where it died after its end.
        assert contents(disk) in (dict(THEIRS), new), k
        install(disk)
        assert contents(disk) == new, k
