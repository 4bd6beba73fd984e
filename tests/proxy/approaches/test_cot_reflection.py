"""Chain of thought with reflection: one call, of which the client sees the output alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from conftest import QUESTION, InProcess
from driving import Driver, FakeUpstream, Live
from hypothesis import given
from hypothesis import strategies as st

from optictl.simulator import SimulatorThread
from proxy.approaches.cot_reflection import OutputOnly
from proxy.chat import filtered

WORK = "<thinking>Hm, 6 < 7.</thinking>\n<reflection>Yes.</reflection>\n"
PIECES = [
    "<output>",
    "</output>",
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "<reflection>",
    "</reflection>",
    "<",
    "</",
    "</out",
    "put>",
    ">",
    " ",
    "\n",
    "\n\n",
    "42",
    "a word",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{WORK}<output>42</output>", "42"),
        (f"{WORK}<output>\n  42 apples.\n</output>\nBye.", "42 apples."),
        (f"{WORK}<output>if a < b and c </ d: x</output>", "if a < b and c </ d: x"),
        (f"{WORK}<output>two\n\nparagraphs</output>", "two\n\nparagraphs"),
        # Cut off inside the output: what there is.
        (f"{WORK}<output>It is 4", "It is 4"),
        (f"{WORK}<output>It is 4\n</outp", "It is 4"),
        (f"{WORK}<output></output>", ""),
        # Without the tag: all but the thinking.
        ("It is 42.", "It is 42."),
        ("<think>Let me see.</think>\nIt is 42.", "It is 42."),
        (f"{WORK}It is 42.", "It is 42."),
        ("", ""),
        # Nothing but thinking is better than nothing.
        (WORK, WORK.strip()),
        ("<thinking>Hm, and then the tokens", "<thinking>Hm, and then the tokens"),
        # The model's own reasoning may name the tag.
        ("<think>The <output> must be short.</think><output>42</output>", "42"),
        ("<thinking>I put it in <output> later.</thinking><output>42</output>", "42"),
        ("<thinking>In <output> then. No, <output> now.</thinking><output>42</output>", "42"),
        # Tags that were forgotten.
        ("<thinking>Hm.\n<output>42</output>", "42"),
        (f"{WORK}It is 42.</output>", "It is 42."),
        ("Hm.</think><output>42</output>", "42"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert filtered(text, OutputOnly()) == shown


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.data())
def test_it_does_not_matter_how_a_text_is_cut(pieces: Sequence[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    through, letters = OutputOnly(), OutputOnly()
    whole = filtered(text, OutputOnly())
    assert "".join(map(through.feed, parts)) + through.flush() == whole
    assert "".join(map(letters.feed, text)) + letters.flush() == whole


def test_the_output_is_passed_on_while_it_is_written() -> None:
    through = OutputOnly()
    said = [through.feed(piece) for piece in (WORK, "<output>One", " two", " three", "</output>")]
    assert said == ["", "One", " two", " three", ""]


@pytest.mark.parametrize("live", [False, True])
def test_the_client_sees_the_output(live: bool) -> None:
    async def run() -> None:
        outlet = Live() if live else None
        driver = Driver(FakeUpstream(lambda _: f"{WORK}<output>It is 42.</output>"), outlet=outlet)
        await driver.play("cot_reflection")
        assert driver.text == "It is 42."
        assert len(driver.upstream.calls) == 1

    asyncio.run(run())


@pytest.mark.parametrize("live", [False, True])
def test_on_demand_it_sees_all(live: bool) -> None:
    text = f"{WORK}<output>It is 42.</output>"

    async def run() -> None:
        outlet = Live() if live else None
        driver = Driver(FakeUpstream(lambda _: text), outlet=outlet)
        await driver.play("cot_reflection", full=True)
        assert driver.text == text

    asyncio.run(run())


def test_the_instruction_stands_behind_the_clients_own(
    proxy: InProcess, sim: SimulatorThread
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    proxy.post(json={"model": "cot_reflection-sim", "messages": messages})
    (call,) = sim.log.records
    system, user = (call.body or {})["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("Be brief.")
    for tag in ("thinking", "reflection", "output"):
        assert f"<{tag}>" in system["content"]
    assert user == messages[1]


def test_the_peers_name_for_its_option(proxy: InProcess) -> None:
    assert proxy.ask("cot_reflection-sim", return_full_response=True).status_code == 200
    error = proxy.ask("cot_reflection-sim", return_full_response="yes").json["error"]
    assert error["code"] == "invalid_option"
