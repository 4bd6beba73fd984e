"""``optictl route``: what it writes, what it refuses, and what it says of the way handles go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from optictl.cli import build

ROUTER = b"""\
# theirs\r
model_list:\r
- model_name: b  # the big one\r
  litellm_params:\r
    model: os.environ/B_MODEL\r
    api_base: os.environ/B_API_BASE\r
    api_key: os.environ/B_API_KEY\r
- model_name: c\r
  litellm_params: {model: os.environ/C_MODEL, api_base: os.environ/C_API_BASE}\r
- model_name: embed\r
  litellm_params: {model: openai/e, api_base: "http://127.0.0.1:9000/v1", api_key: none}\r
  model_info: {mode: embedding}\r
"""
ENV = b"""\
# backends
B_MODEL=openai/mlx-b
B_API_BASE=http://192.168.1.72:8100/v1
B_API_KEY=sk-of-the-backend
C_MODEL=openai/c
C_API_BASE=http://192.168.1.73:8100/v1"""


class World:
    """A staging tree: the whole way but for systemd and LiteLLM."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.srv = self.root / "srv"
        self.srv.mkdir(parents=True)
        self.router, self.env = self.srv / "router.yaml", self.srv / "env.local"
        self.router.write_bytes(ROUTER)
        self.env.write_bytes(ENV)
        self.site = folder / "optictl.yaml"
        self.declare()

    def declare(self, more: str = "") -> None:
        self.site.write_text(
            "proxy: {base_model: b}\n"
            "gateway: {router: /srv/router.yaml, env_file: /srv/env.local}\n"
            f"models: {{large: b, medium: c, small: s}}\n{more}"
        )

    def run(self, *arguments: str) -> Any:
        common = ["--config", str(self.site), "--root", str(self.root)]
        if "status" not in arguments:
            common += ["--systemd", "252"]
        return CliRunner().invoke(build(), [*arguments, *common])

    def route(self, *arguments: str) -> Any:
        return self.run("route", *arguments)

    def said(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.route(*arguments, "--json").stdout)
        return answer

    @property
    def proxy_config(self) -> Any:
        return yaml.safe_load((self.root / "etc/optillm-proxy/proxy_config.yaml").read_bytes())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_on_twice_and_off_again(world: World) -> None:
    assert world.run("install", "--yes").exit_code == 0
    on = world.route("on", "--yes")
    assert on.exit_code == 0, on.output
    router, env = world.router.read_bytes(), world.env.read_bytes()
    assert router.startswith(ROUTER)
    assert env.startswith(ENV)
    assert yaml.safe_load(router)["model_list"][3]["model_name"] == "router-b"
    assert b"\nB_MODEL=openai/router-b\n" in env
    [provider] = world.proxy_config["providers"]
    assert provider["model_map"] == {"b": "router-b", "c": "router-c"}
    again = world.said("on", "--yes")
    assert again["data"]["already"]
    assert (world.router.read_bytes(), world.env.read_bytes()) == (router, env)
    assert world.route("off", "--yes").exit_code == 0
    assert (world.router.read_bytes(), world.env.read_bytes()) == (ROUTER, ENV)
    assert "model_map" not in world.proxy_config["providers"][0]
    assert world.said("off", "--yes")["data"]["already"]


def test_an_installation_and_an_ensemble_keep_it_as_it_is(world: World) -> None:
    world.router.write_bytes(ROUTER.replace(b"- model_name: embed", b"- model_name: s"))
    world.declare("routing: {handles: [b, c]}\n")
    assert world.route("on", "--yes").exit_code == 0
    routed = world.router.read_bytes()
    assert world.run("install", "--yes", "--set", "proxy.workers=2").exit_code == 0
    assert world.router.read_bytes() == routed
    done = world.run("ensemble", "opt-chat-balanced-m", "--yes")
    assert done.exit_code == 0, done.output
    names = [each["model_name"] for each in yaml.safe_load(world.router.read_bytes())["model_list"]]
    assert names == ["b", "c", "s", "opt-chat-balanced-m", "router-b", "router-c"]
    world.run("ensemble", "opt-chat-balanced-m", "--off", "--yes")
    assert world.router.read_bytes() == routed
    assert world.said("status")["data"]["on"]


def test_no_key_is_shown(world: World) -> None:
    shown = world.route("on", "--yes")
    assert "sk-of" not in shown.stdout + shown.stderr


def test_a_dry_run_shows_it_and_does_nothing(world: World) -> None:
    shown = world.route("on", "--dry-run")
    assert shown.exit_code == 0
    assert "router-b" in shown.stdout
    assert (world.router.read_bytes(), world.env.read_bytes()) == (ROUTER, ENV)


def test_values_that_are_written_out_are_refused_with_their_lines(world: World) -> None:
    literal = ROUTER.replace(b"os.environ/C_API_BASE", b"'http://192.168.1.73:8100/v1'")
    world.router.write_bytes(literal)
    refused = world.route("on", "--yes")
    assert refused.exit_code == 2
    assert "/srv/router.yaml:9: api_base of c is written out" in refused.stderr
    assert world.router.read_bytes() == literal
    world.declare("routing: {handles: [b]}\n")
    assert world.route("on", "--yes").exit_code == 0


def test_an_internal_entry_that_leads_to_us_is_a_loop_and_not_written(world: World) -> None:
    theirs = (
        b"- {model_name: router-b, litellm_params: {model: openai/b, "
        b'api_base: "http://localhost:4020/v1"}}\r\n'
    )
    world.router.write_bytes(ROUTER + theirs)
    refused = world.route("on", "--yes")
    assert refused.exit_code == 2
    assert "router-b leads back to the proxy" in refused.stderr
    assert (world.router.read_bytes(), world.env.read_bytes()) == (ROUTER + theirs, ENV)


def test_there_is_nothing_to_send(world: World) -> None:
    world.router.write_bytes(b"model_list: []\n")
    refused = world.route("on", "--yes")
    assert refused.exit_code == 2
    assert "no base handle" in refused.stderr


def test_a_site_that_names_no_files(world: World) -> None:
    world.site.write_text("proxy: {base_model: b}\n")
    for way in ("on", "off", "status"):
        refused = world.route(way)
        assert refused.exit_code == 2
        assert "gateway.router" in refused.stderr


class TestTheSite:
    """It may declare which way they go."""

    def test_an_installation_makes_it_so(self, world: World) -> None:
        world.declare("routing: {mode: on, handles: [b]}\n")
        assert world.run("install", "--yes").exit_code == 0
        assert world.said("status")["data"]["on"]
        world.declare("routing: {mode: off}\n")
        assert world.run("install", "--yes").exit_code == 0
        assert world.router.read_bytes() == ROUTER

    def test_the_command_does_not_contradict_it(self, world: World) -> None:
        world.declare("routing: {mode: off}\n")
        refused = world.route("on", "--yes")
        assert refused.exit_code == 2
        assert "the site says routing.mode: off" in refused.stderr

    def test_a_prefix_needs_its_dash(self, world: World) -> None:
        world.declare("routing: {prefix: moa}\n")
        refused = world.route("on", "--yes")
        assert refused.exit_code == 2
        assert "optictl.yaml:4:19: prefix must be an approach or a pipeline" in refused.stderr


class TestStatus:
    def test_which_handles_there_are_and_whose_their_internal_entries(self, world: World) -> None:
        world.router.write_bytes(
            ROUTER + b"- model_name: router-c\r\n  litellm_params: {model: openai/c, "
            b'api_base: "http://192.168.1.73:8100/v1"}\r\n'
        )
        found = world.said("status")["data"]
        assert not found["on"]
        assert [tuple(each.values()) for each in found["handles"]] == [
            ("b", "router-b", "ours"),
            ("c", "router-c", "theirs"),
        ]
        shown = world.route("status").stdout
        assert shown.startswith("off: base handles go straight to their backends\n")
        world.route("on", "--yes")
        assert world.route("status").stdout.startswith("on: base handles go through the proxy\n")
        assert world.said("status")["data"]["handles"] == found["handles"]

    @pytest.mark.parametrize("mode", ["block", "include"])
    def test_what_we_have_written_ourselves_is_ours(self, world: World, mode: str) -> None:
        text = world.site.read_text()
        world.site.write_text(text.replace("env.local}", f"env.local, mode: {mode}}}"))
        assert world.route("on", "--yes").exit_code == 0
        assert {each["internal_is"] for each in world.said("status")["data"]["handles"]} == {"ours"}
        assert world.said("on", "--yes")["data"]["already"]

    def test_another_tool_that_says_otherwise_is_reported(self, world: World) -> None:
        world.env.write_bytes(b"MLX_ROUTE_VIA_OPTILLM=1\n" + ENV)
        shown = world.route("status")
        assert shown.exit_code == 0
        said = "MLX_ROUTE_VIA_OPTILLM says on, and base handles go straight to their backends"
        assert said in shown.stderr
        on = world.said("on", "--yes")
        assert on["data"]["route"]["disagrees"] == ""
        assert "MLX_ROUTE" not in world.route("status").stderr
