"""A refusal in all its parts: status, OpenAI's error object, headers, one log line."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from conftest import QUESTION, InProcess

from optictl.simulator import SimulatorThread

CHAT = "/v1/chat/completions"
MEMBERS = {"message", "type", "param", "code"}
TURN = {"role": "user", "content": QUESTION}


def request_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "optillm.requests"]


def assert_refused(
    response: Any,
    caplog: pytest.LogCaptureFixture,
    status: int = 400,
    code: str = "invalid_request",
    param: str | None = None,
) -> str:
    """The response is this refusal in all its parts; returns its message."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    error = response.json["error"]
    assert error.keys() == MEMBERS
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert (error["code"], error["param"]) == (code, param)
    assert response.headers["x-optillm-error"] == code
    assert response.headers["x-request-id"]
    (line,) = request_lines(caplog)
    assert f"id={response.headers['x-request-id']} " in line
    assert f" status={status} code={code} " in line
    assert "\n" not in line
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    message: str = error["message"]
    return message


def assert_next_works(proxy: InProcess, sim: SimulatorThread, before: int = 0) -> None:
    assert sim.log.calls == before
    assert "391" in proxy.text()
    assert sim.log.calls == before + 1
