"""What ``optictl ensemble`` refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from litellm_world import ENV, HANDLES, NAME, ROUTER, SITE, THEIRS, World, staged, world
from typer.testing import CliRunner

from optictl.cli import build
from optictl.errors import OptictlError
from proxy.errors import ConfigError

__all__ = ["world"]  # a fixture, used by name

VARIABLE = "OPTILLM_OPT_CHAT_BALANCED_M"


def refused(world: World, said: type[OptictlError] | type[ConfigError], match: str) -> None:
    """Switching it on is refused before anything is touched."""
    before, litellm, restarts = dict(world.disk.files), world.litellm, world.restarts
    world.manager.calls.clear()
    with pytest.raises(said, match=match):
        world.switch()
    assert world.disk.files == before
    assert (world.litellm, world.restarts) == (litellm, restarts)
    assert world.manager.changes == []


class TestRefused:
    """Before anything is written."""

    def test_half_of_a_router_is_refused_with_the_place_where_it_ends(self, world: World) -> None:
        world.put(ROUTER, THEIRS[ROUTER][:118])
        refused(world, ConfigError, rf"^{ROUTER}:\d+:\d+: not YAML")

    def test_broken_markers_are_refused_with_their_line(self, world: World) -> None:
        world.switch()
        on = world.disk.files[ROUTER].content
        world.put(ROUTER, on.replace(b"# END OPTICTL AUTO", b"# END OPTICTL"))
        refused(world, ConfigError, rf"^{ROUTER}:10: '# BEGIN OPTICTL AUTO' has no '# END")
        world.put(ROUTER, on + on[on.index(b"  # BEGIN OPTICTL") :])
        refused(world, ConfigError, rf"^{ROUTER}:\d+: a second block of ours")
        world.put(ROUTER, on)
        world.put(ENV, world.disk.files[ENV].content + b"# END OPTICTL AUTO\n")
        refused(world, ConfigError, rf"^{ENV}:\d+: ")

    @pytest.mark.parametrize("ours", [b"  - {\n", b"  - model_name: [\n"])
    def test_a_block_that_someone_has_broken_is_refused_with_its_line(
        self, world: World, ours: bytes
    ) -> None:
        broken = b"  # BEGIN OPTICTL AUTO\n" + ours + b"  # END OPTICTL AUTO\r\n"
        world.put(ROUTER, THEIRS[ROUTER].replace(b"litellm_settings", broken + b"litellm_settings"))
        refused(world, ConfigError, rf"^{ROUTER}:1\d:\d+: not YAML")

    @pytest.mark.parametrize("ours", [b"", b"  - x: 1\n", b"  a: 1\n"])
    def test_one_of_which_other_things_were_made_is_written_anew(
        self, world: World, ours: bytes
    ) -> None:
        edited = b"  # BEGIN OPTICTL AUTO\r\n" + ours + b"  # END OPTICTL AUTO\r\n"
        world.put(ROUTER, THEIRS[ROUTER].replace(b"litellm_settings", edited + b"litellm_settings"))
        world.switch()
        world.switch(off=True)
        assert world.theirs() == THEIRS

    def test_half_of_the_handles_is_kept_and_told_by_who_validates(self, world: World) -> None:
        world.put(HANDLES, THEIRS[HANDLES] + b'\r\n{"handle": "c", "ki')
        world.switch()
        world.switch(off=True)
        assert world.theirs()[HANDLES] == THEIRS[HANDLES] + b'\r\n{"handle": "c", "ki'

    def test_a_file_that_is_not_there_is_named(self, world: World) -> None:
        del world.disk.files[ENV]
        refused(world, OptictlError, f"cannot read {ENV}: it does not exist")


class TestMissing:
    def without(self, world: World, *models: bytes) -> None:
        """LiteLLM without these models."""
        for model in models:
            theirs = world.disk.files[ROUTER].content
            world.put(ROUTER, theirs.replace(b"model_name: " + model, b"model_name: " + 2 * model))

    def test_one_that_can_be_spared_is_told_with_the_nearest_name(self, world: World) -> None:
        self.without(world, b"c")
        world.switch()
        [told] = [each for each in world.told if "LiteLLM has no entry" in each]
        assert told == (
            f"{NAME} goes on without a member: LiteLLM has no entry c; did you mean 'cc'?"
        )

    def test_too_few_are_refused(self, world: World) -> None:
        self.without(world, b"b", b"c")
        refused(world, ConfigError, rf"^{NAME}: too few .*: LiteLLM has no entry b; .* entry c;")

    @pytest.mark.parametrize(
        "more",
        [
            b'  - {model_name: "*", litellm_params: *backend}\r\n  # END MLXCTL AUTO',
            b"  # END MLXCTL AUTO\r\ngeneral_settings: {store_model_in_db: true}",
            b"  # END MLXCTL AUTO\r\nrouter_settings: {model_group_alias: {b: a, c: a}}",
        ],
    )
    def test_where_litellm_may_have_them_all_the_same_it_is_let_through(
        self, world: World, more: bytes
    ) -> None:
        self.without(world, b"b", b"c")
        theirs = world.disk.files[ROUTER].content
        world.put(ROUTER, theirs.replace(b"  # END MLXCTL AUTO", more))
        world.switch()
        assert NAME.encode() in world.litellm[ROUTER]
        assert not any("LiteLLM has no entry" in each for each in world.told)


class TestLoops:
    TWO = "opt-code-balanced-m"

    def declare(self, world: World, **members: list[str]) -> None:
        """A registry of ensembles by name, with _ for -; each of models, the first aggregates."""
        rows = [
            {
                "ensemble": name.replace("_", "-"),
                "approach": "moa",
                "members": [{"model": model} for model in models],
            }
            for name, models in members.items()
        ]
        registry = world.site.with_name("ensembles.jsonl")
        registry.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        world.site.write_text(f"{SITE}ensembles: {registry}\n")

    def test_an_ensemble_is_no_member_of_another(self, world: World) -> None:
        both = {"opt_chat_balanced_m": ["a", self.TWO], "opt_code_balanced_m": ["b", NAME]}
        self.declare(world, **both)
        place = world.site.with_name("ensembles.jsonl")
        refused(
            world,
            ConfigError,
            f"^{place}:1: members: '{self.TWO}' is an ensemble itself.*\n"
            f"{place}:2: members: '{NAME}' is an ensemble itself",
        )

    def test_a_circle_through_two_ensembles_is_refused_with_its_way(self, world: World) -> None:
        """Of each a member is an entry that leads to the other."""
        self.declare(world, opt_chat_balanced_m=["a", "b"], opt_code_balanced_m=["a", "c"])
        theirs = THEIRS[ROUTER]
        for member, name in (("b", self.TWO), ("c", NAME)):
            old = f"model_name: {member}, litellm_params: *backend"
            new = f"model_name: {member}, litellm_params: {{model: openai/{name}, "
            new += 'api_base: "http://127.0.0.1:4020/v1"}'
            theirs = theirs.replace(old.encode(), new.encode())
        world.put(ROUTER, theirs)
        ours = [f"optillm-proxy \\({name}\\)" for name in (self.TWO, NAME)]
        way = " → ".join(["b", ours[0], "c", ours[1], "b", "…"])
        refused(world, ConfigError, rf"{ROUTER}:7: b leads back to the proxy.*: {way}")

    def test_a_member_whose_entry_leads_back_is_refused_with_its_line(self, world: World) -> None:
        back = b"  - {model_name: b, litellm_params: {model: openai/moa-b, "
        back += b'api_base: "http://localhost:4020"}}'
        old = b"  - {model_name: b, litellm_params: *backend}"
        world.put(ROUTER, THEIRS[ROUTER].replace(old, back))
        refused(world, ConfigError, rf"{ROUTER}:7: b leads back to the proxy.*: b → .*moa-b")

    def test_what_is_on_can_be_taken_out_while_there_is_one(self, world: World) -> None:
        world.switch()
        back = b'{model: openai/moa-b, api_base: "http://[::1]:4020/v1"}'
        on = world.disk.files[ROUTER].content
        world.put(ROUTER, on.replace(b"{model_name: b, litellm_params: *backend}", back))
        world.switch(off=True)
        assert NAME.encode() not in world.litellm[ROUTER]


class TestOneVariableForTwo:
    """``opt-a-b`` beside ``opt-a_b``: both would be OPTILLM_OPT_A_B_MODEL."""

    def theirs(self, world: World, name: str) -> None:
        entry = f"  - {{model_name: {name}, litellm_params: *backend}}\r\n"
        end = b"  # END MLXCTL AUTO"
        world.put(ROUTER, THEIRS[ROUTER].replace(end, entry.encode() + end))

    @pytest.mark.parametrize("name", ["opt_chat-balanced-m", "opt-chat.balanced-m", NAME.upper()])
    def test_one_of_somebody_else_is_refused_with_both_names(self, world: World, name: str) -> None:
        self.theirs(world, name)
        said = f"'{name}' and '{NAME}' would both be {VARIABLE}_MODEL; rename one"
        refused(world, ConfigError, rf"^{ROUTER}:9: {said}")

    def test_and_one_of_the_same_name(self, world: World) -> None:
        self.theirs(world, NAME)
        refused(world, ConfigError, rf"^{ROUTER}:9: {NAME} is an entry of somebody else's")

    def test_a_registry_has_no_such_names(self, world: World) -> None:
        TestLoops().declare(world, opt_chat_balanced_m=["a", "b"])
        registry = world.site.with_name("ensembles.jsonl")
        registry.write_text(registry.read_text().replace("chat-balanced", "chat_balanced"))
        refused(world, ConfigError, rf"^{registry}:1: ensemble must be opt-<intent>")


class TestTheCommand:
    """In a staging tree, without systemd and LiteLLM."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        (tmp_path / "optictl.yaml").write_text(SITE)
        return staged(tmp_path / "tree")

    def run(self, tree: Path, *arguments: str) -> Any:
        options = ["--config", str(tree.with_name("optictl.yaml")), "--root", str(tree)]
        return CliRunner().invoke(
            build(), ["ensemble", NAME, *arguments, "--yes", *options, "--systemd", "252"]
        )

    def rename(self, tree: Path, *models: str) -> None:
        router = tree / ROUTER.relative_to("/")
        for model in models:
            old = f"model_name: {model}".encode()
            router.write_bytes(router.read_bytes().replace(old, old + b"2"))

    def test_too_few_members_are_refused_and_one_that_can_be_spared_is_told(
        self, tree: Path
    ) -> None:
        self.rename(tree, "b", "c")
        before = (tree / ROUTER.relative_to("/")).read_bytes()
        done = self.run(tree)
        assert done.exit_code == 2
        assert f"optictl: {NAME}: too few of its members" in done.stderr
        assert (tree / ROUTER.relative_to("/")).read_bytes() == before
        assert not (tree / "etc").exists()
        (tree / ROUTER.relative_to("/")).write_bytes(before.replace(b"b2", b"b"))
        done = self.run(tree)
        assert done.exit_code == 0, done.output
        assert f"warn: {NAME} goes on without a member: LiteLLM has no entry c" in done.stderr

    def test_it_can_be_taken_out_whatever_is_wrong(self, tree: Path) -> None:
        assert self.run(tree).exit_code == 0
        self.rename(tree, "a", "b", "c")
        done = self.run(tree, "--off")
        assert done.exit_code == 0, done.output
        assert NAME.encode() not in (tree / ROUTER.relative_to("/")).read_bytes()
