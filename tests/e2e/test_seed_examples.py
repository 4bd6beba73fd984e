"""The examples of OptiLLM's proxy plugin, as its users have them in their programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import openai
import pytest
from conftest import Service, eventually, start_process
from raw_http import CHAT

from optictl.simulator import Behaviour, SimulatorThread

pytestmark = pytest.mark.xdist_group("litellm")

HELLO: Any = [{"role": "user", "content": "Hello"}]
MEANING = "What is the meaning of life?"


class Site:
    """The service as the examples start it, in front of a model called gpt-4."""

    def __init__(self, service: Service, sim: SimulatorThread) -> None:
        self.url = service.url
        self.sim = sim
        # Any string will do as a key.
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="dummy", max_retries=0)

    def sent(self) -> list[Mapping[str, Any]]:
        """What has reached the model."""
        return [call.body or {} for call in self.sim.log.records]


@pytest.fixture(scope="module", params=["--approach proxy", ""])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with SimulatorThread(Behaviour(), models=("gpt-4",), any_model=False) as sim:
        log = tmp_path_factory.mktemp("seeds") / "service.log"
        service = start_process(["--base-url", sim.url, *request.param.split()], log)
        try:
            yield Site(service.wait_healthy(), sim)
        finally:
            service.stop()


@pytest.fixture
def site(running: Site) -> Site:
    assert eventually(lambda: running.sim.log.inflight == 0)
    running.sim.log.clear()
    return running


class TestThePythonSDK:
    @pytest.mark.parametrize(
        ("model", "extra_body", "approach", "calls"),
        [
            ("gpt-4", None, "none", 1),
            ("proxy-gpt-4", None, "none", 1),
            ("gpt-4", {"optillm_approach": "proxy"}, "none", 1),
            ("gpt-4", {"optillm_approach": "proxy", "proxy_wrap": "moa"}, "moa", 5),
        ],
        ids=["normal request", "model prefix", "extra_body", "wrapping an approach"],
    )
    def test_methods_1_to_4(
        self,
        site: Site,
        model: str,
        extra_body: dict[str, str] | None,
        approach: str,
        calls: int,
    ) -> None:
        response = site.client.chat.completions.create(
            model=model, messages=HELLO, extra_body=extra_body
        )
        assert response.choices[0].message.content
        assert response.model == "gpt-4"
        assert response.usage is not None
        assert response.usage.completion_tokens > 0
        assert (response.model_extra or {})["optillm"]["approach"] == approach
        assert [body["model"] for body in site.sent()] == ["gpt-4"] * calls
        own = {"extra_body", "optillm_approach", "proxy_wrap"}
        assert not any(own & body.keys() for body in site.sent())

    def test_and_over_curl(self, site: Site) -> None:
        """There ``extra_body`` is a member of its own."""
        for model, extra_body, calls in (
            ("gpt-4", {"optillm_approach": "proxy"}, 1),
            ("gpt-4", {"optillm_approach": "proxy", "proxy_wrap": "moa"}, 5),
            ("bon&proxy-gpt-4", {}, 6),
        ):
            site.sim.log.clear()
            body = {"model": model, "messages": HELLO, "extra_body": extra_body}
            response = httpx.post(site.url + CHAT, json=body, timeout=60)
            assert response.status_code == 200, response.text
            assert len(site.sent()) == calls
            assert not any("extra_body" in sent for sent in site.sent())


class TestLangChain:
    """``llm = OpenAI(openai_api_base=…, model_name=…); llm("What is the meaning of life?")``

    LangChain itself is not installed here. These are the bodies that its class sends, recorded
    on the wire from langchain 0.0.350 (``langchain.llms.OpenAI``, of the examples' time) and from
    langchain-openai 1.7.3 (``langchain_openai.OpenAI``), to the endpoint that both use.
    """

    OF_THE_TIME: Mapping[str, Any] = {
        "prompt": [MEANING],
        "temperature": 0.7,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "n": 1,
        "logit_bias": {},
        "max_tokens": 256,
    }
    OF_TODAY: Mapping[str, Any] = {
        "prompt": [MEANING],
        "frequency_penalty": 0,
        "logprobs": None,
        "max_tokens": 256,
        "n": 1,
        "presence_penalty": 0,
        "seed": None,
        "temperature": 0.7,
        "top_p": 1,
    }

    @pytest.mark.parametrize("model", ["gpt-4", "proxy-gpt-4"])
    @pytest.mark.parametrize(
        "body",
        [OF_THE_TIME, {**OF_THE_TIME, "best_of": 1}, OF_TODAY],
        ids=["of the time", "older still", "of today"],
    )
    def test_a_call(self, site: Site, model: str, body: Mapping[str, Any]) -> None:
        response = site.client.completions.create(model=model, **body)
        assert response.object == "text_completion"
        assert response.choices[0].text
        assert response.choices[0].finish_reason == "stop"
        assert response.usage is not None
        (sent,) = site.sent()
        assert sent["messages"] == [{"role": "user", "content": MEANING}]
        assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("gpt-4", 256, 0.7)
        assert not {"prompt", "best_of"} & sent.keys()

    @pytest.mark.parametrize("body", [OF_THE_TIME, OF_TODAY], ids=["of the time", "of today"])
    def test_a_stream(self, site: Site, body: Mapping[str, Any]) -> None:
        """Then the prompt is no list."""
        chunks = site.client.completions.create(
            **{**body, "model": "proxy-gpt-4", "prompt": MEANING}, stream=True
        )
        texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
        assert len(texts) > 2
        assert "".join(texts)

    def test_several_generations(self, site: Site) -> None:
        """``OpenAI(n=2, best_of=2)``: OpenAI asks for a ``best_of`` that is no less than ``n``."""
        body = {**self.OF_THE_TIME, "n": 2, "best_of": 2}
        response = site.client.completions.create(model="proxy-gpt-4", **body)
        assert len({choice.text for choice in response.choices}) == 2
        with pytest.raises(openai.BadRequestError, match="best_of"):
            site.client.completions.create(model="proxy-gpt-4", **{**body, "best_of": 3})

    def test_the_class_of_the_time_asks_a_chat_model_for_a_chat(self, site: Site) -> None:
        """For a name that begins with gpt-4 it becomes another class, which adds two members."""
        body = {
            "messages": [{"role": "user", "content": MEANING}],
            "model": "gpt-4",
            "openai_api_base": f"{site.url}/v1",
            "openai_api_key": "dummy",
        }
        response = httpx.post(site.url + CHAT, json=body, timeout=60)
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"]
