"""The check of the models that ensembles are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from boxes import PROXY, MakeBox, disk, found, make_box

__all__ = ["make_box"]  # a fixture, used by name

UPSTREAM = "http://127.0.0.1:4000"
ROUTER = Path("/srv/router.yaml")
SITE = f"proxy: {{base_model: a}}\ngateway: {{router: {ROUTER}}}\n"
NAME = "opt-x-high-s"


def row(*proposers: str, least: int = 1, judge: str | None = None, name: str = NAME) -> str:
    members = [{"model": each} for each in proposers]
    members += [{"model": judge, "role": "judge"}] if judge else []
    text = {"ensemble": name, "approach": "bon", "members": members, "min_successful": least}
    return json.dumps(text) + "\n"


def look(
    make_box: MakeBox,
    rows: str,
    *listed: str,
    missed: str = "",
    router: str = "",
    proxy: bool = True,
) -> Any:
    def upstream(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": name} for name in listed]})

    def metrics(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/metrics"
        return httpx.Response(200, text=f"# TYPE x counter\n{missed}\nx 1.0\n")

    box = make_box(SITE, at={UPSTREAM: upstream, **({PROXY: metrics} if proxy else {})})
    disk(box).put(box.machine.places.ensembles, rows.encode())
    if router:
        disk(box).put(ROUTER, router.encode())
    return found("members", box)


def test_there_are_no_ensembles(make_box: MakeBox) -> None:
    assert found("members", make_box(SITE)).status == "skipped"


def test_nobody_knows_where_the_upstream_lists_nothing(make_box: MakeBox) -> None:
    box = make_box(SITE, at={UPSTREAM: lambda _: httpx.Response(401)})
    disk(box).put(box.machine.places.ensembles, row("a", "b").encode())
    assert found("members", box).status == "skipped"


def test_all_are_listed(make_box: MakeBox) -> None:
    finding = look(make_box, row("a", "b"), "a", "b", "c")
    assert (finding.status, finding.saw) == ("ok", "1 ensemble, all members listed")


def test_the_others_go_on_where_they_are_enough(make_box: MakeBox) -> None:
    finding = look(make_box, row("a", "mlx-b", least=1), "a", "mlx-c")
    assert finding.status == "warn"
    assert finding.saw == (
        f"{NAME}: the upstream has no mlx-b; 1 of its proposers are there, 1 are needed"
    )
    assert finding.fix == ("start mlx-b, or add it to LiteLLM's model_list; did you mean 'mlx-c'?")


def test_it_fails_where_they_are_not(make_box: MakeBox) -> None:
    finding = look(make_box, row("a", "b", "c", least=2), "a")
    assert finding.status == "fail"
    assert "no b and no c; 1 of its proposers are there, 2 are needed" in finding.saw
    assert [line.partition(",")[0] for line in finding.fix.splitlines()] == ["start b", "start c"]


def test_a_judge_has_somebody_who_stands_in(make_box: MakeBox) -> None:
    finding = look(make_box, row("a", "b", least=2, judge="j"), "a", "b")
    assert finding.status == "warn"
    assert "no j; 2 of its proposers" in finding.saw


def test_one_that_fails_is_told_with_all_others(make_box: MakeBox) -> None:
    rows = row("a", "b", least=2) + row("a", "b", name="opt-y-high-s")
    finding = look(make_box, rows, "a")
    assert finding.status == "fail"
    assert [line.partition(":")[0] for line in finding.saw.splitlines()] == [NAME, "opt-y-high-s"]
    assert len(finding.fix.splitlines()) == 1


def test_what_a_pattern_serves_need_not_be_listed(make_box: MakeBox) -> None:
    assert look(make_box, row("a", "mlx/b"), "a", "mlx/*").status == "ok"
    params = "litellm_params: {model: openai/*, api_base: 'http://192.168.1.72:8100/v1'}"
    router = f"model_list:\n- model_name: mlx/*\n  {params}\n"
    assert look(make_box, row("a", "mlx/b"), "a", router=router).status == "ok"
    assert look(make_box, row("a", "ov/b"), "a", router=router).status == "warn"


def test_one_of_its_file_that_it_does_not_list_is_not_served_yet(make_box: MakeBox) -> None:
    router = "model_list:\n- {model_name: b, litellm_params: {model: openai/b}}\n"
    assert look(make_box, row("a", "b"), "a", router=router).status == "warn"


def test_members_that_were_missed(make_box: MakeBox) -> None:
    def metric(name: str, count: str) -> str:
        return f'optillm_members_missing_total{{ensemble="{name}",model="b"}} {count}'

    finding = look(make_box, row("a", "b"), "a", "b", missed=metric(NAME, "3.0"))
    assert finding.status == "warn"
    assert finding.saw == f"{NAME}: since its start the service could not ask b 3 times"
    assert finding.fix.startswith(f"see what becomes of it: optictl ensemble {NAME}")
    assert look(make_box, row("a", "b"), "a", "b", missed=metric(NAME, "0.0")).status == "ok"
    other = metric("opt-gone-high-s", "1.0")
    assert look(make_box, row("a", "b"), "a", "b", missed=other).status == "ok"


def test_a_service_that_does_not_run_is_no_matter_here(make_box: MakeBox) -> None:
    assert look(make_box, row("a", "b"), "a", "b", proxy=False).status == "ok"
