"""The checks of the proxy itself, against the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from boxes import PROXY, MakeBox, found, make_box
from conftest import MakeProxy

from optictl.box import Box
from optictl.simulator import SimulatorThread
from proxy.app import create_app
from proxy.board import Board
from proxy.hops import instance_id
from proxy.settings import Secret, Settings

__all__ = ["make_box"]  # a fixture, used by name

KEY = "sk-never-shown"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def site(key_file: Path) -> str:
    return f"proxy: {{base_model: sim, key: {{file: {key_file}}}}}"


def serving(make_proxy: MakeProxy, **settings: Any) -> httpx.WSGITransport:
    """The real proxy at its address, with the key of the site."""
    known = {"proxy_key": Secret(KEY), "instance": instance_id("127.0.0.1", 4020)}
    return httpx.WSGITransport(app=make_proxy(**{**known, **settings}).app)


@pytest.fixture
def box(make_box: MakeBox, make_proxy: MakeProxy, site: str) -> Box:
    return make_box(site, at={PROXY: serving(make_proxy)})


@pytest.mark.parametrize("name", ["ready", "models", "auth", "loop"])
def test_a_proxy_that_is_well(box: Box, name: str) -> None:
    finding = found(name, box)
    assert finding.status == "ok"
    assert KEY not in finding.saw


def test_a_proxy_that_is_down_is_one_failure(make_box: MakeBox, site: str) -> None:
    box = make_box(site)
    assert {name: found(name, box).status for name in ("ready", "models", "auth", "loop")} == {
        "ready": "fail",
        "models": "skipped",
        "auth": "skipped",
        "loop": "skipped",
    }
    finding = found("ready", box)
    assert finding.saw == f"nothing answers at {PROXY}/health/ready (Connection refused)"
    assert finding.fix.startswith("optictl logs")


class TestReady:
    def test_its_upstream_is_down(self, make_box: MakeBox, make_proxy: MakeProxy) -> None:
        down = serving(make_proxy, base_url="http://127.0.0.1:9/v1")
        finding = found("ready", make_box(at={PROXY: down}))
        assert finding.status == "fail"
        assert finding.saw.startswith("not ready: ")
        assert finding.fix.startswith("optictl check upstream")

    def test_its_last_reload_was_refused(self, make_box: MakeBox, sim: SimulatorThread) -> None:
        board = Board()
        board.refuse("proxy_config.yaml:3:1: unknown key")
        app = create_app(Settings(base_url=sim.url, model="sim"), None, board)
        app.engine.start()
        try:
            finding = found("ready", make_box(at={PROXY: httpx.WSGITransport(app=app)}))
        finally:
            app.engine.stop()
        assert finding.status == "warn"
        assert finding.saw.startswith("reload refused, the previous configuration serves")
        assert "proxy_config.yaml:3:1" in finding.saw
        assert finding.fix.startswith("optictl reload")

    @pytest.mark.parametrize(
        ("report", "said"),
        [
            ({"reason": "it refuses our key", "models_failing": []}, "b: it refuses our key"),
            ({"reason": None, "models_failing": ["gpt"]}, "calls fail: gpt at b"),
        ],
    )
    def test_a_provider_is_not_well(
        self, make_box: MakeBox, report: dict[str, Any], said: str
    ) -> None:
        body = {
            "status": "ok",
            "reason": None,
            "reload": None,
            "providers": [report | {"name": "b"}],
        }
        finding = found("ready", make_box(at={PROXY: lambda _: httpx.Response(200, json=body)}))
        assert finding.status == "warn"
        assert said in finding.saw

    @pytest.mark.parametrize("answer", [{"text": "<html>"}, {"json": ["ok"]}])
    def test_what_answers_is_no_proxy(self, make_box: MakeBox, answer: Any) -> None:
        box = make_box(at={PROXY: lambda _: httpx.Response(200, **answer)})
        finding = found("ready", box)
        assert finding.status == "fail"
        assert "is no optillm-proxy" in finding.saw

    def test_it_takes_too_long(self, make_box: MakeBox) -> None:
        def silent(request: httpx.Request) -> httpx.Response:
            raise httpx.ReadTimeout("", request=request)

        finding = found("ready", make_box(at={PROXY: silent}, timeout=1.0))
        assert finding.saw == f"{PROXY}/health/ready has not answered within 1 s"


class TestModels:
    def test_none(self, make_box: MakeBox) -> None:
        box = make_box(at={PROXY: lambda _: httpx.Response(200, json={"data": []})})
        assert found("models", box).status == "fail"

    def test_its_error_code_is_told(self, make_box: MakeBox, make_proxy: MakeProxy) -> None:
        down = serving(make_proxy, base_url="http://127.0.0.1:9/v1", proxy_key=None)
        finding = found("models", make_box(at={PROXY: down}))
        assert finding.status == "fail"
        assert "HTTP 502 (upstream_unreachable)" in finding.saw


class TestAuth:
    def test_no_key_is_a_warning(self, make_box: MakeBox) -> None:
        finding = found("auth", make_box())
        assert finding.status == "warn"
        assert "proxy.key" in finding.fix

    def test_no_key_where_others_can_reach_it_is_a_failure(self, make_box: MakeBox) -> None:
        box = make_box("proxy: {base_model: sim, host: 0.0.0.0, allow_external: true}")
        assert found("auth", box).status == "fail"

    def test_a_proxy_that_asks_nobody(
        self, make_box: MakeBox, make_proxy: MakeProxy, site: str
    ) -> None:
        box = make_box(site, at={PROXY: serving(make_proxy, proxy_key=None)})
        finding = found("auth", box)
        assert (finding.status, finding.saw) == (
            "fail",
            "no key is answered with HTTP 200, not 401",
        )

    def test_a_proxy_that_takes_any_key(self, make_box: MakeBox, site: str) -> None:
        def lax(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200 if "authorization" in request.headers else 401)

        finding = found("auth", make_box(site, at={PROXY: lax}))
        assert finding.saw == "a wrong key is answered with HTTP 200, not 401"

    def test_a_proxy_with_another_key(
        self, make_box: MakeBox, make_proxy: MakeProxy, site: str
    ) -> None:
        box = make_box(site, at={PROXY: serving(make_proxy, proxy_key=Secret("another"))})
        finding = found("auth", box)
        assert finding.status == "fail"
        assert finding.saw.startswith("the key of the site is refused")
        assert found("models", box).status == "fail"

    def test_without_the_right_key_the_rest_is_told(
        self, box: Box, key_file: Path, make_box: MakeBox
    ) -> None:
        key_file.unlink()
        finding = found("auth", box)
        assert finding.status == "skipped"
        assert finding.saw.startswith("no key and a wrong key are refused; the right one")


class TestLoop:
    def test_no_model_is_called(self, box: Box, sim: SimulatorThread) -> None:
        assert found("loop", box).status == "ok"
        assert sim.log.calls == 0

    def test_a_proxy_that_does_not_know_itself(
        self, make_box: MakeBox, make_proxy: MakeProxy, site: str
    ) -> None:
        box = make_box(site, at={PROXY: serving(make_proxy, instance="another")})
        finding = found("loop", box)
        assert finding.status == "fail"
        assert "gets HTTP 200, not 400 loop_detected" in finding.saw
