"""Z3: a program, run apart, repaired beside the direct answer, and explained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from conftest import QUESTION, InProcess, MakeProxy
from driving import Driver, FakeUpstream, Live

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.registry import discover
from proxy.sandbox.port import Ran
from proxy.upstream.port import Call

NEVER = UpstreamError("down")
PROGRAM = "```python\nprint(17 * 23)\n```"


def prompt(call: Call) -> str:
    text: str = call.body["messages"][-1]["content"]
    return text


def stage(call: Call) -> str:
    text = prompt(call)
    marks = {"It failed:": "repair", "It printed this": "explain", "Decide whether": "formalise"}
    return next((name for mark, name in marks.items() if mark in text), "direct")


class Sandbox:
    """Implements `proxy.sandbox.port.Sandbox`: every program ends as told."""

    runs = True
    libraries: Sequence[str] = ("z3", "sympy")

    def __init__(self, *ends: Ran) -> None:
        self._ends = list(ends)
        self.programs: list[str] = []
        #: Processes that wait for a program, and how many there were.
        self.waiting = self.started = 0

    async def run(self, program: str, seconds: float) -> Ran:
        self.programs.append(program)
        return self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]

    @asynccontextmanager
    async def ready(self, seconds: float) -> AsyncIterator[Callable[[str], Awaitable[Ran]]]:
        self.started += 1
        self.waiting += 1
        try:
            yield partial(self.run, seconds=seconds)
        finally:
            self.waiting -= 1


class Model:
    def __init__(
        self,
        respond: Callable[[str, Call], Any] = lambda *_: None,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._respond = respond
        self.sandbox = sandbox or Sandbox(Ran("391"))
        self.upstream = FakeUpstream(self._say)

    def _say(self, call: Call) -> Any:
        name = stage(call)
        said = self._respond(name, call)
        if said is not None:
            return said
        return {"direct": "Off the cuff: 390.", "explain": "It is 391."}.get(name, PROGRAM)

    def play(
        self, *members: Member, outlet: Any = None, time: float = 60.0, **options: Any
    ) -> Driver:
        async def run() -> Driver:
            driver = Driver(self.upstream, *members, outlet=outlet, seconds=time)
            driver.run.services = replace(driver.run.services, sandbox=self.sandbox)
            await driver.play("z3", **options)
            assert self.upstream.running == 0
            return driver

        return asyncio.run(run())

    def stages(self) -> list[str]:
        return [stage(call) for call in self.upstream.calls]


class TestSolved:
    def test_what_the_program_printed_is_explained_in_two_rounds(self) -> None:
        model = Model()
        driver = model.play()
        assert driver.text == "It is 391."
        assert model.stages() == ["formalise", "explain"]
        assert driver.run.ledger.rounds == 2
        assert model.sandbox.programs == ["print(17 * 23)"]
        explained = prompt(model.upstream.calls[-1])
        assert "print(17 * 23)" in explained
        assert "<candidate>\n391\n</candidate>" in explained

    def test_its_process_starts_while_it_is_being_written(self) -> None:
        started: list[int] = []
        model = Model(
            lambda name, _: started.append(model.sandbox.waiting) if name == "formalise" else None
        )
        model.play()
        assert started == [1]
        assert (model.sandbox.started, model.sandbox.waiting) == (1, 0)

    def test_nobody_waits_for_the_direct_answer(self) -> None:
        model = Model(lambda name, _: asyncio.sleep(60, "late") if name == "direct" else None)
        assert model.play(direct=True).text == "It is 391."
        assert model.upstream.cancelled == 1

    def test_the_explanation_streams(self) -> None:
        outlet = Live()
        Model().play(outlet=outlet)
        assert len(outlet.deltas) > 3

    @pytest.mark.parametrize(
        "said",
        [
            f"Let me think.\n\n{PROGRAM}\n\nThat is all.",
            "<think>```python\nprint(1)\n```</think>\n```py\nprint(17 * 23)\n```",
            "First try:\n```python\nprint(1)\n```\nBetter:\n```\nprint(17 * 23)\n```",
        ],
    )
    def test_the_last_block_of_the_reply_is_the_program(self, said: str) -> None:
        model = Model(lambda name, _: said if name == "formalise" else None)
        model.play()
        assert model.sandbox.programs == ["print(17 * 23)"]

    def test_the_author_is_told_what_can_be_imported(self) -> None:
        model = Model()
        model.play()
        (asked,) = [call for call in model.upstream.calls if stage(call) == "formalise"]
        assert "z3, sympy, and the standard library" in prompt(asked)

    def test_what_was_printed_is_the_answer_where_nobody_explains_it(self) -> None:
        model = Model(lambda name, _: NEVER if name in ("explain", "direct") else None)
        assert model.play().text == "391"


class TestRepair:
    @pytest.mark.parametrize(
        ("end", "told"),
        [
            (Ran("", "NameError: x"), "NameError: x"),
            (Ran("half", "ZeroDivisionError"), "ZeroDivisionError"),
            (Ran(""), "It printed nothing."),
        ],
    )
    def test_its_author_learns_what_went_wrong(self, end: Ran, told: str) -> None:
        model = Model(sandbox=Sandbox(end, Ran("391")))
        driver = model.play()
        assert driver.text == "It is 391."
        assert driver.run.ledger.rounds == 3
        (repair,) = [call for call in model.upstream.calls if stage(call) == "repair"]
        assert told in prompt(repair)
        assert "print(17 * 23)" in prompt(repair)

    @pytest.mark.parametrize("repairs", [0, 1, 3])
    def test_is_given_up_in_the_end_for_the_direct_answer(self, repairs: int) -> None:
        model = Model(sandbox=Sandbox(Ran("", "no")))
        assert model.play(repairs=repairs).text == "Off the cuff: 390."
        assert len(model.sandbox.programs) == 1 + repairs
        assert "explain" not in model.stages()

    def test_the_most_that_it_takes(self) -> None:
        failed = Ran("", "no")
        model = Model(sandbox=Sandbox(failed, failed, failed, Ran("391")))
        driver = model.play()
        assert (len(model.upstream.calls), driver.run.ledger.rounds) == (6, 5)


class TestDirectly:
    @pytest.mark.parametrize("said", ["This is a matter of taste.", NEVER, ""])
    def test_where_it_is_no_matter_for_a_solver(self, said: Any) -> None:
        outlet = Live()
        model = Model(lambda name, _: said if name == "formalise" else None)
        driver = model.play(outlet=outlet)
        assert driver.text == "Off the cuff: 390."
        assert model.stages() == ["formalise", "direct"]
        assert driver.run.ledger.rounds == (1 if said is NEVER else 2)
        assert not model.sandbox.programs
        assert len(outlet.deltas) > 3

    def test_beside_the_first_repair(self) -> None:
        async def respond(name: str) -> str | None:
            if name in ("repair", "direct"):
                begun.append(name)
                async with asyncio.timeout(10):
                    while len(begun) < 2:
                        await asyncio.sleep(0)
            return {"direct": "390", "explain": "391"}.get(name, PROGRAM)

        begun: list[str] = []
        model = Model(lambda name, _: respond(name), Sandbox(Ran("", "no"), Ran("391")))
        driver = model.play()
        assert (driver.text, driver.run.ledger.rounds) == ("391", 3)
        assert [record.round for record in driver.run.ledger.calls] == [1, 2, 2, 3]

    @pytest.mark.parametrize("late", ["formalise", "repair"])
    def test_at_half_of_the_time(self, late: str) -> None:
        model = Model(
            lambda name, _: asyncio.sleep(60, "late") if name == late else None,
            Sandbox(Ran("", "no")),
        )
        driver = model.play(time=1.2)
        assert driver.text == "Off the cuff: 390."
        assert driver.run.ledger.exhausted == "deadline"
        assert model.stages().count("direct") == 1

    def test_beside_a_program_that_is_late_but_comes(self) -> None:
        model = Model(lambda name, _: asyncio.sleep(1.2, PROGRAM) if name == "formalise" else None)
        driver = model.play(time=2.0, repairs=0)
        shape = discover()["z3"].shape({"repairs": 0})
        assert driver.text == "It is 391."
        assert model.stages() == ["formalise", "direct", "explain"]
        assert len(model.upstream.calls) == shape.most_calls

    @pytest.mark.parametrize("direct", [False, True])
    def test_once_more_where_that_failed_too(self, direct: bool) -> None:
        failed: list[Call] = []

        def respond(name: str, call: Call) -> Any:
            if name == "direct" and not failed:
                failed.append(call)
                return NEVER
            return "No." if name == "repair" or (direct and name == "formalise") else None

        model = Model(respond, Sandbox(Ran("", "no")))
        assert model.play(direct=direct).text == "Off the cuff: 390."
        assert model.stages().count("direct") == 2

    def test_an_error_only_where_nothing_is_left(self) -> None:
        with pytest.raises(UpstreamError):
            Model(lambda *_: NEVER).play()

    def test_not_beside_the_last_program(self) -> None:
        model = Model(sandbox=Sandbox(Ran("", "no")))
        assert model.play(repairs=0).text == "Off the cuff: 390."
        assert model.stages() == ["formalise", "direct"]


class TestDirectlyFromTheStart:
    def test_beside_the_program(self) -> None:
        model = Model()
        driver = model.play(direct=True)
        assert driver.text == "It is 391."
        assert sorted(model.stages()) == ["direct", "explain", "formalise"]
        assert driver.run.ledger.rounds == 2

    @pytest.mark.parametrize("said", ["This is a matter of taste.", NEVER, ""])
    def test_saves_a_round_where_it_is_no_matter_for_a_solver(self, said: Any) -> None:
        model = Model(lambda name, _: said if name == "formalise" else None)
        driver = model.play(direct=True)
        assert driver.text == "Off the cuff: 390."
        assert (len(model.upstream.calls), driver.run.ledger.rounds) == (2, 1)

    @pytest.mark.parametrize("direct", [False, True])
    @pytest.mark.parametrize("repairs", [0, 1, 3])
    def test_it_takes_what_it_declares(self, repairs: int, direct: bool) -> None:
        shape = discover()["z3"].shape({"direct": direct, "repairs": repairs})
        failed = [Ran("", "broken")] * repairs
        model = Model(sandbox=Sandbox(*failed, Ran("391")))
        driver = model.play(direct=direct, repairs=repairs)
        beside = direct or repairs > 0
        assert len(model.upstream.calls) == shape.most_calls - (not beside)
        assert driver.run.ledger.rounds == shape.most_rounds
        model = Model(lambda name, _: "No." if name == "formalise" else None)
        driver = model.play(direct=direct, repairs=repairs)
        assert len(model.upstream.calls) == shape.least_calls
        assert driver.run.ledger.rounds == shape.least_rounds


class TestAtTheSimulator:
    def test_it_takes_what_it_declares(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(latency=0.1)
        optillm = proxy.ask("z3-sim").json["optillm"]
        assert (optillm["calls"], optillm["rounds"], sim.log.peak) == (2, 2, 1)

    def test_what_is_stated_is_worked_out_by_the_program(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(probability=0.0)
        right = sum("boxed{391}" in proxy.text("z3-sim") for _ in range(10))
        assert right >= 7

    def test_the_clients_instructions_and_history_are_in_front_of_every_call(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        messages = [
            {"role": "system", "content": "Sei höflich."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": QUESTION},
        ]
        assert proxy.post(json={"model": "z3-sim", "messages": messages}).status_code == 200
        for call in sim.log.records:
            sent = (call.body or {})["messages"]
            assert sent[:3] == messages[:3]
            assert sent[3]["content"].startswith(QUESTION)

    def test_a_deadline_returns_the_direct_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault("hang", role="stage"),))
        answer = proxy.ask("z3-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "391" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"

    @pytest.mark.parametrize("most", [1, 2])
    def test_a_budget(self, proxy: InProcess, sim: SimulatorThread, most: int) -> None:
        answer = proxy.ask("z3-sim", optillm_budget={"max_calls": most})
        assert answer.status_code == (200 if most == 2 else 400)

    def test_a_conversation_that_is_too_long_for_one_of_the_calls(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        for role in ("stage", "solver"):
            sim.behave(faults=(Fault(400, role=role, times=1),))
            assert "391" in proxy.text("z3-sim")

    def test_it_hands_its_answer_on_and_takes_one(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        assert proxy.ask("z3&none-sim").json["optillm"]["calls"] == 3
        assert proxy.ask("none&z3-sim").json["optillm"]["calls"] == 3


def test_no_prompt_chooses_what_runs_code(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(allow_prompt_tags=True)
    tagged = f"<optillm_approach>z3</optillm_approach>{QUESTION}"
    assert proxy.ask("sim", tagged).json["error"]["code"] == "tag_not_allowed"


def test_an_ensembles_members_play_their_parts() -> None:
    model = Model(sandbox=Sandbox(Ran("", "no"), Ran("391")))
    model.play(Member("p", "proposer"), Member("h", "helper"), Member("a", "aggregator"))
    assert {stage(call): call.model for call in model.upstream.calls} == {
        "direct": "p",
        "formalise": "h",
        "repair": "h",
        "explain": "a",
    }
