"""``optictl router fetch``, ``status`` and ``test``."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from tiny_classifier import write_classifier
from typer.testing import CliRunner, Result

from optictl import options, router_calibration, router_place
from optictl.cli import build
from optictl.errors import FetchFailed, NeedsRoot
from optictl.router_place import acting_as, of_site, of_user
from optictl.site import Site
from proxy.router import checkpoint
from proxy.router.calibration import Calibration


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(options, "DEFAULT_CONFIG", tmp_path / "none.yaml")
    monkeypatch.delenv("OPTICTL_CONFIG", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("OPTILLM_ROUTER_DIR", raising=False)
    return tmp_path / "hf"


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "carried")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["router", *arguments])


def told(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["data"]


class TestFetch:
    def test_a_folder_comes_into_the_cache(self, carried: Path, cache: Path) -> None:
        found = told("fetch", "--from", str(carried), "--no-calibrate")
        assert found["complete"]
        assert Path(found["path"]).is_relative_to(cache)
        assert found["bytes"] == (carried / "model.safetensors").stat().st_size

    def test_one_that_is_not_complete_is_refused(self, carried: Path) -> None:
        (carried / "tokenizer.json").unlink()
        result = run("fetch", "--from", str(carried))
        assert result.exit_code == 1
        assert "tokenizer.json is missing" in result.stderr
        assert not told("status")["complete"]

    def test_a_folder_that_flags_name_is_not_written(
        self, carried: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPTILLM_ROUTER_DIR", str(carried))
        assert run("fetch", "--from", str(carried)).exit_code != 0


class TestCalibrate:
    """What it computes is in tests/router; here it is told, and written where the service reads."""

    @pytest.fixture(autouse=True)
    def found(self, monkeypatch: pytest.MonkeyPatch) -> Calibration:
        found = Calibration(0.995, 0.2, 0.1)
        monkeypatch.setattr(router_place, "lacks", str)
        monkeypatch.setattr(router_calibration, "lacks", str)
        monkeypatch.setattr(router_calibration.model, "calibrate", lambda *_: found)
        return found

    def test_the_service_and_the_status_learn_of_it(self, carried: Path) -> None:
        assert told("fetch", "--from", str(carried), "--no-calibrate")["int8"] is None
        assert "optictl router calibrate" in run("status").stdout
        assert told("calibrate")["int8"] == {
            "used": True,
            "alike": 0.995,
            "milliseconds": 100.0,
            "full_milliseconds": 200.0,
            "said": "int8 decides 99.5% of the prompts alike, 2.0 times as fast",
        }
        assert "2.0 times as fast: the service uses it" in run("calibrate").stderr
        assert "2.0 times as fast" in run("status").stdout

    def test_a_fetch_finds_it_out_once(
        self, carried: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert told("fetch", "--from", str(carried))["int8"]["used"]
        monkeypatch.setattr(router_calibration.model, "calibrate", None)
        monkeypatch.setenv("OPTILLM_ROUTER_DIR", told("status")["path"])
        assert told("status")["int8"]["used"]

    def test_what_cannot_be_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        missing = run("calibrate")
        assert missing.exit_code == 1
        assert "optictl router fetch" in missing.stderr
        monkeypatch.setattr(router_calibration, "lacks", lambda: "torch is not installed")
        assert "torch is not installed" in run("calibrate").stderr

    def test_a_folder_that_cannot_be_written(
        self, carried: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPTILLM_ROUTER_DIR", str(carried))
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
        refused = run("calibrate")
        assert refused.exit_code == 1
        assert f"{carried} is not yours to write; run it with sudo" in refused.stderr

    def test_a_disk_that_is_full(self, carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setenv("OPTILLM_ROUTER_DIR", str(carried))
        monkeypatch.setattr(router_calibration, "remember", full)
        assert f"cannot write into {carried}: No space left on device" in run("calibrate").stderr


class TestStatus:
    def test_nothing_is_there(self, cache: Path) -> None:
        found = told("status")
        assert not found["complete"]
        assert "optictl router fetch" in found["why"]

    def test_a_missing_file_is_named(self, carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTILLM_ROUTER_DIR", str(carried))
        assert told("status")["complete"]
        (carried / "config.json").unlink()
        assert told("status")["why"] == f"{carried}/config.json is missing"

    def test_the_line_for_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(router_place, "lacks", lambda: "x is not installed; run: pip …")
        assert told("status")["extra"] == "x is not installed; run: pip …"

    def test_a_service_that_does_not_run(self, tmp_path: Path) -> None:
        site = tmp_path / "optictl.yaml"
        site.write_text(f"proxy: {{base_model: a, port: {free_port()}}}")
        found = told("status", "--config", str(site))
        assert found["state"] == "not running"
        assert "checkpoint" in run("status", "--config", str(site)).stdout


class TestTest:
    def test_every_rung_says_what_it_would_do(self) -> None:
        features, linear, classifier = told("test", "Write a function that parses a date.")
        assert (features["rung"], features["approach"]) == ("features", "rto")
        assert linear["approach"] == max(linear["shares"], key=linear["shares"].__getitem__)
        assert sum(linear["shares"].values()) == pytest.approx(1.0, abs=1e-3)
        assert classifier["approach"] is None
        assert "optictl router fetch" in classifier["why"]

    def test_a_prompt_without_words(self) -> None:
        assert [each["approach"] for each in told("test", " ")] == [None, None, None]

    def test_without_the_extra_the_classifier_says_so(
        self, carried: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPTILLM_ROUTER_DIR", str(carried))
        monkeypatch.setattr(checkpoint, "lacks", lambda: "torch is not installed")
        assert told("test", "Hi!")[2]["why"] == "torch is not installed"

    def test_a_service_that_cannot_be_asked_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = tmp_path / "optictl.yaml"
        site.write_text("service: {name: nowhere}\nproxy: {base_model: a}")
        result = run("test", "Hi!", "--config", str(site), "--json")
        socket = "/run/nowhere/router/socket"
        told = f"the service's classifier was not asked: {socket}: No such file or directory"
        assert told in result.stderr
        assert json.loads(result.stdout)["data"][2]["asked"] is None

        async def refused(_: Path) -> Any:
            raise PermissionError

        monkeypatch.setattr(asyncio, "open_unix_connection", refused)
        result = run("test", "Hi!", "--config", str(site))
        assert f"{socket} is the service's alone; run it with sudo" in result.stderr

    def test_the_table_is_for_people(self) -> None:
        shown = run("test", "Hi!").stdout
        assert [line.split()[0] for line in shown.splitlines()] == [
            "RUNG", "features", "linear", "classifier",
        ]  # fmt: skip


class TestPlace:
    def test_a_service_reads_the_cache_of_its_user(self) -> None:
        site = Site.model_validate({"proxy": {"base_model": "a"}})
        place = of_site(site, Path("/home/ann"))
        assert place.user == "optillm"
        assert place.repository.parent == Path("/home/ann/.cache/huggingface/hub")
        assert place.socket == Path("/run/optillm-proxy/router/socket")

    def test_one_of_a_user_is_asked_in_his_runtime_directory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
        site = Site.model_validate({"proxy": {"base_model": "a"}, "service": {"scope": "user"}})
        place = of_site(site, Path("/home/ann"))
        assert place.socket == Path("/run/user/1000/optillm-proxy/router/socket")

    @pytest.mark.parametrize("flags", [["--router-model", "/m"], ["--router_model=/m"]])
    def test_or_the_folder_that_its_flags_name(self, flags: list[str]) -> None:
        site = Site.model_validate({"proxy": {"base_model": "a", "flags": flags}})
        assert of_site(site, Path("/home/ann")).folder == Path("/m")

    def test_or_what_its_variables_say(self) -> None:
        variables = {"HF_HOME": "/big/hf", "OPTILLM_ROUTER_DIR": "/m"}
        site = Site.model_validate(
            {"proxy": {"base_model": "a"}, "service": {"environment": variables}}
        )
        place = of_site(site, Path("/home/ann"))
        assert place.repository.parent == Path("/big/hf/hub")
        assert place.folder == Path("/m")

    def test_one_without_a_site_reads_ones_own(self, cache: Path) -> None:
        assert of_user().repository.parent == cache / "hub"
        assert of_user().user is None


class TestActing:
    def test_a_user_that_is_not_there_yet(self) -> None:
        with pytest.raises(FetchFailed, match="no user nobody-here"), acting_as("nobody-here"):
            raise AssertionError

    def test_who_is_neither_root_nor_the_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        with pytest.raises(NeedsRoot), acting_as("root"):
            raise AssertionError

    def test_the_user_himself(self) -> None:
        with acting_as(pwd.getpwuid(os.geteuid()).pw_name):
            pass

    def test_root_is_another_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account, was = pwd.getpwnam("nobody"), list[tuple[str, Any]]()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        for name in ("setgroups", "setegid", "seteuid"):
            monkeypatch.setattr(os, name, lambda value, name=name: was.append((name, value)))
        with acting_as("nobody"):
            assert was[1:] == [("setegid", account.pw_gid), ("seteuid", account.pw_uid)]
        assert was[3:] == [("seteuid", 0), ("setegid", 0), ("setgroups", os.getgroups())]
