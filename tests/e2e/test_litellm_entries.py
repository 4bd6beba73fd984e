"""A real LiteLLM with a file of its owner's, our block in it, and our lines in its variables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import QUESTION, free_port
from gateway import MASTER_KEY, Gateway

from optictl.blocks import with_block
from optictl.litellm_entries import Surroundings, entries, env_lines
from optictl.simulator import Behaviour, Fault, SimulatorThread
from optictl.unit_file import environment_file
from proxy.ensembles import Ensemble, Member, Team
from proxy.settings import Limits

pytestmark = [pytest.mark.xdist_group("litellm"), pytest.mark.timeout(240)]

NAMES = ("opt-code-balanced-l", "opt-chat-fast-s")
SELECTORS = {"opt-code-balanced-l": "re2&moa-base|bon-base", "opt-chat-fast-s": "opt-chat-fast-s"}
AUTHORIZED = {"Authorization": f"Bearer {MASTER_KEY}"}
ROUTER, ENV = Path("router.yaml"), Path("env.local")
#: With what others have put there: a key that stands twice, an anchor, a block of another tool.
THEIRS = """\
# the lab's models\r
model_list:\r
    # BEGIN MLXCTL AUTO\r
    - model_name: base\r
      litellm_params: &plain\r
        model: os.environ/BASE_MODEL\r
        api_base: os.environ/BASE_API_BASE\r
        api_key: none\r
      model_info: {max_input_tokens: 9000, max_input_tokens: 8000, max_output_tokens: 500}\r
    # END MLXCTL AUTO\r
\r
general_settings:\r
    master_key: os.environ/LITELLM_MASTER_KEY\r
    cancel_on_disconnect: true"""


def ensemble(name: str) -> Ensemble:
    return Ensemble(name, "moa", Team((Member("base"),)), limits=Limits(max_seconds=20))


@pytest.fixture(scope="module")
def proxy() -> Iterator[SimulatorThread]:
    """What stands where the proxy will: it answers to whatever it is asked for."""
    known = ("base", *SELECTORS.values(), "optictl-health")
    with SimulatorThread(Behaviour(), models=known) as sim:
        yield sim


@pytest.fixture(scope="module")
def gateway(proxy: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    listed = yaml.safe_load(THEIRS)["model_list"]
    around = Surroundings(600, version=(1, 106, 2), listed=listed)
    router = with_block(
        THEIRS.encode(), entries(map(ensemble, NAMES), around), ROUTER, where="router"
    )
    theirs = f"LITELLM_MASTER_KEY={MASTER_KEY}\nBASE_MODEL=openai/base\nBASE_API_BASE={proxy.url}"
    lines = env_lines(SELECTORS, proxy.url, "key $of `ours`")
    env = with_block(theirs.encode(), lines, ENV, where="env")
    started = Gateway(free_port(), tmp_path_factory.mktemp("entries"))
    try:
        yield started.start_from(router, environment_file(env))
    finally:
        started.stop()


def ask(gateway: Gateway, model: str) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": QUESTION}]},
        headers=AUTHORIZED,
        timeout=60,
    )


def read(gateway: Gateway, path: str) -> Any:
    return httpx.get(f"{gateway.url}{path}", headers=AUTHORIZED, timeout=60).json()


@pytest.mark.parametrize(("name", "asked"), [("base", "base"), *SELECTORS.items()])
def test_it_answers_for_every_handle(
    gateway: Gateway, proxy: SimulatorThread, name: str, asked: str
) -> None:
    proxy.log.clear()
    answer = ask(gateway, name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    [record] = proxy.log.records
    assert record.model == asked
    assert float(answer.headers.get("x-litellm-response-cost", 0)) == 0
    # What LiteLLM does not know it passes on.
    assert set(record.body or {}) <= {"model", "messages"}


def test_it_knows_what_the_entries_tell(gateway: Gateway) -> None:
    told = {each["model_name"]: each for each in read(gateway, "/model/info")["data"]}
    assert set(told) == {"base", *NAMES}
    for name in NAMES:
        info = told[name]["model_info"]
        assert info["id"] == f"optictl-{name}"
        assert (info["max_input_tokens"], info["max_output_tokens"]) == (8000, 500)
        assert (info["input_cost_per_token"], info["output_cost_per_token"]) == (0, 0)


def test_its_health_check_asks_no_model_of_a_handle(
    gateway: Gateway, proxy: SimulatorThread
) -> None:
    proxy.log.clear()
    health = read(gateway, "/health")
    assert (health["healthy_count"], health["unhealthy_count"]) == (3, 0)
    asked = [record for record in proxy.log.records if record.model != "base"]
    assert [record.model for record in asked] == ["optictl-health"] * len(NAMES)
    assert {(record.body or {}).get("max_tokens") for record in asked} == {1}


def test_a_handle_that_fails_is_asked_once_and_again_the_next_time(
    gateway: Gateway, proxy: SimulatorThread
) -> None:
    proxy.log.clear()
    proxy.behave(faults=(Fault(503, times=1), Fault(401, times=1)))
    statuses = [ask(gateway, NAMES[0]).status_code for _ in range(3)]
    assert statuses == [503, 401, 200]
    assert len(proxy.log.records) == 3
