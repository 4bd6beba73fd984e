"""An ensemble switched on and off in a real LiteLLM, before and behind the real service."""

from __future__ import annotations

import pytest
from wired_world import NAME, World, world

from optictl.box import Box
from optictl.checking import chosen, discover, run_checks
from optictl.ensembling import prove
from optictl.errors import RolledBack
from proxy.errors import ConfigError

__all__ = ["world"]  # a fixture, used by name
pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("mode", ["block", "include"])
def test_on_it_answers_with_its_members_and_off_all_is_as_it_was(world: World, mode: str) -> None:
    if mode == "include":
        world.include()
    before = world.files()
    assert world.state() == "declared"
    world.switch()
    assert world.models.exists() == (mode == "include")
    with Box(world.machine.anew()) as box:
        [ensemble] = world.machine.anew().ensembles
        assert world.state() == "installed"
        tried = prove(box, ensemble, world.told.append)
        assert world.state() == "warm"
        [checked] = run_checks(chosen(discover(), ["members"]), box)
        assert checked.finding.status == "ok", checked.finding
    assert set(tried.members) == {member.model for member in ensemble.team.members}
    world.sim.log.clear()
    answer = world.ask(NAME)
    assert answer.status_code == 200, answer.text
    assert {record.model for record in world.sim.log.records} == set(tried.members)
    assert world.ask("mlx-large").status_code == 200
    ours = [NAME, NAME.replace("-", "_").upper(), "- optictl_models.yaml"]
    for theirs, now in zip(before, world.files(), strict=True):
        assert now.startswith(theirs[:20])
        assert any(each.encode() in now for each in ours)

    again = world.files()
    assert world.switch().already
    assert world.files() == again

    # With the handle itself as one of its members, it would come back for ever.
    site = world.folder / "optictl.yaml"
    site.write_text(site.read_text().replace("large: mlx-large", f"large: {NAME}"))
    world.machine = world.declared()
    with pytest.raises(ConfigError):
        world.switch()
    assert world.files() == again

    site.write_text(site.read_text().replace(f"large: {NAME}", "large: mlx-large"))
    world.machine = world.declared()
    world.switch(off=True)
    assert world.files() == before
    assert world.state() == "declared"
    assert not world.models.exists()
    assert world.ask("mlx-large").status_code == 200
    assert world.ask(NAME).status_code >= 400


@pytest.mark.parametrize("line", [None, b"include:\n- ./optictl_models.yaml\n"])
def test_a_litellm_that_does_not_come_back_gets_its_files_back(
    world: World, line: bytes | None
) -> None:
    if line is not None:
        world.include(line)
    before = world.files()
    world.comes_back = False
    with pytest.raises(RolledBack, match="has not come back"):
        world.switch()
    assert world.files() == before
    assert world.ask("mlx-large").status_code == 200
