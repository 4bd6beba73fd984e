"""What a site is rendered into."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from optictl import cli
from optictl.artifact import Artifact
from optictl.errors import OptictlError
from optictl.places import Places
from optictl.render import FLOOR, Facts, render
from optictl.site import Site
from optictl.site_loading import load
from proxy.settings import Secret
from proxy.upstream.config_file import load as load_pool
from proxy.upstream.routing import strategies

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "reference_site.yaml"
HOME = Path("/home/optillm")
FACTS = Facts(optictl=Path("/usr/local/bin/optictl"), systemd=FLOOR, home=HOME)
SECRETS = {"upstream.key": Secret('sk-up"$\\%'), "proxy.key": Secret("sk-clients")}


def site(*sets: str, environ: Mapping[str, str] | None = None) -> Site:
    return load(SITE, environ or {}, sets).site


#: Its key is a variable among others, so that it needs a file of its own.
CLIENTS_KEY = {
    "OPTICTL_PROXY_KEY_FILE": "",
    "OPTICTL_PROXY_KEY_ENV_FILE": "/etc/litellm/env",
    "OPTICTL_PROXY_KEY_NAME": "CLIENTS_KEY",
}


def rendered(site: Site, facts: Facts = FACTS, root: Path = Path("/")) -> dict[Path, Artifact]:
    places = Places.of(site, root=root, home=facts.home)
    return {artifact.path: artifact for artifact in render(site, facts, SECRETS, places)}


def text(site: Site, name: str, facts: Facts = FACTS) -> str:
    (found,) = [each for path, each in rendered(site, facts).items() if path.name == name]
    return found.content.decode()


def unit(site: Site, facts: Facts = FACTS) -> dict[str, list[str]]:
    """The service's settings by name; a setting may stand there several times."""
    settings: dict[str, list[str]] = {}
    for line in text(site, f"{site.service.name}.service", facts).splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


@pytest.mark.parametrize("name", ["optillm-proxy.service", "optillm-proxy.socket"])
def test_the_reference_units_are_what_is_rendered(name: str) -> None:
    kept = ROOT / "platform/ops/systemd" / name
    assert kept.read_text() == text(site(), name), f"render it anew into {kept}"


def test_a_system_site_fills_etc() -> None:
    modes = {str(path): each.mode for path, each in rendered(site()).items()}
    assert modes == {
        "/etc/systemd/system/optillm-proxy.service": 0o644,
        "/etc/systemd/system/optillm-proxy.socket": 0o644,
        "/etc/optillm-proxy/env": 0o600,
        "/etc/optillm-proxy/proxy_config.yaml": 0o644,
        "/etc/optillm-proxy/warmup.json": 0o644,
    }
    assert {(each.owner, each.group) for each in rendered(site()).values()} == {("root", "root")}


def test_what_a_change_asks_for() -> None:
    files = rendered(site(environ=CLIENTS_KEY)).values()
    assert {each.path.name: each.effect for each in files} == {
        "optillm-proxy.service": "restart",
        "optillm-proxy.socket": "rebind",
        "env": "restart",  # systemd reads it at a start only, and the key as well
        "proxy.key": "restart",
        "proxy_config.yaml": "reload",
        "warmup.json": "none",
    }
    assert {each.path.suffix for each in files if each.unit} == {".service", ".socket"}


def test_a_staging_root_is_written_to_and_not_spoken_of(tmp_path: Path) -> None:
    staged = rendered(site(), root=tmp_path)
    assert all(Path(path).is_relative_to(tmp_path) for path in staged)
    plain = {each.content for each in rendered(site()).values()}
    assert {each.content for each in staged.values()} == plain


@pytest.mark.parametrize("environ", [{}, CLIENTS_KEY])
def test_secrets_stand_in_sensitive_files_alone(environ: Mapping[str, str]) -> None:
    for artifact in rendered(site(environ=environ)).values():
        open_ = b"sk-up" not in artifact.content and b"sk-clients" not in artifact.content
        assert open_ or (artifact.sensitive and artifact.mode == 0o600)


def test_the_upstreams_key_is_a_quoted_variable() -> None:
    assert r'OPENAI_API_KEY="sk-up\"$\\%"' in text(site(), "env").splitlines()


def test_a_key_in_a_file_is_handed_over_from_there() -> None:
    settings = unit(site())
    assert settings["LoadCredential"] == ["proxy.key:/etc/optillm-proxy/clients.key"]
    assert settings["ExecStart"][0].endswith(" --optillm-api-key-file %d/proxy.key")


def test_a_key_in_a_file_of_variables_gets_a_file_of_its_own() -> None:
    assert text(site(environ=CLIENTS_KEY), "proxy.key") == "sk-clients\n"
    settings = unit(site(environ=CLIENTS_KEY))
    assert settings["LoadCredential"] == ["proxy.key:/etc/optillm-proxy/proxy.key"]


def test_without_keys_nothing_is_handed_over() -> None:
    bare = site().model_copy(
        update={
            "proxy": site().proxy.model_copy(update={"key": None}),
            "upstream": site().upstream.model_copy(update={"key": None}),
        }
    )
    assert "LoadCredential" not in unit(bare)
    assert "%d" not in text(bare, "optillm-proxy.service")
    assert "OPENAI_API_KEY" not in text(bare, "env") + text(bare, "proxy_config.yaml")


def test_every_flag_is_one_that_serve_knows() -> None:
    serve = typer.main.get_command(cli.build()).commands["serve"]  # type: ignore[attr-defined]
    known = {name for option in serve.params for name in option.opts}
    program, command, *rest = shlex.split(unit(site("proxy.allow_external=true"))["ExecStart"][0])
    assert (program, command) == ("/usr/local/bin/optictl", "serve")
    flags = {each for each in rest if each.startswith("--")}
    assert "--allow-external" in flags
    assert flags <= known


def test_the_command_line_leaves_nothing_to_defaults() -> None:
    words = shlex.split(
        unit(site("proxy.port=4021", "proxy.approach=moa&re2", "proxy.request_timeout=90.5"))[
            "ExecStart"
        ][0]
    )
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given == {
        "--host": "127.0.0.1",
        "--port": "4021",
        "--base-url": "http://127.0.0.1:4000/v1",
        "--approach": "moa&re2",
        "--model": "gpt-4o-mini",
        "--workers": "1",
        "--threads": "512",
        "--request-timeout": "90.5",
        "--proxy-config": "/etc/optillm-proxy/proxy_config.yaml",
        "--degraded-file": "/etc/optillm-proxy/degraded",
        "--optillm-api-key-file": "%d/proxy.key",
    }


def test_systemd_expands_nothing_of_the_sites_words() -> None:
    line = unit(site("proxy.base_model=50%d $HOME"))["ExecStart"][0]
    assert ' --model "50%%d $$HOME" ' in line


def test_the_pool_is_litellm_alone(tmp_path: Path) -> None:
    file = tmp_path / "proxy_config.yaml"
    file.write_text(text(site(), file.name))
    pool = load_pool(file, {"OPENAI_API_KEY": "sk"}, strategies())
    (provider,) = pool.providers
    assert provider.base_url == "http://127.0.0.1:4000/v1"
    assert provider.api_key is not None
    assert provider.api_key.reveal() == "sk"
    assert pool.request_timeout == 300
    assert pool.health_check.enabled


def test_the_pool_of_an_upstream_without_a_key_loads(tmp_path: Path) -> None:
    file = tmp_path / "proxy_config.yaml"
    upstream = site().upstream.model_copy(update={"key": None})
    file.write_text(text(site().model_copy(update={"upstream": upstream}), file.name))
    load_pool(file, {}, strategies())


def test_the_warmup_asks_the_base_model_for_one_token() -> None:
    asked = json.loads(text(site('proxy.base_model=a"b'), "warmup.json"))
    assert asked["model"] == 'a"b'
    assert asked["max_tokens"] == 1
    assert asked["messages"][0]["role"] == "user"


def test_a_reload_validates_before_it_signals() -> None:
    validate, signal = unit(site())["ExecReload"]
    assert validate.startswith("/usr/local/bin/optictl validate ")
    assert "/etc/optillm-proxy/proxy_config.yaml" in validate
    assert signal == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_the_warmup_watches_the_process_and_asks_on_this_machine(host: str, url: str) -> None:
    (warmup,) = unit(site(f"proxy.host={host}"))["ExecStartPost"]
    words = shlex.split(warmup)
    assert words[words.index("--url") + 1] == f"http://{url}:4020"
    assert words[words.index("--pid") + 1] == "$MAINPID"


def test_the_warmup_reads_the_key_where_it_lies() -> None:
    """As root: systemd 252 hides credentials from it, and the service's user may not read them."""
    (warmup,) = unit(site())["ExecStartPost"]
    assert warmup.startswith("+/usr/local/bin/optictl warmup ")
    assert "--key-file /etc/optillm-proxy/clients.key" in warmup


def test_without_a_key_the_warmup_runs_as_the_service() -> None:
    bare = site().model_copy(update={"proxy": site().proxy.model_copy(update={"key": None})})
    (warmup,) = unit(bare)["ExecStartPost"]
    assert warmup.startswith("/usr/local/bin/optictl warmup ")
    assert "--key-file" not in warmup


@pytest.mark.parametrize("scope", ["system", "user"])
def test_the_switch_is_a_file_that_says_how_to_turn_it_off(scope: str) -> None:
    declared = site(f"service.scope={scope}")
    places = Places.of(declared, home=HOME)
    files = rendered(declared, replace(FACTS, degraded=True))
    assert set(files) - set(rendered(declared)) == {places.degraded}
    (line,) = files[places.degraded].content.decode().splitlines()
    assert line.startswith("# ")
    assert line.endswith("optictl degrade off" + (" --user" if scope == "user" else ""))
    assert files[places.degraded].effect == "reload"
    assert unit(declared, replace(FACTS, degraded=True)) == unit(declared)


def test_more_flags_and_variables_are_passed_on() -> None:
    more = SITE.parent / "more_site.yaml"
    declared = load(more, {}).site
    assert unit(declared)["ExecStart"][0].endswith(" --log debug --best-of-n 5")
    assert 'HF_HOME="/srv/hf %h"' in text(declared, "env").splitlines()


def test_systemd_waits_longer_than_the_service() -> None:
    settings = unit(site("proxy.request_timeout=1000", "proxy.warmup_timeout=200"))
    assert int(settings["TimeoutStopSec"][0].removesuffix("s")) > 1000 + 5
    assert int(settings["TimeoutStartSec"][0].removesuffix("s")) > 200


@pytest.mark.parametrize(
    ("host", "listen"),
    [("::1", "[::1]:4020"), ("localhost", "127.0.0.1:4020"), ("10.0.0.7", "10.0.0.7:4020")],
)
def test_the_socket_listens_where_the_service_would(host: str, listen: str) -> None:
    lines = text(site(f"proxy.host={host}"), "optillm-proxy.socket").splitlines()
    assert f"ListenStream={listen}" in lines


def test_a_hosts_name_is_nothing_to_listen_on() -> None:
    with pytest.raises(OptictlError, match=r"proxy\.host: box\.lan"):
        rendered(site("proxy.host=box.lan"))


#: What breaks or slows inference in the service's own process.
AGAINST_INFERENCE = ["MemoryDenyWriteExecute=yes", "ProcSubset=pid", "~@privileged @resources"]


def test_the_profiles_differ_in_what_inference_cannot_bear() -> None:
    strict = text(site(), "optillm-proxy.service")
    torch = text(site("service.profile=torch"), "optillm-proxy.service")
    assert all(each in strict and each not in torch for each in AGAINST_INFERENCE)
    gone = set(strict.splitlines()) - set(torch.splitlines())
    assert len(gone) == len(AGAINST_INFERENCE)
    assert "SystemCallFilter=~@privileged" in torch.splitlines()


def test_the_users_own_files_are_readable_although_homes_are_hidden() -> None:
    settings = unit(site())
    assert settings["ProtectHome"] == ["tmpfs"]
    assert settings["BindReadOnlyPaths"] == [
        "-/home/optillm/.optillm -/home/optillm/.cache/huggingface"
    ]


def test_a_program_below_a_home_is_readable_too_and_its_python() -> None:
    python = Path("/root/python/3.13")
    facts = replace(FACTS, optictl=HOME / "my venv/bin/optictl", python=python)
    settings = unit(site(), facts)
    assert settings["BindReadOnlyPaths"][0].endswith(f' "/home/optillm/my venv" {python}')
    assert settings["ExecStart"][0].startswith('"/home/optillm/my venv/bin/optictl" serve ')


def test_a_users_site_lives_in_the_home_and_asks_for_no_privilege() -> None:
    user = site("service.scope=user", "service.name=mine")
    paths = {str(path.relative_to(HOME)) for path in rendered(user)}
    assert paths == {
        ".config/systemd/user/mine.service",
        ".config/systemd/user/mine.socket",
        ".config/mine/env",
        ".config/mine/proxy_config.yaml",
        ".config/mine/warmup.json",
    }
    settings = unit(user)
    privileged = {
        "User",
        "CapabilityBoundingSet",
        "PrivateDevices",
        "ProtectSystem",
        "StateDirectory",
    }
    assert not privileged & settings.keys()
    assert settings["NoNewPrivileges"] == ["yes"]
    assert settings["WantedBy"] == ["default.target"]
    assert {(each.owner, each.group) for each in rendered(user).values()} == {(None, None)}


def test_the_state_is_kept_where_each_scope_keeps_it() -> None:
    system, user = site(), site("service.scope=user")
    assert Places.of(system, home=HOME).state == Path("/var/lib/optictl/optillm-proxy")
    assert Places.of(user, home=HOME).state == HOME / ".local/state/optictl/optillm-proxy"


def test_a_newer_systemd_waits_longer_between_restarts() -> None:
    assert "RestartSteps" not in unit(site())
    assert unit(site(), replace(FACTS, systemd=254))["RestartSteps"] == ["5"]


def test_an_older_systemd_is_refused() -> None:
    with pytest.raises(OptictlError, match="systemd 251 is too old"):
        rendered(site(), replace(FACTS, systemd=251))
