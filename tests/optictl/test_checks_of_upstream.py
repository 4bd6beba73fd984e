"""The checks of the upstream, of the way to it, and of the neighbours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from boxes import MakeBox, disk, found, install, make_box

from optictl.simulator import Behaviour, SimulatorThread

__all__ = ["make_box"]  # a fixture, used by name

UPSTREAM = "http://127.0.0.1:4000"
CONFIG = Path("/etc/optillm-proxy/proxy_config.yaml")
KEY = "sk-never-shown"


@pytest.fixture
def guarded() -> Iterator[SimulatorThread]:
    with SimulatorThread(Behaviour(), models=("qwen3", "gemma"), api_key=KEY) as simulator:
        yield simulator


def site(upstream: str, tmp_path: Path, key: str = KEY, base: str = "qwen3") -> str:
    path = tmp_path / "litellm.env"
    path.write_text(f"KEY={key}\n")
    return (
        f"proxy: {{base_model: {base}}}\n"
        f"upstream: {{base_url: {upstream}, key: {{env_file: {path}, name: KEY}}}}"
    )


def at(sim: SimulatorThread) -> dict[str, httpx.BaseTransport]:
    return {sim.url.removesuffix("/v1"): httpx.HTTPTransport()}


class TestUpstream:
    def test_it_answers_and_takes_our_key(
        self, make_box: MakeBox, guarded: SimulatorThread, tmp_path: Path
    ) -> None:
        box = make_box(site(guarded.url, tmp_path), at=at(guarded))
        finding = found("upstream", box)
        assert (finding.status, finding.saw) == ("ok", f"{guarded.url} serves 2 models")

    def test_it_refuses_our_key(
        self, make_box: MakeBox, guarded: SimulatorThread, tmp_path: Path
    ) -> None:
        box = make_box(site(guarded.url, tmp_path, key="sk-wrong"), at=at(guarded))
        finding = found("upstream", box)
        assert finding.status == "fail"
        assert "refuses our key (HTTP 401)" in finding.saw
        assert "upstream.key" in finding.fix
        assert found("base_model", box).status == "skipped"

    def test_litellm_quotes_a_wrong_key_and_we_do_not(self, make_box: MakeBox) -> None:
        said = {"error": {"message": f"No connected db. Received key: {KEY}"}}
        box = make_box(at={UPSTREAM: lambda _: httpx.Response(400, json=said)})
        finding = found("upstream", box)
        assert "wants a key (HTTP 400)" in finding.saw
        assert KEY not in finding.saw

    def test_nobody_is_there(self, make_box: MakeBox) -> None:
        box = make_box("proxy: {base_model: sim}\ngateway: {restart: [systemctl, restart, llm]}")
        finding = found("upstream", box)
        assert finding.saw == f"nothing answers at {UPSTREAM}/v1/models (Connection refused)"
        assert finding.fix.startswith("systemctl restart llm")
        assert found("base_model", box).status == "skipped"

    def test_something_else_is_there(self, make_box: MakeBox) -> None:
        box = make_box(at={UPSTREAM: lambda _: httpx.Response(404, text="<html>")})
        assert "HTTP 404" in found("upstream", box).saw

    def test_a_password_in_the_address_is_not_shown(self, make_box: MakeBox) -> None:
        box = make_box(
            f"proxy: {{base_model: sim}}\nupstream: {{base_url: 'http://me:{KEY}@127.0.0.1:4000/v1'}}"
        )
        assert KEY not in found("upstream", box).saw


class TestBaseModel:
    def test_it_is_there(self, make_box: MakeBox, guarded: SimulatorThread, tmp_path: Path) -> None:
        box = make_box(site(guarded.url, tmp_path), at=at(guarded))
        assert found("base_model", box).status == "ok"

    def test_another_name_is_meant(
        self, make_box: MakeBox, guarded: SimulatorThread, tmp_path: Path
    ) -> None:
        box = make_box(site(guarded.url, tmp_path, base="qwen"), at=at(guarded))
        finding = found("base_model", box)
        assert finding.status == "fail"
        assert finding.saw == "the upstream has no qwen; did you mean 'qwen3'?"
        assert finding.fix == f"mend proxy.base_model ({tmp_path}/optictl.yaml:1)"


class TestProviders:
    def test_as_rendered(self, make_box: MakeBox) -> None:
        box = make_box()
        install(box)
        assert found("providers", box).status == "ok"

    def test_not_installed(self, make_box: MakeBox) -> None:
        assert found("providers", make_box()).status == "fail"

    @pytest.mark.parametrize(
        "second",
        [
            "{name: cloud, base_url: 'https://api.openai.com/v1'}",
            "{name: cloud}",
            "{name: cloud, base_url: '${ELSEWHERE}'}",
        ],
    )
    def test_one_leads_elsewhere(self, make_box: MakeBox, second: str) -> None:
        box = make_box()
        first = f"{{name: litellm, base_url: {UPSTREAM}/v1/}}"
        disk(box).put(CONFIG, f"providers:\n  - {first}\n  - {second}\n".encode())
        finding = found("providers", box)
        assert finding.status == "fail"
        assert finding.saw.startswith(f"{CONFIG}:3: a provider leads to ")
        assert finding.fix.startswith("optictl plan")

    def test_a_file_that_is_no_yaml(self, make_box: MakeBox) -> None:
        box = make_box()
        disk(box).put(CONFIG, b"providers: [")
        finding = found("providers", box)
        assert finding.status == "fail"
        assert f"{CONFIG}:1:" in finding.saw

    def test_optillms_own_file_is_not_what_is_read(self, make_box: MakeBox) -> None:
        box = make_box("service: {user: nobody-of-ours}\nproxy: {base_model: sim}")
        old = Path("/home/nobody-of-ours/.optillm/proxy_config.yaml")
        install(box).put(old, b"providers: []")
        finding = found("providers", box)
        assert finding.status == "warn"
        assert str(old) in finding.saw


class TestNeighbours:
    SITE = "proxy: {{base_model: sim}}\nneighbours:\n  - {{name: searxng, {}}}\n"

    def test_none_is_named(self, make_box: MakeBox) -> None:
        assert found("neighbours", make_box()).status == "skipped"

    def test_by_address(self, make_box: MakeBox) -> None:
        box = make_box(
            self.SITE.format("url: 'http://mini:8888/x', expect: 204"),
            at={"http://mini:8888": lambda _: httpx.Response(204)},
        )
        assert (found("neighbours", box).status, found("neighbours", box).saw) == ("ok", "searxng")

    def test_another_answer(self, make_box: MakeBox) -> None:
        box = make_box(
            self.SITE.format("url: 'http://mini:8888/x'"),
            at={"http://mini:8888": lambda _: httpx.Response(502)},
        )
        finding = found("neighbours", box)
        assert finding.status == "fail"
        assert finding.saw == "searxng: HTTP 502, not 200, at http://mini:8888/x"

    def test_all_that_do_not_answer_are_named(self, make_box: MakeBox) -> None:
        more = "  - {name: open-webui, url: 'http://mini:3000/health'}\n"
        box = make_box(self.SITE.format("url: 'http://mini:8888/x'") + more)
        said = found("neighbours", box).saw
        assert "searxng: nothing answers" in said
        assert "open-webui: nothing answers" in said

    def test_by_port(self, make_box: MakeBox) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            for address in (f"'{port}'", f"'127.0.0.1:{port}'"):
                box = make_box(self.SITE.format(f"port: {address}"))
                assert found("neighbours", box).status == "ok"
        finding = found("neighbours", make_box(self.SITE.format(f"port: '{port}'")))
        assert finding.saw == f"searxng: nothing listens at 127.0.0.1:{port} (Connection refused)"
