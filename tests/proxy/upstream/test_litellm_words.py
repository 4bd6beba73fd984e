"""What a LiteLLM says, recorded from 1.106.2 and, where it says it otherwise, from 1.74.3."""

from __future__ import annotations

import pytest
from canned import failure, refusal, reply
from conftest import InProcess, chat_body

from optictl.simulator import Fault, SimulatorThread
from proxy.errors import ModelNotFound, UpstreamAuth, UpstreamError, UpstreamRateLimited

BAD_REQUEST = "400 Bad Request"


@pytest.mark.parametrize(
    "message",
    [
        "litellm.BadRequestError: You passed in model=nosuch. There are no healthy deployments for "
        "this model\n\nLiteLLM: model group 'nosuch' failed with the error above.",
        "litellm.BadRequestError: You passed in model=nosuch. There is no 'model_name' with this "
        "string . Received Model Group=nosuch\nAvailable Model Group Fallbacks=None",
    ],
    ids=["1.106.2", "1.74.3"],
)
def test_a_model_it_does_not_have(message: str) -> None:
    assert type(failure(refusal(BAD_REQUEST, {"message": message}))) is ModelNotFound


class TestAKeyIsRefused:
    def test_ours(self) -> None:
        said = {"message": "No connected db.", "type": "no_db_connection", "code": "400"}
        error = failure(refusal(BAD_REQUEST, said))
        assert type(error) is UpstreamAuth
        assert "the proxy's own key" in error.message

    @pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
    def test_its_own_by_the_backend(self, status: str) -> None:
        words = "litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect key."
        error = failure(refusal(status, {"message": words}))
        assert type(error) is UpstreamAuth
        assert "backend behind the upstream" in error.message
        assert "OPENAI_API_KEY" not in error.message

    def test_that_was_never_sent(self) -> None:
        """Without a database it fails on that."""
        crash = reply(b"Internal Server Error", "500 Internal Server Error", "text/plain")
        without = failure(crash, key=None)
        assert type(without) is UpstreamError
        assert "It was sent no key: check OPENAI_API_KEY" in without.message
        assert "OPENAI_API_KEY" not in failure(crash).message


@pytest.mark.parametrize("header", ["Retry-After", "llm_provider-retry-after"])
def test_how_long_to_wait_is_its_own_or_the_backend_s(header: str) -> None:
    error = failure(refusal("429 Too Many", {"message": "Slow down."}, **{header: "7"}))
    assert type(error) is UpstreamRateLimited
    assert error.retry_after == 7


def test_its_own_wait_goes_before_the_backend_s() -> None:
    headers = {"llm_provider-retry-after": "60", "Retry-After": "5"}
    error = failure(refusal("429 Too Many", {"message": "Cooling down."}, **headers))
    assert error.retry_after == 5


@pytest.mark.parametrize("model", ["sim", "moa-sim"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_option_of_the_handle_that_it_does_not_know_goes_no_further(
    proxy: InProcess, sim: SimulatorThread, model: str, stream: bool
) -> None:
    """1.74.3 sends it in the body; a strict backend would refuse it."""
    body = chat_body(model, stream=stream, keepalive_seconds=15, top_k=3)
    assert "391" in proxy.post(json=body).get_data(as_text=True)
    assert any("top_k" in (call.body or {}) for call in sim.log.records)
    assert not any("keepalive_seconds" in (call.body or {}) for call in sim.log.records)


def test_a_name_that_was_refused_is_not_proposed(proxy: InProcess, sim: SimulatorThread) -> None:
    """A gateway lists what its backend no longer has."""
    assert "sim" in proxy.http.get("/v1/models").text
    sim.behave(faults=(Fault(404),))
    for model in ("sim", "moa-sim"):
        error = proxy.ask(model).json["error"]
        assert error["code"] == "model_not_found"
        assert "Did you mean" not in error["message"]
