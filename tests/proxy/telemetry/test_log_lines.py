"""Lines of the log, in both formats."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from conftest import InProcess

from proxy.telemetry.log_lines import Fields, Format, formatter


def line(form: Format, message: object, *args: object, error: BaseException | None = None) -> str:
    told = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("optillm.x", logging.WARNING, __file__, 1, message, args, told)
    return formatter(form).format(record)


def parsed(*args: Any, **kwargs: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line("json", *args, **kwargs))
    return found


def raised(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_message_as_text_and_as_json() -> None:
    assert line("logfmt", "worker %d ends", 7).endswith(" WARNING optillm.x worker 7 ends")
    told = parsed("worker %d ends", 7)
    assert (told["level"], told["logger"], told["msg"]) == (
        "warning",
        "optillm.x",
        "worker 7 ends",
    )


def test_members_as_logfmt_and_as_json() -> None:
    fields = Fields(
        id="a", status=200, stream=False, ms=12.34, model='with "quotes" and =', none=""
    )
    assert line("logfmt", fields).endswith(
        'optillm.x id=a status=200 stream=false ms=12.3 model="with \\"quotes\\" and =" none=""'
    )
    told = parsed(fields)
    assert {name: told[name] for name in fields} == dict(fields)


@pytest.mark.parametrize(
    "nasty",
    ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x85b", "a\u2028b", "a\u202eb", "a\x00b", "a\udc80b"],
)
def test_nobody_else_writes_a_line(nasty: str) -> None:
    for message in (nasty, Fields(model=nasty)):
        assert line("logfmt", message).isprintable()
    assert parsed(nasty)["msg"] == nasty
    assert line("json", nasty).isprintable()
    assert line("json", nasty).isascii()


@pytest.mark.parametrize("value", [2**70, -(2**70), None, [1, 2], Fields, "ünï", "\x7f"])
def test_any_value_can_be_told(value: object) -> None:
    told = parsed(Fields(value=value))["value"]
    assert told == (value if isinstance(value, int | str | list | None) else str(value))


def test_a_traceback_is_set_in_and_can_pass_for_no_line() -> None:
    error = raised("broken\n2026-01-01T00:00:00+0000 INFO optillm.requests id=forged")
    first, *rest = line("logfmt", "it broke", error=error).split("\n")
    assert first.endswith("it broke")
    assert rest
    assert all(each.startswith("    ") for each in rest)
    assert "ValueError: broken" in parsed("it broke", error=error)["exception"]


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_keys_are_in_no_line(form: Format) -> None:
    key = "sk-abcdefghijkl"
    for message in (f"with {key}", Fields(model=key)):
        assert key not in line(form, message, error=raised(f"and {key}"))


def requests(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "optillm.requests"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("sim", "['none'], operation SINGLE"),
        ("bon-sim", "['bon'], operation SINGLE"),
        ("re2&bon-sim", "['re2', 'bon'], operation AND"),
        ("bon|cot_reflection-sim", "['bon', 'cot_reflection'], operation OR"),
    ],
)
def test_a_request_is_one_line_with_the_words_that_optillm_has(
    proxy: InProcess, caplog: pytest.LogCaptureFixture, model: str, words: str
) -> None:
    caplog.set_level(logging.INFO, logger="optillm.requests")
    response = proxy.ask(model)
    (said,) = requests(caplog)
    assert said.startswith(f"id={response.headers['x-request-id']} path=/v1/chat/completions ")
    assert said.endswith(f'msg="Using approach(es) {words}, with model sim"')
    assert " first_ms=" in said


def test_calls_that_were_not_needed_are_counted(
    proxy: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="optillm.requests")
    proxy.ask("self_consistency-sim", optillm_options={"samples": 30})
    (said,) = requests(caplog)
    assert " cancelled=" in said


def test_what_was_refused_names_no_approach(
    proxy: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="optillm.requests")
    proxy.ask(temperature="hot")
    (said,) = requests(caplog)
    assert " code=invalid_request " in said
    assert "Using" not in said
