"""``optictl ensemble``: what it shows, and what it refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from boxes import MakeBox, make_box
from typer.testing import CliRunner

from optictl.cli import build
from optictl.ensembling import switched, try_out
from optictl.errors import EnsembleFailed, UsageError
from optictl.wiring import selectors
from proxy.ensembles import Ensemble, Member, Team
from proxy.settings import Limits

__all__ = ["make_box"]  # a fixture, used by name

NAME = "opt-chat-balanced-m"
MODELS = "models: {large: a, medium: b, small: c}\n"
GATEWAY = "http://127.0.0.1:4000"


def run(site: Path, *arguments: str) -> Any:
    return CliRunner().invoke(build(), ["ensemble", *arguments, "--config", str(site)])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "optictl.yaml"
    path.write_text(f"proxy: {{base_model: b}}\n{MODELS}")
    return path


def test_it_can_be_explained_without_doing_anything(site: Path) -> None:
    shown = run(site, NAME, "--explain", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["data"]["name"] == NAME
    assert "CALLS" in run(site, NAME, "--explain").stdout.upper()


def test_an_unknown_name_is_refused_with_the_nearest(site: Path) -> None:
    refused = run(site, "opt-chat-balanced-n", "--dry-run")
    assert refused.exit_code == 2
    assert f"did you mean '{NAME}'" in refused.stderr


def test_a_model_that_the_site_does_not_name_is_named(site: Path) -> None:
    site.write_text("proxy: {base_model: b}\nmodels: {medium: b}\n")
    refused = run(site, NAME, "--dry-run")
    assert refused.exit_code == 2
    assert "models.large" in refused.stderr


def test_only_root_may(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(site, NAME, "--yes").exit_code == 77


class TestStaged:
    """The whole way but for systemd and LiteLLM."""

    @pytest.fixture
    def root(self, site: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "root/srv"
        folder.mkdir(parents=True)
        (folder / "router.yaml").write_bytes(b"model_list:\r\n- model_name: a\r\n")
        (folder / "env.local").write_bytes(b"A=1")
        (folder / "handles.jsonl").write_bytes(b"")
        site.write_text(
            f"{site.read_text()}gateway:\n  base_url: http://127.0.0.1:9/v1\n"
            "  router: /srv/router.yaml\n  env_file: /srv/env.local\n"
            "  handles: /srv/handles.jsonl\n"
        )
        return folder.parent

    def staged(self, site: Path, root: Path, *arguments: str) -> Any:
        return run(site, *arguments, "--root", str(root), "--systemd", "252")

    def files(self, root: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (root / "srv").iterdir()}

    def test_nobody_there_to_ask_nothing_is_done(self, site: Path, root: Path) -> None:
        before = self.files(root)
        refused = json.loads(self.staged(site, root, NAME, "--json").stdout)
        assert refused["errors"][0]["code"] == "needs_yes"
        assert self.files(root) == before

    def test_on_twice_and_off_again(self, site: Path, root: Path) -> None:
        before = self.files(root)
        done = self.staged(site, root, NAME, "--yes")
        assert done.exit_code == 0, done.output
        now = self.files(root)
        assert b'model_name: "opt-chat-balanced-m"\r\n' in now["router.yaml"]
        assert b"OPTILLM_OPT_CHAT_BALANCED_M_MODEL=" in now["env.local"]
        ours = (root / "etc/optillm-proxy/env").read_text()
        assert f'OPTILLM_OPT_CHAT_BALANCED_M_MODEL="moa-{NAME}"' in ours
        again = json.loads(self.staged(site, root, NAME, "--yes", "--json").stdout)
        assert again["data"]["already"]
        assert self.files(root) == now
        assert self.staged(site, root, NAME, "--off", "--yes").exit_code == 0
        assert self.files(root) == before
        assert NAME.upper() not in (root / "etc/optillm-proxy/env").read_text()

    def test_an_installation_keeps_what_is_on(self, site: Path, root: Path) -> None:
        self.staged(site, root, NAME, "--yes")
        now = self.files(root)
        common = ["--config", str(site), "--root", str(root), "--systemd", "252", "--yes"]
        done = CliRunner().invoke(build(), ["install", *common, "--set", "proxy.workers=2"])
        assert done.exit_code == 0, done.output
        assert self.files(root) == now

    def test_broken_markers_are_refused_with_their_line(self, site: Path, root: Path) -> None:
        router = root / "srv/router.yaml"
        router.write_bytes(router.read_bytes() + b"# END OPTICTL AUTO\r\n")
        refused = self.staged(site, root, NAME, "--yes")
        assert refused.exit_code == 2
        assert "/srv/router.yaml:3:" in refused.stderr


class TestSwitched:
    def test_an_ensemble_comes_last_and_keeps_its_place(self, make_box: MakeBox) -> None:
        machine = make_box(f"proxy: {{base_model: b}}\n{MODELS}").machine
        one = switched(machine, NAME, off=False)
        assert one.handles == (NAME,)
        two = switched(one, "opt-clean-fast-s", off=False)
        assert two.handles == (NAME, "opt-clean-fast-s")
        assert switched(two, NAME, off=False).handles == two.handles
        assert switched(two, NAME, off=True).handles == ("opt-clean-fast-s",)

    def test_litellm_asks_for_it_by_a_name_that_says_the_technique(self, make_box: MakeBox) -> None:
        machine = make_box(f"proxy: {{base_model: b}}\n{MODELS}").machine
        assert selectors(switched(machine, NAME, off=False).ensembles) == {NAME: f"moa-{NAME}"}

    def test_without_litellms_files_it_says_which_settings_are_missing(
        self, make_box: MakeBox
    ) -> None:
        machine = make_box(f"proxy: {{base_model: b}}\n{MODELS}").machine
        with pytest.raises(UsageError, match=r"gateway\.router"):
            _ = switched(machine, NAME, off=False).artifacts


class TestTryOut:
    ENSEMBLE = Ensemble(
        NAME, "moa", Team((Member("a"), Member("b"), Member("c")), 2), limits=Limits()
    )

    def tried(self, make_box: MakeBox, down: set[str]) -> tuple[Any, list[Any], list[str]]:
        asked: list[Any] = []
        told: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            asked.append((body["model"], body["max_tokens"]))
            if body["model"] in down:
                return httpx.Response(500, json={"error": {"message": "not loaded"}})
            return httpx.Response(200, json={"choices": [{"message": {"content": "Hello"}}]})

        site = f"proxy: {{base_model: b}}\n{MODELS}gateway: {{base_url: '{GATEWAY}/v1'}}\n"
        box = make_box(site, at={GATEWAY: answer})
        return try_out(box, self.ENSEMBLE, told.append), asked, told

    def test_every_member_is_warmed_and_then_the_handle_tried(self, make_box: MakeBox) -> None:
        tried, asked, told = self.tried(make_box, set())
        assert asked == [("a", 1), ("b", 1), ("c", 1), (NAME, 16)]
        assert set(tried.members) == {"a", "b", "c"}
        assert tried.missing == {}
        assert len(told) == 4

    def test_one_that_is_down_is_told_where_enough_are_there(self, make_box: MakeBox) -> None:
        tried, _, _ = self.tried(make_box, {"c"})
        assert tried.missing == {"c": "HTTP 500: not loaded"}

    def test_too_few_are_too_few(self, make_box: MakeBox) -> None:
        with pytest.raises(EnsembleFailed, match=r"too few .* b: HTTP 500: not loaded"):
            self.tried(make_box, {"b", "c"})

    def test_a_handle_that_does_not_answer_has_failed(self, make_box: MakeBox) -> None:
        with pytest.raises(EnsembleFailed, match=f"{NAME}: HTTP 500"):
            self.tried(make_box, {NAME})
