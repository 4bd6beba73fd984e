"""What a plan says and what it asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from optictl.artifact import Artifact
from optictl.errors import HandEdited, PlanOutdated
from optictl.plan import Effects, Plan, plan
from optictl.state import State, Written
from optictl.system import Found

UNIT = Artifact(Path("/u/x.service"), b"[Service]\nUser=x\n", unit=True)
ENV = Artifact(Path("/e/env"), b"KEY=sk-new\n", 0o600, "x", "x", sensitive=True)
SOCKET = Artifact(Path("/u/x.socket"), b"[Socket]\n", effect="rebind", unit=True)
WARMUP = Artifact(Path("/e/warmup.json"), b"{}", effect="none")
CONFIG = Artifact(Path("/e/proxy.yaml"), b"providers: []\n", effect="reload")


def found(artifact: Artifact) -> Found:
    return Found(artifact.content, artifact.mode, artifact.owner, artifact.group)


def planned(
    artifacts: list[Artifact],
    actual: dict[Path, Found] | None = None,
    written: list[Artifact] | None = None,
    *,
    force: bool = False,
) -> Plan:
    state = State({artifact.path: Written.of(artifact) for artifact in written or []})
    paths = [*(artifact.path for artifact in artifacts), *state.files]
    there = {path: (actual or {}).get(path) for path in paths}
    return plan(artifacts, there, state, service="x.service", socket="x.socket", force=force)


def test_files_that_are_as_they_shall_be_need_nothing() -> None:
    made = planned([UNIT, ENV], {UNIT.path: found(UNIT), ENV.path: found(ENV)})
    assert made.pending == ()
    assert made.summary() == "0 to add, 0 to change, 0 to remove"
    assert made.effects == Effects()
    assert [change.diff() for change in made.changes] == ["", ""]


def test_a_summary_counts_and_names_what_restarts() -> None:
    old = replace(CONFIG, content=b"providers:\n")
    gone = Artifact(Path("/e/gone"), b"")
    made = planned(
        [UNIT, ENV, CONFIG], {CONFIG.path: found(old), gone.path: found(gone)}, [CONFIG, gone]
    )
    assert made.summary() == "2 to add, 1 to change, 1 to remove; restart: x.service"
    assert [change.kind for change in made.changes] == ["add", "add", "change", "remove"]


@pytest.mark.parametrize(
    ("artifacts", "effects", "said"),
    [
        ([UNIT], Effects(daemon_reload=True, restart=True), "; restart: x.service"),
        (
            [SOCKET, CONFIG],
            Effects(daemon_reload=True, rebind=True, restart=True),
            "; restart: x.socket, x.service",
        ),
        ([ENV], Effects(restart=True), "; restart: x.service"),
        ([CONFIG], Effects(reload=True), "; reload: x.service"),
        ([CONFIG, ENV], Effects(restart=True), "; restart: x.service"),
        ([WARMUP], Effects(), "to remove"),
    ],
)
def test_only_what_a_change_asks_for_is_done(
    artifacts: list[Artifact], effects: Effects, said: str
) -> None:
    made = planned(artifacts)
    assert made.effects == effects
    assert made.summary().endswith(said)


def test_a_unit_that_goes_has_systemd_read_its_units_again() -> None:
    made = planned([], {UNIT.path: found(UNIT)}, [UNIT])
    assert made.effects == Effects(daemon_reload=True, restart=True)


def test_a_file_that_is_gone_already_needs_no_removal() -> None:
    assert planned([], {}, [UNIT]).changes == ()


# Diffs.


def test_a_diff_is_unified_and_says_the_mode() -> None:
    before = Found(b"[Service]\nUser=y\n", 0o600)
    made = planned([UNIT], {UNIT.path: before}, [UNIT])
    assert made.changes[0].diff() == (
        "/u/x.service: mode 0600 -> 0644\n"
        "--- a/u/x.service\n"
        "+++ b/u/x.service\n"
        "@@ -1,2 +1,2 @@\n"
        " [Service]\n"
        "-User=y\n"
        "+User=x\n"
    )


def test_a_new_file_and_a_removed_one_differ_from_nothing() -> None:
    gone = Artifact(Path("/e/gone"), b"1\n")
    made = planned([WARMUP], {gone.path: found(gone)}, [gone])
    assert made.changes[0].diff() == (
        "/e/warmup.json: mode 0644\n"
        "--- /dev/null\n"
        "+++ b/e/warmup.json\n"
        "@@ -0,0 +1 @@\n"
        "+{}\n"
        "\\ No newline at end of file\n"
    )
    assert made.changes[1].diff() == "--- a/e/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n"


@pytest.mark.parametrize(
    ("artifacts", "there", "written"),
    [
        ([ENV], b"KEY=sk-old\n", []),
        # No longer wanted, and no longer sensitive: it still holds the old key.
        ([], b"KEY=sk-old\n", [ENV]),
        ([replace(ENV, content=b"KEY=\n", sensitive=False)], b"KEY=sk-old\n", [ENV]),
    ],
)
def test_secrets_are_never_shown(
    artifacts: list[Artifact], there: bytes, written: list[Artifact]
) -> None:
    made = planned(artifacts, {ENV.path: Found(there, 0o600, "x", "x")}, written)
    assert "(sensitive, changed)" in made.changes[0].diff()
    assert b"sk-" not in orjson.dumps(made.as_json())


def test_a_wrong_mode_or_owner_alone_is_a_change_without_content() -> None:
    made = planned([ENV], {ENV.path: Found(ENV.content, 0o644, "root", "x")})
    assert made.changes[0].diff() == "/e/env: mode 0644 -> 0600\n/e/env: owner root -> x\n"


def test_an_owner_that_is_not_known_is_no_difference() -> None:
    assert planned([ENV], {ENV.path: Found(ENV.content, 0o600)}).pending == ()


def test_what_someone_else_wrote_is_not_shown_since_a_key_may_be_in_it() -> None:
    theirs = Found(b"[Service]\nExecStart=/opt/optillm --optillm-api-key sk-secret\n", 0o644)
    (change,) = planned([UNIT], {UNIT.path: theirs}).changes
    assert "sk-secret" not in change.diff()
    assert "--- a/u/x.service (not written by optictl)\n" in change.diff()
    assert "+User=x\n" in change.diff()


def test_what_is_no_text_is_not_shown() -> None:
    made = planned([UNIT], {UNIT.path: Found(b"\xff\xfe", 0o644)}, [UNIT])
    assert made.changes[0].diff().endswith("(binary, changed)\n")


def test_ends_of_line_of_another_kind_are_content() -> None:
    made = planned([UNIT], {UNIT.path: Found(b"[Service]\r\nUser=x\n", 0o644)}, [UNIT])
    assert "-[Service]\r\n+[Service]\n" in made.changes[0].diff()


# Edits by hand.


def test_an_edit_by_hand_is_refused_unless_forced() -> None:
    new = replace(UNIT, content=b"new\n")
    there = {UNIT.path: Found(b"mine\n", 0o644)}
    made = planned([new], there, [UNIT])
    assert made.changes[0].hand_edited
    with pytest.raises(HandEdited, match=r"/u/x\.service.*--force") as caught:
        made.refuse_hand_edits()
    assert caught.value.exit_code == 13
    planned([new], there, [UNIT], force=True).refuse_hand_edits()


def test_an_edit_of_a_file_to_be_removed_is_refused_too() -> None:
    with pytest.raises(HandEdited):
        planned([], {UNIT.path: Found(b"mine\n", 0o644)}, [UNIT]).refuse_hand_edits()


@pytest.mark.parametrize(
    "there",
    [
        # As we wrote it, removed by hand, edited into what it shall be.
        {UNIT.path: found(UNIT)},
        {},
        {UNIT.path: Found(b"new\n", 0o644)},
    ],
)
def test_what_loses_nothing_is_no_edit_by_hand(there: dict[Path, Found]) -> None:
    planned([replace(UNIT, content=b"new\n")], there, [UNIT]).refuse_hand_edits()


def test_a_file_that_was_never_ours_is_a_change() -> None:
    made = planned([UNIT], {UNIT.path: Found(b"someone's\n", 0o644)})
    assert (made.changes[0].kind, made.changes[0].hand_edited) == ("change", False)


# Saved plans.


def test_a_saved_plan_holds_while_neither_side_changes() -> None:
    there = {UNIT.path: Found(b"old\n", 0o644)}
    saved = planned([UNIT, ENV], there).as_json()["fingerprint"]
    planned([UNIT, ENV], there).require(saved)
    for other in (
        planned([UNIT, ENV], {UNIT.path: Found(b"older\n", 0o644)}),
        planned([UNIT, ENV], {UNIT.path: Found(b"old\n", 0o600)}),
        planned([UNIT, ENV], {}),
        planned([UNIT, replace(ENV, content=b"KEY=other\n")], there),
        planned([UNIT], there),
    ):
        with pytest.raises(PlanOutdated) as caught:
            other.require(saved)
        assert caught.value.exit_code == 2


def test_a_plan_is_json() -> None:
    assert planned([CONFIG]).as_json() | {"fingerprint": ""} == {
        "summary": "1 to add, 0 to change, 0 to remove; reload: x.service",
        "fingerprint": "",
        "changes": [
            {
                "kind": "add",
                "path": "/e/proxy.yaml",
                "hand_edited": False,
                "foreign": False,
                "diff": "/e/proxy.yaml: mode 0644\n--- /dev/null\n+++ b/e/proxy.yaml\n"
                "@@ -0,0 +1 @@\n+providers: []\n",
            }
        ],
        "effects": {"daemon_reload": False, "restart": [], "reload": ["x.service"]},
    }
