"""optictl.yaml: what it may say, where each value comes from, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optictl.cli import build
from optictl.errors import NotInitialised
from optictl.site import SECTIONS, Site, settings_of
from optictl.site_loading import load
from proxy.errors import ConfigError

LEAST = "proxy:\n  base_model: qwen3\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "optictl.yaml"
    path.write_text(text)
    return path


def site_of(folder: Path, text: str = LEAST, **environ: str) -> Site:
    return load(written(folder, text), environ).site


def refusal(folder: Path, text: str, *sets: str, **environ: str) -> str:
    path = written(folder, text)
    with pytest.raises(ConfigError) as refused:
        load(path, environ, sets)
    return str(refused.value).replace(str(path), "FILE")


class TestValues:
    def test_the_least_that_must_be_said(self, tmp_path: Path) -> None:
        site = site_of(tmp_path)
        assert (site.proxy.base_model, site.proxy.host, site.proxy.port) == (
            "qwen3",
            "127.0.0.1",
            4020,
        )
        assert (site.service.name, site.service.scope) == ("optillm-proxy", "system")
        assert site.gateway is None

    def test_all_that_can_be_said(self, tmp_path: Path) -> None:
        text = """
version: 1
service: {name: opti, user: me, scope: user, profile: torch}
proxy:
  base_model: qwen3
  port: 4021
  approach: none
  workers: 2
  key: {file: /etc/opti/proxy.key}
upstream:
  base_url: http://127.0.0.1:4000/v1/
  key: {env_file: /etc/litellm/env, name: LITELLM_MASTER_KEY}
gateway:
  router: /etc/litellm/router.yaml
  restart: [systemctl, restart, litellm]
  mode: include
ensembles: /etc/opti/ensembles.jsonl
routing: {mode: "on", prefix: r-}
neighbours:
  - {name: litellm, url: http://127.0.0.1:4000/health/liveliness}
  - {name: mlx, port: "192.168.1.72:8100", expect: 200}
restart_order: [litellm.service, opti.service]
"""
        site = site_of(tmp_path, text)
        assert site.upstream.base_url == "http://127.0.0.1:4000/v1"
        assert site.upstream.key is not None
        assert site.upstream.key.name == "LITELLM_MASTER_KEY"
        assert site.gateway is not None
        assert site.gateway.restart == ("systemctl", "restart", "litellm")
        assert [neighbour.name for neighbour in site.neighbours] == ["litellm", "mlx"]

    def test_of_a_flag_before_the_environment_before_the_file(self, tmp_path: Path) -> None:
        path = written(tmp_path, f"{LEAST}  port: 1\n  workers: 1\n  threads: 100\n")
        environ = {"OPTICTL_PROXY_WORKERS": "2", "OPTICTL_PROXY_PORT": "2"}
        loaded = load(path, environ, ["proxy.port=3", "service.name=x"])
        assert (loaded.site.proxy.port, loaded.site.proxy.workers) == (3, 2)
        assert loaded.origins["proxy.port"] == "--set proxy.port"
        assert loaded.origins["proxy.workers"] == "OPTICTL_PROXY_WORKERS"
        assert loaded.origins["proxy.threads"] == f"{path}:5"
        assert loaded.origins["service.name"] == "--set service.name"
        assert "proxy.host" not in loaded.origins

    @pytest.mark.parametrize("model", ["7", "true", "1e3", "null"])
    def test_a_text_from_outside_the_file_stays_one(self, tmp_path: Path, model: str) -> None:
        path = written(tmp_path, LEAST)
        assert load(path, {"OPTICTL_PROXY_BASE_MODEL": model}).site.proxy.base_model == model

    def test_a_variable_of_optictl_s_own_is_no_value(self, tmp_path: Path) -> None:
        path = written(tmp_path, LEAST)
        assert load(path, {"OPTICTL_CONFIG": "/x", "OPTICTL_PROXY": "y"}).origins.keys() == {
            "proxy.base_model"
        }


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("proxy: {}\n", "FILE:1:8: base_model is missing; add it"),
            ("{}\n", "FILE:1:1: proxy is missing; add it"),
            (f"{LEAST}  prot: 1\n", "FILE:3:3: unknown key 'prot'; did you mean 'port'?"),
            (f"{LEAST}gatewya: {{}}\n", "FILE:3:1: unknown key 'gatewya'; did you mean 'gateway'?"),
            (f"{LEAST}  port: 70000\n", "FILE:3:9: port must be at most 65535"),
            (f"{LEAST}  port: '80'\n", "FILE:3:9: port must be a whole number, not text; "),
            (f"{LEAST}  workers: 0\n", "FILE:3:12: workers must be at least 1"),
            (f"{LEAST}ensembles: here.jsonl\n", "FILE:3:12: ensembles must be an absolute path; "),
            (
                f"{LEAST}service: {{profile: strikt}}\n",
                "profile must be one of: strict, torch; did",
            ),
            (f"{LEAST}service: {{user: 'a b'}}\n", "FILE:3:17: user must look like "),
            (f"{LEAST}neighbours: [{{name: x}}]\n", "FILE:3:14: neighbours[0] must have either"),
            (
                f"{LEAST}upstream: {{key: {{name: K}}}}\n",
                "FILE:3:17: key must be either 'file', or",
            ),
            (f"{LEAST}  key: {{file: /k, name: K}}\n", "FILE:3:8: key must be either 'file', or"),
            ("version: 2\n", "FILE:1:10: version 2 is newer than this optictl knows (1); upgrade"),
            ("proxy: [\n", "FILE:2:1: "),
        ],
    )
    def test_in_the_file_have_their_place(self, tmp_path: Path, text: str, said: str) -> None:
        assert said in refusal(tmp_path, text)

    def test_all_are_told_at_once(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "proxy: {port: 0, x: 1}\nnew: 1\n", "proxy.threads=1")
        assert [line.partition(": ")[0] for line in said.splitlines()] == [
            "FILE:1:8",
            "FILE:1:15",
            "FILE:1:18",
            "FILE:2:1",
            "--set proxy.threads",
        ]

    @pytest.mark.parametrize(
        ("sets", "environ", "said"),
        [
            (["proxy.port=x"], {}, "--set proxy.port: port must be a whole number"),
            ([], {"OPTICTL_PROXY_PORT": "x"}, "OPTICTL_PROXY_PORT: port must be a whole number"),
            (["proxy.prot=1"], {}, "--set proxy.prot: unknown key 'prot'; did you mean 'port'?"),
            (["proxy.port"], {}, "--set proxy.port: write it as KEY=VALUE"),
            (["neighbours=x"], {}, "--set neighbours: neighbours holds several values"),
            (["proxy=x"], {}, "--set proxy: proxy holds several values"),
        ],
    )
    def test_elsewhere_name_the_flag_or_the_variable(
        self, tmp_path: Path, sets: list[str], environ: dict[str, str], said: str
    ) -> None:
        assert said in refusal(tmp_path, LEAST, *sets, **environ)

    def test_a_relative_path_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="give an absolute path"):
            load(Path("optictl.yaml"), {})

    def test_a_file_that_is_not_there_says_how_to_write_it(self, tmp_path: Path) -> None:
        with pytest.raises(NotInitialised, match=r"none\.yaml does not exist; .*: optictl init"):
            load(tmp_path / "none.yaml", {})


class TestCommand:
    @staticmethod
    def run(*arguments: str, **environ: str) -> Any:
        return CliRunner().invoke(build(), ["config", *arguments], env=environ)

    def test_show_tells_each_value_and_its_origin(self, tmp_path: Path) -> None:
        path = written(tmp_path, LEAST)
        shown = self.run("show", "--origin", "--config", str(path), OPTICTL_PROXY_PORT="4021")
        assert shown.exit_code == 0
        lines = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}
        assert lines["proxy.base_model"] == ["qwen3", f"{path}:2"]
        assert lines["proxy.port"] == ["4021", "OPTICTL_PROXY_PORT"]
        assert lines["proxy.host"] == ["127.0.0.1", "default"]

    def test_show_in_json_has_the_same(self, tmp_path: Path) -> None:
        path = written(tmp_path, LEAST)
        shown = self.run("show", "--json", "--config", str(path), "--set", "proxy.port=1")
        answer = json.loads(shown.stdout)
        values = {each["name"]: (each["value"], each["origin"]) for each in answer["data"]}
        assert values["proxy.port"] == (1, "--set proxy.port")
        assert set(values) == {name for name, _ in settings_of(load(path, {}).site)}

    def test_a_mistake_is_in_the_envelope(self, tmp_path: Path) -> None:
        shown = self.run("show", "--json", "--config", str(written(tmp_path, "x: 1\n")))
        answer = json.loads(shown.stdout)
        assert (shown.exit_code, answer["exit_code"], answer["errors"][0]["code"]) == (
            2,
            2,
            "config",
        )

    def test_the_schema_knows_every_section(self) -> None:
        schema = json.loads(self.run("schema").stdout)
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) == set(Site.model_fields)
        port = schema["$defs"]["Proxy"]["properties"]["port"]
        assert (port["minimum"], port["maximum"]) == (1, 65535)
        for model in set(SECTIONS.values()) - {Site}:
            assert set(schema["$defs"][model.__name__]["properties"]) == set(model.model_fields)
