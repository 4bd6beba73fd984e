"""The checks of LiteLLM, and of a question all the way through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from boxes import PROXY, Answer, MakeBox, disk, found, make_box
from conftest import MakeProxy

from optictl.box import Box
from optictl.simulator import SimulatorThread
from proxy.hops import HEADER, instance_id
from proxy.settings import Secret

__all__ = ["make_box"]  # a fixture, used by name

LITELLM = "http://127.0.0.1:4000"
ROUTER = Path("/srv/litellm/router.yaml")
SITE = f"proxy: {{base_model: sim}}\ngateway: {{router: {ROUTER}}}"
MASTER = "sk-master-never-shown"
INSTANCE = instance_id("127.0.0.1", 4020)


def litellm(version: str = "1.106.2", *, status: int = 200, open_: bool = False) -> Answer:
    """What LiteLLM says of itself: older ones (``open_``) their version to everybody."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = {"status": "healthy", "db": "Not connected"}
        told = {**body, "litellm_version": version}
        if request.url.path == "/health/readiness":
            return httpx.Response(status, json=told if open_ else body)
        assert request.url.path == "/health/readiness/details"
        right = request.headers.get("authorization") == f"Bearer {MASTER}"
        return httpx.Response(200 if right else 401, json=told if right else {})

    return answer


@pytest.fixture
def keyed(tmp_path: Path) -> str:
    """The site, with the gateway's master key."""
    key = tmp_path / "master.key"
    key.write_text(MASTER)
    key.chmod(0o600)
    return f"proxy: {{base_model: sim}}\ngateway: {{router: {ROUTER}, master_key: {{file: {key}}}}}"


class TestGateway:
    @pytest.mark.parametrize("name", ["gateway", "gateway_settings"])
    def test_there_is_none(self, make_box: MakeBox, name: str) -> None:
        assert found(name, make_box()).status == "skipped"

    def test_its_version_by_its_key(self, make_box: MakeBox, keyed: str) -> None:
        finding = found("gateway", make_box(keyed, at={LITELLM: litellm()}))
        assert (finding.status, finding.saw) == ("ok", "LiteLLM 1.106.2 is ready")

    def test_an_older_one_tells_everybody(self, make_box: MakeBox) -> None:
        finding = found("gateway", make_box(SITE, at={LITELLM: litellm("1.74.3", open_=True)}))
        assert (finding.status, finding.saw) == ("ok", "LiteLLM 1.74.3 is ready")

    def test_without_the_key_its_version_is_not_known(self, make_box: MakeBox) -> None:
        finding = found("gateway", make_box(SITE, at={LITELLM: litellm()}))
        assert finding.status == "warn"
        assert finding.fix.startswith("set gateway.master_key in ")

    @pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
    def test_a_version_that_steals(self, make_box: MakeBox, keyed: str, version: str) -> None:
        finding = found("gateway", make_box(keyed, at={LITELLM: litellm(version)}))
        assert finding.status == "fail"
        assert "steals credentials" in finding.saw

    def test_it_is_not_ready(self, make_box: MakeBox) -> None:
        finding = found("gateway", make_box(SITE, at={LITELLM: litellm(status=503)}))
        assert finding.status == "fail"

    def test_it_is_down(self, make_box: MakeBox) -> None:
        finding = found("gateway", make_box(SITE))
        assert finding.status == "fail"
        assert finding.fix == "systemctl restart litellm.service"


class TestGatewaySettings:
    def box(self, make_box: MakeBox, text: str, version: str = "1.106.2") -> Box:
        box = make_box(SITE, at={LITELLM: litellm(version, open_=True)})
        disk(box).put(ROUTER, text.encode())
        return box

    def test_they_are_there(self, make_box: MakeBox) -> None:
        box = self.box(make_box, "general_settings: {cancel_on_disconnect: true}")
        assert found("gateway_settings", box).status == "ok"

    @pytest.mark.parametrize("value", ["false", "'true'", "null"])
    def test_another_value_is_not_meant(self, make_box: MakeBox, value: str) -> None:
        box = self.box(make_box, f"general_settings: {{cancel_on_disconnect: {value}}}")
        assert found("gateway_settings", box).status == "warn"

    def test_the_lines_to_paste_where_there_is_a_section(self, make_box: MakeBox) -> None:
        box = self.box(make_box, "model_list: []\ngeneral_settings:\n  master_key: x\n")
        finding = found("gateway_settings", box)
        assert finding.status == "warn"
        assert finding.fix == (
            f"add to {ROUTER}, under general_settings (line 2):\n  cancel_on_disconnect: true"
        )

    @pytest.mark.parametrize("text", ["model_list: []\n", "general_settings:\n"])
    def test_the_lines_to_paste_where_there_is_none(self, make_box: MakeBox, text: str) -> None:
        finding = found("gateway_settings", self.box(make_box, text))
        assert finding.fix == (f"add to {ROUTER}:\ngeneral_settings:\n  cancel_on_disconnect: true")

    def test_a_litellm_that_may_not_know_them(self, make_box: MakeBox) -> None:
        box = self.box(make_box, "model_list: []\n", version="1.74.3")
        assert "LiteLLM 1.74.3 may be too old" in found("gateway_settings", box).saw

    def test_its_file_is_not_there(self, make_box: MakeBox) -> None:
        assert found("gateway_settings", make_box(SITE)).status == "fail"

    def test_the_site_does_not_say_where(self, make_box: MakeBox) -> None:
        box = make_box("proxy: {base_model: sim}\ngateway: {}")
        assert found("gateway_settings", box).status == "skipped"


class Forwarding:
    """A LiteLLM that sends every chat on to the proxy, and notes what it was asked."""

    def __init__(self, proxy: httpx.WSGITransport, names: dict[str, str], **headers: str) -> None:
        self._proxy = proxy
        self._names = names
        self._headers = headers
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        body = orjson.loads(request.content)
        body["model"] = self._names[body["model"]]
        with httpx.Client(transport=self._proxy) as client:
            answer = client.post(
                f"{PROXY}/v1/chat/completions", json=body, headers=self._headers, timeout=30
            )
        prefixed = {f"llm_provider-{k}": v for k, v in answer.headers.items()}
        return httpx.Response(answer.status_code, headers=prefixed, json=answer.json())


class TestCanary:
    def proxy(self, make_proxy: MakeProxy, **settings: Any) -> httpx.WSGITransport:
        return httpx.WSGITransport(app=make_proxy(instance=INSTANCE, **settings).app)

    def test_straight_to_the_proxy_where_there_is_no_gateway(
        self, make_box: MakeBox, make_proxy: MakeProxy, sim: SimulatorThread
    ) -> None:
        finding = found("canary", make_box(at={PROXY: self.proxy(make_proxy)}))
        assert finding.status == "ok"
        assert finding.saw.startswith("straight to the proxy: self_consistency answered after ")
        assert 2 <= sim.log.choices <= 3

    @pytest.mark.parametrize(
        ("name", "model", "handle"),
        [
            ("opt-*", "openai/*", "opt-self_consistency-sim"),
            ("vote-*", "openai/self_consistency-*", "vote-sim"),
            ("voted", "openai/self_consistency-sim", "voted"),
            ("voted", "os.environ/VOTED_MODEL", "voted"),
        ],
    )
    def test_through_litellm_by_the_handle_that_leads_here(
        self,
        make_box: MakeBox,
        make_proxy: MakeProxy,
        tmp_path: Path,
        name: str,
        model: str,
        handle: str,
    ) -> None:
        env = tmp_path / "litellm.env"
        env.write_text(f"VOTED_MODEL=openai/self_consistency-sim\nMASTER={MASTER}\n")
        gateway = Forwarding(self.proxy(make_proxy), {handle: "self_consistency-sim"})
        box = make_box(
            f"proxy: {{base_model: sim}}\ngateway: {{router: {ROUTER}, env_file: {env}, "
            f"master_key: {{env_file: {env}, name: MASTER}}}}",
            at={LITELLM: gateway},
        )
        entries = [
            {
                "model_name": "sim",
                "litellm_params": {"model": "openai/sim", "api_base": "http://b"},
            },
            {"model_name": "x", "litellm_params": {"model": "openai/moa-x", "api_base": PROXY}},
            {"model_name": name, "litellm_params": {"model": model, "api_base": f"{PROXY}/v1"}},
        ]
        disk(box).put(ROUTER, orjson.dumps({"model_list": entries}))
        disk(box).put(env, env.read_bytes())
        finding = found("canary", box)
        assert finding.status == "ok"
        assert finding.saw.startswith(f"through LiteLLM as {handle}: ")
        [asked] = gateway.asked
        assert asked.headers["authorization"] == f"Bearer {MASTER}"

    def test_a_base_model_that_leads_back_is_a_loop(
        self, make_box: MakeBox, make_proxy: MakeProxy
    ) -> None:
        # As if LiteLLM had sent it back: with our own mark.
        looping = Forwarding(
            self.proxy(make_proxy), {"voted": "self_consistency-sim"}, **{HEADER: INSTANCE}
        )
        box = make_box(SITE, at={LITELLM: looping})
        entry = {"model": "openai/self_consistency-sim", "api_base": PROXY}
        disk(box).put(
            ROUTER,
            orjson.dumps({"model_list": [{"model_name": "voted", "litellm_params": entry}]}),
        )
        finding = found("canary", box)
        assert finding.status == "fail"
        assert "back to the proxy" in finding.saw

    def test_an_approach_that_makes_one_call_is_none(self, make_box: MakeBox) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"x-optillm-calls": "1"}, json={})

        finding = found("canary", make_box(at={PROXY: answer}))
        assert finding.status == "fail"
        assert "1 call" in finding.saw

    def test_an_answer_of_somebody_else(self, make_box: MakeBox) -> None:
        finding = found("canary", make_box(at={PROXY: lambda _: httpx.Response(200, json={})}))
        assert finding.status == "fail"
        assert "did not come from the proxy" in finding.saw

    def test_an_error_is_told_by_its_code(self, make_box: MakeBox, make_proxy: MakeProxy) -> None:
        down = self.proxy(make_proxy, base_url="http://127.0.0.1:9/v1", proxy_key=Secret("k"))
        finding = found("canary", make_box(at={PROXY: down}))
        assert finding.status == "fail"
        assert finding.saw.endswith("HTTP 401 (invalid_api_key)")
