"""The page for authors of approaches: its code runs, costs what it declares, and tells all."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, eventually

from optictl.simulator import Fault, SimulatorThread
from proxy.llm import LLM, approach
from proxy.registry import Registry, discover, entries_of
from tools.reference import every_command

PAGE = (Path(__file__).parent.parent / "docs/writing-an-approach.md").read_text()
CODE, LINE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
[(SLUG, CASES)] = ast.literal_eval(f"{{{LINE}}}").items()
[SHELL] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def registry() -> Registry:
    """All that is built, and what the page builds."""
    module = ModuleType(SLUG)
    exec(compile(CODE, f"{SLUG}.py", "exec"), module.__dict__)
    return Registry([*discover(), *entries_of(module)])


@pytest.fixture
def proxy(make_proxy: MakeProxy, registry: Registry) -> InProcess:
    return make_proxy(registry)


def test_it_takes_no_more_than_thirty_lines() -> None:
    assert len(CODE.splitlines()) <= 30


@pytest.mark.parametrize("split", [False, True], ids=["agreed", "split"])
@pytest.mark.parametrize(("options", "peak"), CASES, ids=str)
def test_it_takes_what_it_declares(
    proxy: InProcess,
    sim: SimulatorThread,
    registry: Registry,
    options: dict[str, Any],
    peak: int,
    split: bool,
) -> None:
    sim.behave(latency=0.2)
    if split:
        sim.behave(probability=0.0, distractors=(1.0,) * 50)
    response = proxy.ask(f"{SLUG}-sim", optillm_options=options, optillm_trace=True)
    assert response.status_code == 200, response.text
    assert "final answer is" in response.json["choices"][0]["message"]["content"]
    optillm, shape = response.json["optillm"], registry[SLUG].shape(options)
    assert (optillm["calls"], optillm["rounds"]) == (shape.calls, shape.rounds)
    assert (sim.log.choices, sim.log.rounds, sim.log.peak) == (shape.calls, shape.rounds, peak)
    samples = {**registry[SLUG].defaults, **options}["samples"]
    roles = [call["role"] for call in optillm["trace"]]
    assert roles == ["proposer"] * samples + ["critic", "final"]


def test_it_streams_and_works_inside_a_pipeline(proxy: InProcess, sim: SimulatorThread) -> None:
    optillm = proxy.stream(f"{SLUG}-sim")[-2]["optillm"]
    assert (optillm["calls"], optillm["rounds"]) == (5, 3)
    inside = proxy.ask(f"re2&{SLUG}&bon-sim").json["optillm"]
    assert (inside["calls"], inside["rounds"]) == (5 + 6, 3 + 2)
    assert eventually(lambda: sim.log.inflight == 0)


def test_what_it_keeps_is_the_answer_where_the_budget_ends(proxy: InProcess) -> None:
    response = proxy.ask(f"{SLUG}-sim", optillm_budget={"max_total_tokens": 1})
    assert response.status_code == 200, response.text
    assert "final answer is" in response.json["choices"][0]["message"]["content"]
    optillm = response.json["optillm"]
    assert (optillm["calls"], optillm["exhausted"]) == (3, "max_total_tokens")


def test_what_it_keeps_stands_in_where_the_upstream_fails(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault(500, role="stage"),))
    assert "final answer is" in proxy.text(f"{SLUG}-sim")


def test_all_that_an_llm_offers_is_in_its_table() -> None:
    offered = {name for name in vars(LLM) if not name.startswith("_")}
    table = PAGE.partition("\n## llm\n")[2].partition("\n## ")[0]
    cells = " ".join(line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(?:await |async with )?(\w+)", cells))
    assert named == offered


def test_all_that_the_decorator_takes_is_told() -> None:
    taken = inspect.signature(approach).parameters.keys() - {"slug"}
    assert {name for name in taken if f"`{name}" not in PAGE and f"{name}=" not in CODE} == set()


@pytest.mark.parametrize("line", [line for line in SHELL.splitlines() if "optictl" in line])
def test_its_commands_can_be_given(line: str) -> None:
    _, name, *arguments = shlex.split(line.rstrip(" &"))
    # Raises for an option or an argument that the command does not have.
    every_command()[name].make_context(name, arguments)
