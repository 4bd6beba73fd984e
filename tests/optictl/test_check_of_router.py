"""The check of the router's classifier: each thing that can be wrong is told from the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from boxes import PROXY, MakeBox, disk, found, make_box
from tiny_classifier import write_classifier

import optictl.checks.router as router_check
from optictl.router_place import Place
from proxy.router import calibration
from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import inspect

__all__ = ["make_box"]  # a fixture, used by name


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_check, "lacks", lambda: "")


def site(
    folder: Path | None = None,
    *,
    approach: str = "router",
    home: Path | None = None,
    profile: str = "torch",
) -> str:
    flags = f", flags: [--router-model={folder}]" if folder else ""
    variables = f", environment: {{HF_HOME: {home}}}" if home else ""
    service = f"service: {{profile: {profile}{variables}}}\n"
    return f"{service}proxy: {{base_model: a, approach: {approach}{flags}}}"


def says(router: str, why: str | None = None) -> dict[str, Any]:
    answer = {"status": "ok", "router": router, "router_why": why}
    return {PROXY: lambda _: httpx.Response(200, json=answer)}


def command(finding: Any) -> str:
    """The mend, without the site that it is for."""
    return str(finding.fix).partition(" --config")[0]


def test_nothing_is_routed(make_box: MakeBox, tmp_path: Path) -> None:
    finding = found("router", make_box(site(approach="proxy", home=tmp_path)))
    assert finding.status == "skipped"


def test_none_is_wanted(make_box: MakeBox) -> None:
    box = make_box("proxy: {base_model: a, approach: router, flags: [--no-router]}")
    assert found("router", box).status == "skipped"


@pytest.mark.parametrize("approach", ["router", "auto", "'re2&router'"])
def test_there_is_no_model(make_box: MakeBox, tmp_path: Path, approach: str) -> None:
    finding = found("router", make_box(site(approach=approach, home=tmp_path)))
    assert (finding.status, command(finding)) == ("warn", "optictl router fetch")
    assert f"is not in {tmp_path}/hub: the router goes by words" in finding.saw


def test_an_ensemble_that_routes_is_a_use(make_box: MakeBox, tmp_path: Path) -> None:
    box = make_box(site(approach="proxy", home=tmp_path))
    row = '{"ensemble": "opt-x-high-s", "approach": "router", "members": [{"model": "a"}]}\n'
    disk(box).put(box.machine.places.ensembles, row.encode())
    assert found("router", box).status == "warn"


def test_the_extra_lacks(
    make_box: MakeBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_check, "lacks", lambda: "torch is not installed; run: pip install x")
    finding = found("router", make_box(site(write_classifier(tmp_path / "c"))))
    assert (finding.status, command(finding)) == ("warn", "pip install x")
    assert finding.saw.startswith("torch is not installed: ")


def test_a_broken_one_is_named_by_its_first_wrong_tensor(make_box: MakeBox, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "c", leave_out="classifier.bias")
    finding = found("router", make_box(site(folder)))
    assert (finding.status, finding.fix) == (
        "fail", f"put the checkpoint into {folder}, or drop --router-model",
    )  # fmt: skip
    assert "the tensor classifier.bias is missing" in finding.saw


def test_a_broken_one_in_the_cache_is_fetched_again(make_box: MakeBox, tmp_path: Path) -> None:
    repository = Place({"HF_HOME": str(tmp_path)}).repository
    write_classifier(repository / "snapshots" / "x", leave_out="effort_encoder.0.bias")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("x")
    finding = found("router", make_box(site(home=tmp_path)))
    assert (finding.status, command(finding)) == ("fail", "optictl router fetch")
    assert "the tensor effort_encoder.0.bias is missing" in finding.saw


def test_the_unit_forbids_what_torch_does(make_box: MakeBox, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "c")
    finding = found("router", make_box(site(folder, profile="strict"), at=says("ready")))
    assert finding.status == "fail"
    assert "set service.profile: torch in " in finding.fix


def test_a_calibration_of_another_torch(
    make_box: MakeBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classifier(tmp_path / "c")
    box = make_box(site(folder), at=says("ready", "int8"))
    assert found("router", box).status == "ok"
    remember(inspect(folder), Calibration(1.0, 0.2, 0.1))
    assert found("router", box).status == "ok"
    monkeypatch.setattr(calibration, "version", lambda _: "99.0")
    finding = found("router", box)
    assert (finding.status, command(finding)) == ("warn", "optictl router calibrate")
    assert "it is not used" in finding.saw


class TestHomes:
    @pytest.fixture(autouse=True)
    def hidden(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(router_check, "HIDDEN", (tmp_path,))

    def test_a_folder_in_one_is_hidden(self, make_box: MakeBox, tmp_path: Path) -> None:
        folder = write_classifier(tmp_path / "c")
        finding = found("router", make_box(site(folder), at=says("absent", "it is missing")))
        assert finding.status == "fail"
        assert f"the unit hides {folder} from the service (ProtectHome=)" in finding.saw
        assert finding.fix.startswith("copy it to /var/lib/optillm-proxy/router, name that in ")

    def test_a_cache_in_one_is_hidden(self, make_box: MakeBox, tmp_path: Path) -> None:
        finding = found("router", make_box(site(home=tmp_path)))
        assert finding.status == "fail"
        assert finding.fix.startswith("set HF_HOME: /var/lib/optillm-proxy/router in ")
        assert ", then: optictl router fetch" in finding.fix

    def test_what_the_unit_shows_of_one_is_not(self, make_box: MakeBox, tmp_path: Path) -> None:
        box = make_box(site(home=tmp_path))
        shown = box.machine.home / ".cache/huggingface"
        finding = found("router", make_box(site(home=shown)))
        assert finding.status == "warn"

    def test_a_drop_in_may_show_it(self, make_box: MakeBox, tmp_path: Path) -> None:
        box = make_box(site(write_classifier(tmp_path / "c")), at=says("ready", "bf16"))
        assert found("router", box).status == "ok"

    def test_a_user_s_own_systemd_hides_nothing(self, make_box: MakeBox, tmp_path: Path) -> None:
        folder = write_classifier(tmp_path / "c")
        own = site(folder).replace("{profile: torch", "{profile: torch, scope: user")
        finding = found("router", make_box(own, at=says("absent", "no model")))
        assert finding.saw == "the service has no classifier: no model"


@pytest.mark.parametrize(
    ("state", "why", "status", "saw", "fix"),
    [
        ("ready", "bf16, 2 threads", "ok", "the classifier is ready: bf16, 2 threads", ""),
        ("loading", None, "warn", "the classifier is loading", "wait, or see: optictl logs"),
        ("loading", "its process has ended", "fail", "its process has ended", "optictl logs"),
        (
            "absent",
            "no model",
            "fail",
            "the service has no classifier: no model",
            "optictl restart",
        ),
    ],
)
def test_what_the_service_says(
    make_box: MakeBox, tmp_path: Path, state: str, why: str | None, status: str, saw: str, fix: str
) -> None:
    box = make_box(site(write_classifier(tmp_path / "c")), at=says(state, why))
    finding = found("router", box)
    assert (finding.status, finding.saw, command(finding)) == (status, saw, fix)


def test_a_service_that_does_not_answer_is_no_matter_here(
    make_box: MakeBox, tmp_path: Path
) -> None:
    finding = found("router", make_box(site(write_classifier(tmp_path / "c"))))
    assert finding.status == "skipped"
