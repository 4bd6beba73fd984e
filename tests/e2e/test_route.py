"""Base handles sent through the service by a real LiteLLM, and the service past them."""

from __future__ import annotations

import pytest
from wired_world import MEMBERS, World, world

from optictl.box import Box
from optictl.checking import chosen, discover, run_checks
from optictl.routing_site import standing
from proxy.errors import ConfigError

__all__ = ["world"]  # a fixture, used by name
pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(300)]


def reading_variables(world: World, *, more: str = "", prefix: str = "router-") -> None:
    """The base handles as another tool writes them: every value in a variable."""
    router, variables = world.router.read_text(), world.env.read_text()
    for name in MEMBERS:
        stem = name.upper().replace("-", "_")
        router = router.replace(
            f"{{model: openai/{name}, api_base: {world.sim.url}, api_key: none}}",
            f"{{model: os.environ/{stem}_MODEL, api_base: os.environ/{stem}_API_BASE, "
            f"api_key: os.environ/{stem}_API_KEY}}",
        )
        variables += (
            f"\n{stem}_MODEL=openai/{name}\n{stem}_API_BASE={world.sim.url}\n{stem}_API_KEY=none"
        )
    world.router.write_text(router.replace("model_list:\n", f"model_list:\n{more}"))
    world.env.write_text(variables)
    site = world.folder / "optictl.yaml"
    site.write_text(f"{site.read_text()}routing: {{prefix: {prefix}}}\n")
    world.machine = world.declared()


@pytest.mark.parametrize(
    ("mode", "prefix"), [("block", "self_consistency-"), ("include", "router-")]
)
def test_a_handle_goes_through_us_and_we_go_past_it(world: World, mode: str, prefix: str) -> None:
    theirs = (
        "  - model_name: router-mlx-small\n    litellm_params:\n"
        f"      {{model: openai/theirs, api_base: {world.sim.url}, api_key: none}}\n"
    )
    reading_variables(world, more=theirs, prefix=prefix)
    if mode == "include":
        world.include()
    before = world.files()
    world.route()
    assert standing(world.machine.anew()).on

    world.sim.log.clear()
    answer = world.ask("mlx-large")
    assert answer.status_code == 200, answer.text
    # The approach has run, and every call of it came straight to the backend.
    called = [record.model for record in world.sim.log.records]
    assert len(called) >= 3
    assert set(called) == {"mlx-large"}

    world.sim.log.clear()
    assert world.ask("mlx-small").status_code == 200
    assert {record.model for record in world.sim.log.records} == {"theirs"}

    with Box(world.machine.anew()) as box:
        [checked] = run_checks(chosen(discover(), ["routing"]), box)
    assert checked.finding.status in ("ok", "warn"), checked.finding
    assert world.route().already

    if mode == "block":
        # An ensemble of the same models beside it.
        world.start_anew()
        world.switch()
        world.sim.log.clear()
        assert world.ask("opt-chat-balanced-m").status_code == 200
        assert {record.model for record in world.sim.log.records} == {
            "mlx-large", "mlx-medium", "theirs",
        }  # fmt: skip
        world.switch(off=True)

    world.start_anew()
    world.route(off=True)
    assert world.files() == before
    world.sim.log.clear()
    assert world.ask("mlx-large").status_code == 200
    assert [record.model for record in world.sim.log.records] == ["mlx-large"]


def test_an_internal_entry_that_leads_back_is_never_written(world: World) -> None:
    theirs = (
        "  - model_name: router-mlx-small\n    litellm_params:\n"
        f"      {{model: openai/moa-mlx-small, api_base: 'http://localhost:{world.port}/v1'}}\n"
    )
    reading_variables(world, more=theirs)
    before = world.files()
    with pytest.raises(ConfigError, match="router-mlx-small leads back to the proxy"):
        world.route()
    assert world.files() == before
