"""``hosts`` of a site: machines that cannot serve all of their models at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from optictl.places import Places
from optictl.render import FLOOR, Facts, render
from optictl.site import Site
from optictl.site_loading import load
from proxy.errors import ConfigError
from proxy.upstream.config import PoolConfig
from proxy.upstream.config_file import loads
from proxy.upstream.routing import strategies

HOME = Path("/home/optillm")
FACTS = Facts(optictl=Path("/usr/local/bin/optictl"), systemd=FLOOR, home=HOME)


def site(folder: Path, hosts: str, more: str = "") -> Site:
    path = folder / "optictl.yaml"
    path.write_text(f"proxy: {{base_model: b{more}}}\nhosts:\n{hosts}")
    return load(path, {}).site


def refusal(folder: Path, hosts: str) -> str:
    with pytest.raises(ConfigError) as refused:
        site(folder, hosts)
    return str(refused.value).replace(f"{folder}/optictl.yaml", "FILE")


def pool(declared: Site) -> PoolConfig:
    """What the service makes of the file that is rendered."""
    places = Places.of(declared, home=HOME)
    [file] = [
        each
        for each in render(declared, FACTS, {}, places)
        if each.path == places.on_disk(places.proxy_config)
    ]
    return loads(file.content.decode(), file.path, {}, strategies())[0]


def test_models_that_share_a_machine_share_its_limit(tmp_path: Path) -> None:
    declared = site(
        tmp_path,
        "  studio: {models: [mlx-a, 'mlx-*'], max_concurrent: 2}\n  npu.lan: {models: ['*']}\n",
    )
    found = pool(declared)
    [provider] = found.providers
    assert [provider.host(model) for model in ("mlx-a", "mlx-z", "ov-d")] == [
        "studio",
        "studio",
        "npu.lan",
    ]
    assert found.hosts == {"studio": 2, "npu.lan": 1}


def test_who_waits_for_a_machine_may_do_so_as_long_as_the_request_lasts(tmp_path: Path) -> None:
    declared = site(tmp_path, "  m: {models: [a]}\n", more=", request_timeout: 900")
    assert pool(declared).queue.timeout == 900


def test_without_any_nothing_is_limited(tmp_path: Path) -> None:
    found = pool(site(tmp_path, "  {}\n"))
    assert (found.hosts, found.providers[0].hosts) == ({}, {})


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (
            "  one: {models: [a, b]}\n  two: {models: [b]}\n",
            "FILE:3:3: hosts must not have b on one and on two; keep one",
        ),
        ("  one: {models: ['*-*']}\n", "FILE:3:17: models must not hold '*-*': a pattern has one"),
        ("  one: {models: []}\n", "FILE:3:17: models must not be empty; add an entry"),
        ("  one: {}\n", "FILE:3:8: models is missing; add it"),
        ("  one: {models: [a], max_concurrent: 0}\n", "max_concurrent must be at least 1"),
        ("  one: {models: [a], limit: 1}\n", "FILE:3:22: unknown key 'limit'; known here: models,"),
        ("  '${X}': {models: [a]}\n", "must look like ^[A-Za-z0-9]"),
    ],
)
def test_mistakes_have_their_place(tmp_path: Path, hosts: str, said: str) -> None:
    assert said in refusal(tmp_path, hosts)


def test_they_are_set_in_the_file_and_their_limits_by_a_flag_too(tmp_path: Path) -> None:
    path = tmp_path / "optictl.yaml"
    path.write_text("proxy: {base_model: b}\nhosts: {m: {models: [a]}}\n")
    found = load(path, {}, ["hosts.m.max_concurrent=3"]).site
    assert found.hosts["m"].max_concurrent == 3
    for name in ("hosts", "gateway.warm_command"):
        with pytest.raises(ConfigError, match="holds several values; set it in the file"):
            load(path, {}, [f"{name}=x"])
