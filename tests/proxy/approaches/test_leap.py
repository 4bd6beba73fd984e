"""LEAP: principles from mistakes on the examples given, learned once, with an answer beside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from conftest import QUESTION, InProcess, content_of, eventually
from driving import Driver, FakeUpstream, Live, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.chat import Chat
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.pipeline import Leaf
from proxy.registry import discover
from proxy.run.play import play_choice
from proxy.settings import Limits
from proxy.upstream.port import Call

SHOTS = "Add them.\n\nQ: What is 2 + 2?\nA: 4\n\nQ: What is 3 + 5?\nA: 8\n\nQ: What is 6 + 6?\nA:"
HINT = "Two and two, for example, makes four; three and five makes eight. What is 6 + 6?"
WRONG: Mapping[str, Any] = {"probability": 0.0}


def prompt(call: Any) -> str:
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def step(call: Any) -> str:
    """Which step a call belongs to."""
    text = prompt(call)
    for name, words in {
        "extract": "Copy each of them out",
        "learn": "<attempt>",
        "condense": "Condense",
        "final": "<principles>",
    }.items():
        if words in text:
            return name
    return "direct" if "6 + 6" in text else "attempt"


def steps(calls: Sequence[Any]) -> list[str]:
    return sorted(map(step, calls))


def driven(
    say: Callable[[str, Call], Any] = lambda name, call: f"{name} \\boxed{{99}}",
    query: str = SHOTS,
    members: Sequence[Member] = (),
    **driver: Any,
) -> Driver:
    """The driver behind a run in which ``say`` speaks for every step."""

    async def run() -> Driver:
        made = Driver(FakeUpstream(lambda call: say(step(call), call)), *members, **driver)
        entry = made.run.services.registry["leap"]
        chat = Chat(({"role": "user", "content": query},))
        await play_choice(Leaf(entry, entry.defaults), chat, made.run, made.outlet, 0)
        assert made.upstream.running == 0
        return made

    return asyncio.run(run())


def cut(text: str) -> Any:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return completion(text, choices=[choice])


class TestWithoutExamples:
    def test_it_is_one_call_that_streams(self, proxy: InProcess, sim: SimulatorThread) -> None:
        chunks = proxy.stream("leap-sim")
        (call,) = sim.log.records
        assert call.stream
        assert (call.body or {})["messages"] == [{"role": "user", "content": QUESTION}]
        assert content_of(chunks) == call.content

    def test_a_hint_is_followed_beside_the_direct_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        answer = proxy.ask("leap-sim", HINT).json
        assert steps(sim.log.records) == ["direct", "extract"]
        assert answer["optillm"]["rounds"] == 1
        (direct,) = (call for call in sim.log.records if step(call) == "direct")
        assert answer["choices"][0]["message"]["content"] == direct.content

    def test_that_there_are_none_is_remembered(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("leap-sim", HINT)
        assert proxy.ask("leap-sim", HINT).json["optillm"]["calls"] == 1


class TestLearning:
    def test_mistakes_become_principles_become_the_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**WRONG)
        answer = proxy.ask("leap-sim", SHOTS).json
        seen = sim.log.records
        assert steps(seen) == ["attempt"] * 4 + ["condense", "direct", "final"] + ["learn"] * 4
        assert (answer["optillm"]["calls"], answer["optillm"]["rounds"]) == (11, 4)
        said = {name: [c for c in seen if step(c) == name] for name in steps(seen)}
        (condense,), (final,) = said["condense"], said["final"]
        assert all(str(call.content) in prompt(condense) for call in said["learn"])
        assert str(condense.content) in prompt(final)
        assert answer["choices"][0]["message"]["content"] == final.content
        for call in said["learn"]:
            assert sum(str(attempt.content) in prompt(call) for attempt in said["attempt"]) == 1

    def test_attempts_see_the_task_and_no_answer(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**WRONG)
        system = {"role": "system", "content": "Be brief."}
        turns = [
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "It is 4444."},
            {"role": "user", "content": "What is 3 + 5?"},
            {"role": "assistant", "content": "It is 8888."},
            {"role": "user", "content": "What is 6 + 6?"},
        ]
        proxy.post(json={"model": "leap-sim", "messages": [system, *turns]})
        attempts = [call for call in sim.log.records if step(call) == "attempt"]
        assert len(attempts) == 4
        for call in attempts:
            assert (call.body or {})["messages"] in ([system, turns[0]], [system, turns[2]])
        sim.reset()
        proxy.ask("leap-sim", SHOTS)
        tried = {prompt(call) for call in sim.log.records if step(call) == "attempt"}
        assert tried == {"Add them.\n\nWhat is 2 + 2?", "Add them.\n\nWhat is 3 + 5?"}

    def test_without_mistakes_the_direct_answer_stands(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        optillm = proxy.ask("leap-sim", SHOTS).json["optillm"]
        assert steps(sim.log.records) == ["attempt"] * 4 + ["direct"]
        assert (optillm["calls"], optillm["rounds"]) == (5, 1)
        assert proxy.ask("leap-sim", SHOTS).json["optillm"]["calls"] == 1

    def test_examples_that_only_a_model_can_tell(self) -> None:
        def say(name: str, call: Call) -> str:
            pairs = "Q: two and two?\nA: four\nQ: three and five?\nA: eight"
            return pairs if name == "extract" else f"{name} \\boxed{{nine}}"

        driver = driven(say, HINT)
        assert steps(driver.upstream.calls).count("learn") == 4
        assert driver.text == "final \\boxed{nine}"
        assert driver.run.ledger.rounds == 5

    def test_each_example_goes_on_by_itself(self) -> None:
        """A mistake is learned from while another example is still being attempted."""

        async def run() -> None:
            slow, learned = asyncio.Event(), asyncio.Event()

            async def respond(call: Call) -> str:
                if step(call) == "attempt" and "3 + 5" in prompt(call):
                    await slow.wait()
                if step(call) == "learn":
                    learned.set()
                return "\\boxed{99}"

            driver = Driver(FakeUpstream(respond))
            entry = driver.run.services.registry["leap"]
            chat = Chat(({"role": "user", "content": SHOTS},))
            leaf = Leaf(entry, entry.defaults)
            playing = asyncio.create_task(play_choice(leaf, chat, driver.run, driver.outlet, 0))
            async with asyncio.timeout(30):
                await learned.wait()
                slow.set()
                await playing

        asyncio.run(run())

    @pytest.mark.parametrize(
        "attempt",
        [
            "The answer is 4.0",
            "答案是 4",
            "Die Antwort ist **4**",
            "I do not know. " * 20,
            cut("5"),
        ],
    )
    def test_the_right_answer_in_other_words_is_no_mistake(self, attempt: Any) -> None:
        query = SHOTS.replace("Q: What is 3 + 5?\nA: 8\n\n", "")
        driver = driven(lambda name, _: attempt if name == "attempt" else name, query)
        assert (driver.text, "learn" in steps(driver.upstream.calls)) == ("direct", False)

    def test_nor_where_whoever_learns_from_it_says_so(self) -> None:
        query = "Q: Who wrote it?\nA: Ada Lovelace\n\nQ: What is 6 + 6?\nA:"
        said = {"attempt": "Lady Lovelace", "learn": "AGREE."}
        driver = driven(lambda name, _: said.get(name, name), query)
        assert driver.text == "direct"

    def test_programs_are_examples_too(self) -> None:
        query = "Input: double\nOutput: lambda x: 2 * x\n\nInput: 6 + 6"
        driver = driven(lambda name, _: f"{name} lambda x: x", query)
        assert driver.text.startswith("final")


class TestTheCache:
    def test_another_question_on_the_same_examples_is_one_call(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**WRONG)
        proxy.ask("leap-sim", SHOTS)
        (principles,) = (c.content for c in sim.log.records if step(c) == "condense")
        sim.reset()
        other = SHOTS.replace("6 + 6", "7 + 6")
        optillm = proxy.ask("leap-sim", other).json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (1, 1)
        assert str(principles) in prompt(sim.log.records[0])

    @pytest.mark.parametrize(
        ("model", "content", "options"),
        [
            ("leap-sim", SHOTS.replace("A: 8", "A: 9"), {}),
            ("leap-other", SHOTS, {}),
            ("leap-sim", SHOTS, {"attempts": 1}),
        ],
    )
    def test_other_examples_models_and_options_are_learned_anew(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        model: str,
        content: str,
        options: dict[str, int],
    ) -> None:
        sim.behave(**WRONG)
        proxy.ask("leap-sim", SHOTS)
        answer = proxy.ask(model, content, optillm_options=options).json
        assert answer["optillm"]["calls"] > 1

    def test_choices_of_one_request_learn_once(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**WRONG)
        answer = proxy.ask("leap-sim", SHOTS, n=2).json
        assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 11 + 1)

    def test_a_failure_is_not_remembered(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**WRONG, faults=(Fault(400, role="stage"),))
        assert proxy.ask("leap-sim", SHOTS).status_code == 200
        sim.behave(faults=())
        assert proxy.ask("leap-sim", SHOTS).json["optillm"]["calls"] == 11


class TestFaults:
    @pytest.mark.parametrize("failing", ["attempt", "learn"])
    @pytest.mark.parametrize(
        "error",
        [UpstreamError("down"), UpstreamRejected("too long", status=400), completion(None)],
    )
    def test_without_anything_learned_the_direct_answer_stands(
        self, failing: str, error: Any
    ) -> None:
        driver = driven(lambda name, _: error if name == failing else f"{name} \\boxed{{99}}")
        assert driver.text == "direct \\boxed{99}"

    def test_uncondensed_principles_do(self) -> None:
        driver = driven(
            lambda name, _: UpstreamError("down") if name == "condense" else f"{name} \\boxed{{99}}"
        )
        assert driver.text == "final \\boxed{99}"
        assert prompt(driver.upstream.calls[-1]).count("learn \\boxed{99}") == 4

    def test_the_direct_answer_stands_in_for_a_final_one_that_fails(self) -> None:
        driver = driven(
            lambda name, _: UpstreamError("down") if name == "final" else f"{name} \\boxed{{99}}"
        )
        assert driver.text == "direct \\boxed{99}"

    def test_where_nothing_remains_it_is_an_error(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(500),))
        assert proxy.ask("leap-sim", SHOTS).status_code == 502

    def test_half_of_the_calls_refused_for_their_length(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**WRONG, faults=(Fault(400, probability=0.5, role="stage"),))
        for number in range(5):
            assert "boxed" in proxy.text("leap-sim", SHOTS.replace("A: 8", f"A: {number}"))


class TestTimeAndBudget:
    @pytest.mark.parametrize("calls", [1, 2, 6])
    def test_a_budget_pays_for_the_direct_answer_first(self, calls: int) -> None:
        driver = driven(limits=Limits(max_calls=calls))
        assert driver.text == "direct \\boxed{99}"
        assert driver.run.ledger.exhausted == "max_calls"

    def test_at_the_deadline_the_direct_answer_stands(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**WRONG, faults=(Fault("hang", role="stage"),))
        answer = proxy.ask("leap-sim", SHOTS, optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)

    def test_it_costs_no_more_than_declared(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**WRONG)
        shots = "".join(f"Q: What is {n} + 1?\nA: 0\n\n" for n in range(20))
        optillm = proxy.ask("leap-sim", f"{shots}Q: What is 6 + 6?").json["optillm"]
        shape = discover()["leap"].shape({})
        # All of it but the extractor, which these examples do not need.
        assert optillm["calls"] == shape.most_calls - 1
        assert (shape.least_calls, shape.least_rounds, shape.most_rounds) == (1, 1, 5)


def test_the_conversation_stays_in_front(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(**WRONG)
    system = {"role": "system", "content": "Be brief."}
    turn = {"role": "user", "content": SHOTS}
    proxy.post(json={"model": "leap-sim", "messages": [system, turn]})
    for call in sim.log.records:
        assert (call.body or {})["messages"][0] == system
        assert step(call) == "attempt" or prompt(call).startswith(SHOTS)


def test_the_answer_by_principles_streams() -> None:
    driver = driven(outlet=Live())
    assert driver.text == "final \\boxed{99}"


@pytest.mark.parametrize("support", ["ignored", "refused"])
def test_what_the_upstream_does_with_n(
    proxy: InProcess, sim: SimulatorThread, support: str
) -> None:
    sim.behave(n=support)
    assert len(proxy.ask("leap-sim", n=2).json["choices"]) == 2


def test_an_ensembles_members_do_their_part() -> None:
    members = (Member("anna"), Member("carl", "aggregator"), Member("fred", "helper"))
    driver = driven(members=members)
    models = {step(call): call.model for call in driver.upstream.calls}
    assert models == {
        "attempt": "anna",
        "direct": "anna",
        "learn": "fred",
        "condense": "fred",
        "final": "carl",
    }


def test_inside_pipelines(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("none&leap-sim", SHOTS).status_code == 200
    assert len(proxy.ask("leap|none-sim", SHOTS).json["choices"]) == 2
