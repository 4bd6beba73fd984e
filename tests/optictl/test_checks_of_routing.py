"""The check of where names lead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from boxes import MakeBox, disk, found, make_box

from optictl.gateway_site import site_graph
from optictl.own_host import Host

__all__ = ["make_box"]  # a fixture, used by name

ROUTER = Path("/srv/litellm/config/router.yaml")
ENV = Path("/srv/litellm/config/litellm.env")
SITE = f"proxy: {{base_model: base}}\ngateway: {{router: {ROUTER}, env_file: {ENV}}}"
BASE = """\
model_list:
- model_name: base
  litellm_params: {model: openai/base, api_base: "http://192.168.1.72:8100/v1"}
"""
TO_US = 'api_base: "http://localhost:4020/v1"'


def look(
    make_box: MakeBox, router: str, variables: str = "", site: str = SITE, **files: str
) -> Any:
    """What the check finds; ``files`` are those of the service, by their names in `Places`."""
    box = make_box(site)
    disk(box).put(ROUTER, router.encode())
    disk(box).put(ENV, variables.encode())
    places = box.machine.places
    for name, text in files.items():
        disk(box).put(getattr(places, name), text.encode())
    return found("routing", box)


@pytest.mark.parametrize("gateway", ["", "\ngateway: {}"])
def test_there_is_no_gateway_or_nobody_says_where(make_box: MakeBox, gateway: str) -> None:
    box = make_box(f"proxy: {{base_model: base}}{gateway}")
    assert found("routing", box).status == "skipped"


def test_all_is_well(make_box: MakeBox) -> None:
    handle = f"- model_name: opt-x\n  litellm_params: {{model: openai/moa-base, {TO_US}}}\n"
    finding = look(make_box, BASE + handle)
    assert (finding.status, finding.fix) == ("ok", "")
    assert finding.saw == "2 entries, 1 of them to the proxy; nothing comes back"


def test_a_circle_is_shown_whole_with_the_line_that_closes_it(make_box: MakeBox) -> None:
    router = "model_list:\n- model_name: base\n  litellm_params:\n    model: os.environ/B_MODEL\n"
    router += "    api_base: os.environ/B_API_BASE\n"
    env = "B_MODEL=openai/base\nB_API_BASE=http://192.168.1.72:8100/v1\n"
    assert look(make_box, router, env).status == "ok"
    env += "B_MODEL=openai/router-base\nB_API_BASE=http://127.0.0.1:4020/v1\n"
    finding = look(make_box, router, env)
    assert finding.status == "fail"
    assert finding.saw == (
        f"{ROUTER}:5: base leads back to the proxy, which calls it: "
        "base → optillm-proxy (router-base) → base → …"
    )
    assert finding.fix == f"lead base to a backend at {ROUTER}:5"


def test_the_model_map_of_the_service(make_box: MakeBox) -> None:
    router = f"- model_name: base\n  litellm_params: {{model: openai/router-base, {TO_US}}}\n"
    router = BASE.replace("model_name: base", "model_name: router-base") + router
    config = "providers:\n- name: litellm\n  base_url: http://127.0.0.1:4000/v1\n"
    config += "  api_key: '${OPENAI_API_KEY}'\n"
    mapped = config + "  model_map: {base: router-base}\n"
    assert look(make_box, router, proxy_config=config).status == "fail"
    assert look(make_box, router, proxy_config=mapped).status == "ok"


def test_a_member_that_leads_back(make_box: MakeBox) -> None:
    router = BASE + f"- model_name: bad\n  litellm_params: {{model: openai/moa-base, {TO_US}}}\n"
    row = '{"ensemble": "opt-x-high-s", "approach": "moa", '
    row += '"members": [{"model": "base"}, {"model": "bad"}]}\n'
    finding = look(make_box, router, ensembles=row)
    assert finding.status == "fail"
    assert "bad leads back to the proxy" in finding.saw
    assert finding.saw.endswith("; it is called for opt-x-high-s")


def test_a_handle_that_the_service_reads_from_its_variables(make_box: MakeBox) -> None:
    router = BASE + f"- model_name: opt-b\n  litellm_params: {{model: openai/opt-b, {TO_US}}}\n"
    assert look(make_box, router, env="OPTILLM_OPT_B_MODEL=moa-base\n").status == "ok"
    finding = look(make_box, router, env="OPTILLM_OPT_B_MODEL=moa-opt-b\n")
    assert finding.status == "fail"
    assert "opt-b → optillm-proxy (opt-b) → opt-b → …" in finding.saw


def test_a_variable_that_is_not_set(make_box: MakeBox) -> None:
    router = BASE + "general_settings:\n  master_key: os.environ/MASTER\n"
    finding = look(make_box, router)
    assert (finding.status, finding.saw) == ("fail", f"{ROUTER}:5: os.environ/MASTER is not set")
    assert finding.fix == f"set MASTER in {ENV}"
    assert look(make_box, router, "MASTER=sk-never-shown\n").status == "ok"


def test_nobody_says_which_variables_are_set(make_box: MakeBox) -> None:
    router = BASE + "general_settings:\n  master_key: os.environ/MASTER\n"
    site = f"proxy: {{base_model: base}}\ngateway: {{router: {ROUTER}}}"
    finding = look(make_box, router, site=site)
    assert finding.status == "warn"
    assert "gateway.env_file" in finding.fix


def test_a_unit_that_sets_the_variables(make_box: MakeBox) -> None:
    box = make_box(f"proxy: {{base_model: base}}\ngateway: {{router: {ROUTER}}}")
    router = BASE + "general_settings:\n  master_key: os.environ/MASTER\n"
    disk(box).put(ROUTER, router.encode())
    unit = f"[Service]\nEnvironment=MASTER=x\nExecStart=/opt/bin/litellm --config {ROUTER}\n"
    disk(box).put(Path("/etc/systemd/system/litellm.service"), unit.encode())
    assert found("routing", box).status == "ok"


def test_what_litellm_passes_over_is_warned_of(make_box: MakeBox) -> None:
    second = '- model_name: base\n  litellm_params: {model: openai/c, api_base: "http://c"}\n'
    handle = f"- model_name: opt-x\n  litellm_params: {{model: openai/moa-bsae, {TO_US}}}\n"
    keys = "general_settings:\n  cancel_on_disconect: true\n"
    finding = look(make_box, BASE + second + handle + keys)
    assert finding.status == "warn"
    assert f"{ROUTER}:2: base stands 2 times, also at {ROUTER}:4" in finding.saw
    assert f"{ROUTER}:9: general_settings.cancel_on_disconect" in finding.saw
    assert f"{ROUTER}:7: optillm-proxy (moa-bsae) calls bsae" in finding.saw
    assert "did you mean 'base'?" in finding.saw


def test_models_of_a_database_are_in_no_file(make_box: MakeBox) -> None:
    handle = f"- model_name: opt-x\n  litellm_params: {{model: openai/moa-other, {TO_US}}}\n"
    stored = "general_settings: {store_model_in_db: true}\n"
    assert look(make_box, BASE + handle).status == "warn"
    assert look(make_box, BASE + handle + stored).status == "ok"


def test_a_file_that_is_not_there_and_one_that_is_none(make_box: MakeBox) -> None:
    finding = found("routing", make_box(SITE))
    assert finding.status == "fail"
    assert f"{ROUTER} does not exist" in finding.saw
    finding = look(make_box, "model_list: [")
    assert finding.status == "fail"
    assert finding.saw.startswith(f"{ROUTER}:1:")


def test_what_is_about_to_be_written_counts_as_if_it_were(make_box: MakeBox) -> None:
    box = make_box(SITE)
    disk(box).put(ROUTER, BASE.encode())
    disk(box).put(ENV, b"")
    now = site_graph(box.machine, host=Host())
    looping = BASE.replace("192.168.1.72:8100", "127.0.0.1:4020").encode()
    then = site_graph(box.machine, to_write={ROUTER: looping}, host=Host())
    assert now is not None
    assert then is not None
    assert list(now.loops()) == []
    assert [each.at for each in then.loops()] == [f"{ROUTER}:3"]
