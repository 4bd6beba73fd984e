"""Round-trip optimisation: what the two codes agree on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from driving import Driver, FakeUpstream

from proxy.approaches.rto import code_of, same_program
from proxy.errors import UpstreamTimeout
from proxy.registry import discover
from proxy.upstream.port import Call

FIRST = "Here:\n```python\ndef double(x):\n    return 2 * x  # twice\n```"
ALIKE = "```python\ndef double(x): return 2 * x\n```\nThat is all."
OTHER = "```python\ndef double(x):\n    return x + x\n```"


def asked(call: Call) -> str:
    return str(call.body["messages"][-1]["content"])


def stage(call: Call) -> str:
    prompt = asked(call)
    if "Do not provide the final answer" in prompt:
        return "describe"
    if "<description>" in prompt:
        return "rewrite"
    return "settle" if "<candidate" in prompt else "answer"


def responding(**replies: Any) -> Callable[[Call], Any]:
    said = {"answer": FIRST, "describe": "It doubles.", "rewrite": OTHER, "settle": "settled"}
    return lambda call: {**said, **replies}[stage(call)]


def played(
    respond: Callable[[Call], Any], params: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Driver, str]:
    async def play() -> tuple[Driver, str]:
        driver = Driver(FakeUpstream(respond), params=params)
        await driver.play("rto", **options)
        return driver, driver.text

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("rewritten", "samples", "calls", "rounds", "answer"),
    [
        (ALIKE, 1, 3, 3, FIRST),
        (OTHER, 1, 4, 4, "settled"),
        (ALIKE, 3, 5, 3, FIRST),
        (OTHER, 3, 6, 4, "settled"),
    ],
)
def test_agreement_saves_the_last_call(
    rewritten: str, samples: int, calls: int, rounds: int, answer: str
) -> None:
    driver, text = played(responding(rewrite=rewritten), samples=samples)
    assert text == answer
    assert (driver.run.ledger.choices, driver.run.ledger.rounds) == (calls, rounds)
    shape = discover()["rto"].shape({"samples": samples})
    assert calls in (shape.least_calls, shape.most_calls)
    assert rounds in (shape.least_rounds, shape.most_rounds)


def test_the_second_code_is_written_from_the_description_alone() -> None:
    driver, _ = played(responding())
    rewrite = next(call for call in driver.upstream.calls if stage(call) == "rewrite")
    assert "It doubles." in asked(rewrite)
    assert "17 * 23" not in str(rewrite.body["messages"])
    assert "2 * x" not in str(rewrite.body["messages"])


def test_both_codes_are_settled_whole() -> None:
    driver, _ = played(responding())
    settle = next(call for call in driver.upstream.calls if stage(call) == "settle")
    assert FIRST in asked(settle)
    assert OTHER in asked(settle)
    assert "17 * 23" in asked(settle)


def test_the_clients_limit_reaches_what_the_client_may_see() -> None:
    driver, _ = played(responding(), params={"max_tokens": 99, "temperature": 0.3})
    limits = {stage(call): call.body.get("max_tokens") for call in driver.upstream.calls}
    assert limits == {"answer": 99, "describe": None, "rewrite": None, "settle": 99}


@pytest.mark.parametrize("failing", ["describe", "rewrite", "settle"])
def test_a_stage_that_fails_leaves_the_first_answer(failing: str) -> None:
    _, text = played(responding(**{failing: UpstreamTimeout("late")}))
    assert text == FIRST


def test_programs_are_compared_and_not_their_looks() -> None:
    assert same_program(FIRST, ALIKE)
    assert not same_program(FIRST, OTHER)
    assert same_program("```js\nlet a = 1;\n```", "so:\n```\nlet a  =  1;\n```")
    assert same_program("just words", "just  words")
    assert code_of("```\na\n```\nand\n```\nb\n```") == "a\n\nb\n"


def test_monstrous_code_is_compared_as_text() -> None:
    deep = "```python\n" + "(" * 9000 + ")" * 9000 + "\n```"
    assert same_program(deep, deep)
    assert not same_program(deep, FIRST)
