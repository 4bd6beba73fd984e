"""Plan search: plans from different subsets of observations, each carried out, one selected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from conftest import QUESTION, InProcess, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import Fault, SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.settings import Limits
from proxy.upstream.port import Call

UNLIKE: Mapping[str, Any] = {"probability": 0.0, "distractors": (1.0,) * 200}
OBSERVATIONS = (
    "What I notice:\n\n1. It is odd.\n2) It is\n   prime.\n- It is small.\n\nThat is all."
)


def prompt(call: Any) -> str:
    text: str = (call.body or {})["messages"][-1]["content"]
    return text


def stage(call: Any) -> str:
    """Which step a call belongs to."""
    text = prompt(call)
    if "Best candidate:" in text:
        return "select"
    if "<plan>" in text:
        return "carry out"
    return "observe" if "numbered list" in text else "plan"


def subset(text: str) -> tuple[str, ...]:
    """The observations that a planning prompt gives."""
    return tuple(line[2:] for line in text.splitlines() if line.startswith("- "))


def searched(
    observed: Any = OBSERVATIONS,
    plan: Callable[[tuple[str, ...]], Any] = lambda given: f"Plan of {' & '.join(given)}.",
    answer: Callable[[str], Any] = lambda text: f"{text.partition('<plan>')[2][:60]} \\boxed{{1}}",
    select: Any = "Best candidate: 1",
    members: tuple[Member, ...] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Driver:
    def respond(call: Call) -> Any:
        match stage(call):
            case "observe":
                return observed
            case "plan":
                return plan(subset(prompt(call)))
            case "carry out":
                return answer(prompt(call))
        return select

    async def run() -> Driver:
        driver = Driver(FakeUpstream(respond), *members, limits=limits)
        await driver.play("plansearch", **options)
        assert driver.upstream.running == 0
        return driver

    return asyncio.run(run())


def asked(driver: Driver, step: str) -> list[str]:
    return [prompt(call) for call in driver.upstream.calls if stage(call) == step]


class TestSubsets:
    def test_of_the_prompts_are_pairwise_different(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE)
        for options in ({}, {"samples": 22}, {"samples": 12, "observations": 4}):
            sim.reset()
            proxy.ask("plansearch-sim", optillm_options=options)
            plans = [prompt(call) for call in sim.log.records if stage(call) == "plan"]
            subsets = [subset(text) for text in plans]
            assert len(set(map(frozenset, subsets))) == len(subsets)
            assert len(subsets) == min(options.get("samples", 8), 22 if len(options) < 2 else 11)
            assert all(len(given) <= 2 for given in subsets)

    def test_begin_with_none_then_one_then_two(self) -> None:
        given = [subset(text) for text in asked(searched(samples=7), "plan")]
        one, two, three = "It is odd.", "It is prime.", "It is small."
        assert given == [
            (),
            (one,),
            (two,),
            (three,),
            (one, two),
            (one, three),
            (two, three),
        ]

    def test_of_fewer_observations_are_fewer(self) -> None:
        driver = searched("1. It is odd.\n2. It is odd.\n")
        assert [subset(text) for text in asked(driver, "plan")] == [(), ("It is odd.",)]

    @pytest.mark.parametrize(
        "observed", [UpstreamError("down"), completion(None), "Nothing comes to mind."]
    )
    def test_without_observations_one_plan_is_made(self, observed: Any) -> None:
        driver = searched(observed)
        assert [subset(text) for text in asked(driver, "plan")] == [()]
        assert "boxed" in driver.text

    def test_observations_in_another_language(self) -> None:
        driver = searched("1、它是奇数。\n2、它是质数。", samples=4)
        assert subset(asked(driver, "plan")[3]) == ("它是奇数。", "它是质数。")


class TestPlans:
    def test_are_carried_out_whole_one_by_one(self) -> None:
        driver = searched(plan=lambda given: f"Plan of {len(given)}. " * 900 + str(given))
        steps = asked(driver, "carry out")
        assert len(steps) == len({text.partition("<plan>")[2] for text in steps}) == 7
        assert all(len(text) > 9000 for text in steps)

    def test_each_as_soon_as_it_is_made(self) -> None:
        async def run() -> None:
            slow, carried_out = asyncio.Event(), asyncio.Event()

            async def respond(call: Call) -> str:
                if stage(call) == "plan" and len(subset(prompt(call))) == 1:
                    await slow.wait()
                if stage(call) == "carry out":
                    carried_out.set()
                return OBSERVATIONS if stage(call) == "observe" else "As said."

            driver = Driver(FakeUpstream(respond))
            playing = asyncio.create_task(driver.play("plansearch", samples=4))
            async with asyncio.timeout(30):
                await carried_out.wait()
                slow.set()
                await playing

        asyncio.run(run())

    def test_no_language_is_forced_on_the_client(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE)
        proxy.ask("plansearch-sim", "Write 17 * 23 in Rust.")
        assert not any("python" in str(call.body).lower() for call in sim.log.records)
        assert all(prompt(call).startswith("Write 17") for call in sim.log.records)

    def test_are_drafts_and_their_answers_are_not(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("plansearch-sim", max_tokens=300, stop=["STOP"])
        for call in sim.log.records:
            assert ("stop" in (call.body or {})) == (stage(call) == "carry out")

    def test_one_that_fails_is_made_from_a_subset_that_is_left(self) -> None:
        def plan(given: tuple[str, ...]) -> Any:
            return UpstreamError("down") if given == ("It is odd.",) else "A plan."

        driver = searched(plan=plan, samples=3)
        assert subset(asked(driver, "plan")[-1]) == ("It is small.",)
        assert len(asked(driver, "carry out")) == 3


class TestSelection:
    def test_nothing_is_judged_where_all_agree(self) -> None:
        driver = searched()
        assert not asked(driver, "select")
        assert driver.run.ledger.rounds == 3

    def test_programs_that_differ_are_judged(self) -> None:
        def program(text: str) -> str:
            return f"```go\nsolve({'odd' in text})\nreturn 0\n```"

        assert len(asked(searched(answer=program), "select")) == 3
        assert not asked(searched(answer=lambda _: "```go\nreturn 0\n```"), "select")

    def test_the_judge_decides(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(probability=0.4, judge_separation=10)
        answer = proxy.ask("plansearch-sim").json
        assert "\\boxed{391}" in answer["choices"][0]["message"]["content"]
        assert (answer["optillm"]["rounds"], answer["optillm"]["calls"]) == (4, 20)

    @pytest.mark.parametrize(
        "verdict",
        [UpstreamError("down"), UpstreamRejected("too long", status=400), "NaN", "Candidate 99!"],
    )
    def test_without_a_vote_the_largest_class_gives_the_answer(self, verdict: Any) -> None:
        def answer(text: str) -> str:
            return "\\boxed{1}" if "prime" in text else "\\boxed{2}"

        assert searched(answer=answer, select=verdict, samples=4).text == "\\boxed{2}"


class TestFaults:
    def test_truncated_answers_are_not_shown(self) -> None:
        def answer(text: str) -> Any:
            if "odd" not in text:
                return f"\\boxed{{{len(text)}}}"
            choice = {"message": {"role": "assistant", "content": "cut"}, "finish_reason": "length"}
            return completion("cut", choices=[choice])

        driver = searched(answer=answer, samples=3)
        assert all("cut" not in text for text in asked(driver, "select"))

    def test_where_nothing_remains_it_is_an_error(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(faults=(Fault(500),))
        assert proxy.ask("plansearch-sim").status_code == 502

    def test_half_of_the_calls_refused_for_their_length(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE, faults=(Fault(400, probability=0.5, role="stage"),))
        answered = [proxy.ask("plansearch-sim").status_code for _ in range(5)]
        # Half of the time there are no observations, and then half of the time no plan.
        assert 200 in answered


class TestTimeAndBudget:
    def test_the_least_budget_pays_for_all_but_the_judges(self) -> None:
        def answer(text: str) -> str:
            return "\\boxed{1}" if "prime" in text else "\\boxed{2}"

        driver = searched(answer=answer, samples=4, limits=Limits(max_calls=9))
        assert (driver.text, driver.run.ledger.exhausted) == ("\\boxed{2}", "max_calls")

    def test_at_the_deadline_the_best_so_far(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**UNLIKE, faults=(Fault("hang", role="selector"),))
        answer = proxy.ask("plansearch-sim", optillm_budget={"max_seconds": 1.5}).json
        assert "boxed" in answer["choices"][0]["message"]["content"]
        assert answer["optillm"]["exhausted"] == "deadline"
        assert eventually(lambda: sim.log.inflight == 0)


@pytest.mark.parametrize("support", ["honoured", "ignored", "refused"])
def test_what_the_upstream_does_with_n(
    proxy: InProcess, sim: SimulatorThread, support: str
) -> None:
    sim.behave(n=support)
    answer = proxy.ask("plansearch-sim", n=2, optillm_options={"samples": 2}).json
    assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 10)


def test_the_conversation_stays_in_front(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(**UNLIKE)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": QUESTION},
    ]
    proxy.post(json={"model": "plansearch-sim", "messages": messages})
    for call in sim.log.records:
        sent = (call.body or {})["messages"]
        assert sent[:3] == messages[:3]
        assert sent[3]["content"].startswith(QUESTION)


def test_an_ensembles_members_do_their_part() -> None:
    members = (Member("anna"), Member("bela"), Member("dora", "judge"), Member("fred", "helper"))
    driver = searched(answer=lambda text: f"\\boxed{{{len(text)}}}", members=members, samples=2)
    models = [(stage(call), call.model) for call in driver.upstream.calls]
    assert models[0] == ("observe", "fred")
    assert {model for step, model in models if step == "plan"} == {"anna", "bela"}
    assert {model for step, model in models if step == "select"} == {"dora"}


def test_inside_pipelines(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("none&plansearch-sim").json["optillm"]["calls"] == 18
    assert len(proxy.ask("plansearch|none-sim").json["choices"]) == 2
