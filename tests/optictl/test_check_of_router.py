"""The check of the router's classifier: each thing that can be wrong is told from the others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from boxes import PROXY, MakeBox, disk, found, make_box
from tiny_classifier import DAMAGES, SHAPES, write_classifier, write_weights

import optictl.checks.router as router_check
from optictl.router_place import Place
from proxy.router import calibration
from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import inspect
from proxy.router.config import NO_COMPILER, Unusable

__all__ = ["make_box"]  # a fixture, used by name


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is there and reads any tokenizer; of real ones see tests/router."""
    monkeypatch.setattr(router_check, "lacks", lambda: "")
    monkeypatch.setattr(router_check, "Tokeniser", lambda file: None)


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
    return without_site(finding.fix)


def without_site(fix: str) -> str:
    return re.sub(r" --config [^\s;,]+", "", fix)


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


def in_cache(home: Path) -> Path:
    """A folder with a classifier, where a fetch into ``home`` puts it."""
    repository = Place({"HF_HOME": str(home)}).repository
    folder = write_classifier(repository / "snapshots" / "x")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("x")
    return folder


class TestDamaged:
    """A checkpoint that is no good is told by what is wrong, whatever the service says."""

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_in_a_folder_of_ones_own(self, make_box: MakeBox, tmp_path: Path, damage: str) -> None:
        spoil, told = DAMAGES[damage]
        folder = write_classifier(tmp_path / "c")
        spoil(folder)
        finding = found("router", make_box(site(folder), at=says("loading")))
        assert finding.saw.startswith(f"{folder}{told}")
        assert (finding.status, finding.fix) == (
            "fail", f"put the checkpoint into {folder}, or drop --router-model",
        )  # fmt: skip

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_in_the_cache(self, make_box: MakeBox, tmp_path: Path, damage: str) -> None:
        spoil, told = DAMAGES[damage]
        folder = in_cache(tmp_path)
        spoil(folder)
        finding = found("router", make_box(site(home=tmp_path), at=says("loading")))
        assert finding.saw.startswith(f"{folder}{told}")
        assert "fetch it again" not in finding.saw
        assert (finding.status, command(finding)) == ("fail", "optictl router fetch")

    def test_what_may_have_been_meant_is_told(self, make_box: MakeBox, tmp_path: Path) -> None:
        folder = write_classifier(tmp_path / "c")
        write_weights(folder, {n.removeprefix("base_model."): s for n, s in SHAPES.items()})
        finding = found("router", make_box(site(folder)))
        assert "without base_model. before it: the router goes by words" in finding.saw

    @pytest.fixture
    def unread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(file: Path) -> NoReturn:
            raise Unusable(f"{file}: EOF while parsing")

        monkeypatch.setattr(router_check, "Tokeniser", refuse)

    @pytest.mark.usefixtures("unread")
    def test_a_tokenizer_of_ones_own(self, make_box: MakeBox, tmp_path: Path) -> None:
        folder = write_classifier(tmp_path / "c")
        finding = found("router", make_box(site(folder), at=says("loading")))
        assert finding.saw.startswith(f"{folder}/tokenizer.json: EOF while parsing: the router ")
        assert (finding.status, finding.fix) == (
            "fail", f"put the checkpoint into {folder}, or drop --router-model",
        )  # fmt: skip

    @pytest.mark.usefixtures("unread")
    def test_a_tokenizer_in_the_cache(self, make_box: MakeBox, tmp_path: Path) -> None:
        folder = in_cache(tmp_path)
        finding = found("router", make_box(site(home=tmp_path), at=says("loading")))
        assert finding.saw.startswith(f"{folder}/tokenizer.json: EOF while parsing: ")
        assert (finding.status, command(finding)) == ("fail", "optictl router fetch")

    @pytest.mark.usefixtures("unread")
    def test_a_tokenizer_that_nobody_asks_for(self, make_box: MakeBox, tmp_path: Path) -> None:
        box = make_box(site(write_classifier(tmp_path / "c"), approach="moa"))
        assert found("router", box).status == "skipped"

    def test_a_tokenizer_that_is_hidden_from_us(
        self, make_box: MakeBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(file: Path) -> NoReturn:
            try:
                raise PermissionError(13, "Permission denied", str(file))
            except OSError as error:
                raise Unusable(f"{file}: {error}") from None

        monkeypatch.setattr(router_check, "Tokeniser", refuse)
        box = make_box(site(write_classifier(tmp_path / "c")))
        assert found("router", box).status == "skipped"


def test_the_unit_forbids_what_torch_does(make_box: MakeBox, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "c")
    finding = found("router", make_box(site(folder, profile="strict"), at=says("ready")))
    assert finding.status == "fail"
    assert "set service.profile: torch in " in finding.fix


def test_a_calibration_of_another_torch(
    make_box: MakeBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classifier(tmp_path / "c")
    box = make_box(site(folder), at=says("ready", "bf16"))
    assert "nobody has tried whether int8" in found("router", box).saw
    remember(inspect(folder), Calibration(1.0, 0.1, 0.2))
    assert found("router", box).saw == "the classifier is ready: bf16"
    remember(inspect(folder), Calibration(1.0, 0.1, 0.2, compiled=False))
    saw = found("router", box).saw
    assert "int8 was tried without a C compiler: it is a quarter faster with one" in saw
    assert "apt-get install gcc libc6-dev, then optictl router calibrate --config" in saw
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


PUT = "put the checkpoint into {}, or drop --router-model"


@pytest.mark.parametrize(
    ("state", "why", "status", "saw", "fix"),
    [
        ("ready", "int8, 2 threads", "ok", "the classifier is ready: int8, 2 threads", ""),
        ("ready", f"int8, not compiled: {NO_COMPILER}", "ok", "the classifier is ready: int8, not "
         f"compiled: {NO_COMPILER}; it is a quarter faster with one: apt-get install gcc "
         "libc6-dev, then optictl restart", ""),
        ("ready", "int8, not compiled: cc ended with 1", "ok",
         "the classifier is ready: int8, not compiled: cc ended with 1", ""),
        ("ready", "bf16, 2 threads", "ok", "the classifier is ready: bf16, 2 threads; nobody has "
         "tried whether int8 does as well, in half of the memory: optictl router calibrate", ""),
        ("loading", None, "warn", "the classifier is loading", "wait, or see: optictl logs"),
        # It has crashed, hangs while it loads, hangs at a decision.
        ("loading", "its process has ended", "fail", "its process has ended", "optictl logs"),
        ("loading", "it has been loading for 130 s", "fail", "it has been loading for 130 s",
         "optictl logs"),
        ("loading", "it has not answered for 12 s", "fail", "it has not answered for 12 s",
         "optictl logs"),
        ("absent", "too slow: 64 tokens take 0.9 s", "warn",
         "the classifier is too slow: 64 tokens take 0.9 s",
         "leave it more of the CPU, or set --no-router; it tries itself again every minute"),
        # It has been started without: before the extra was installed, the model fetched.
        ("absent", "no model", "fail", "the service has no classifier: no model",
         "optictl restart"),
        ("absent", "torch is not installed; run: pip install x", "fail",
         "the service has no classifier: torch is not installed", "optictl restart"),
        # What cannot be seen here: a restart would not mend it.
        ("absent", "{}: header\n  too large", "fail",
         "the service has no classifier: {}: header too large", f"{PUT}, then: optictl restart"),
        ("absent", "cannot read {}/config.json: Permission denied", "fail",
         "the service has no classifier: cannot read {}/config.json: Permission denied",
         "let the user optillm read {}, then: optictl restart"),
        # What was seen to be well here.
        ("absent", "{}/tokenizer.json: EOF while parsing", "fail",
         "the service has no classifier: {}/tokenizer.json: EOF while parsing",
         f"optictl restart; where it says so again: {PUT}"),
        ("absent", "{}/model.safetensors: what it decides is no number; fetch it again", "fail",
         "the service has no classifier: {}/model.safetensors: what it decides is no number",
         f"optictl restart; where it says so again: {PUT}"),
        # Of another place.
        ("absent", "{}2/tokenizer.json: EOF while parsing", "fail",
         "the service has no classifier: {}2/tokenizer.json: EOF while parsing",
         "optictl restart"),
    ],
)  # fmt: skip
def test_what_the_service_says(
    make_box: MakeBox, tmp_path: Path, state: str, why: str | None, status: str, saw: str, fix: str
) -> None:
    folder = write_classifier(tmp_path / "c")
    box = make_box(site(folder), at=says(state, why and why.format(folder)))
    finding = found("router", box)
    assert (finding.status, without_site(finding.saw), without_site(finding.fix)) == (
        status, saw.format(folder), fix.format(folder),
    )  # fmt: skip


def test_weights_in_the_cache_that_torch_cannot_read(make_box: MakeBox, tmp_path: Path) -> None:
    folder = in_cache(tmp_path)
    box = make_box(site(home=tmp_path), at=says("absent", f"{folder}: header too large"))
    assert without_site(found("router", box).fix) == (
        f"rm {folder}/model.safetensors, then: optictl router fetch, then: optictl restart"
    )


def test_a_service_that_does_not_answer_is_no_matter_here(
    make_box: MakeBox, tmp_path: Path
) -> None:
    finding = found("router", make_box(site(write_classifier(tmp_path / "c"))))
    assert finding.status == "skipped"
