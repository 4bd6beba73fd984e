"""Plan search: plans from different subsets of observations, carried out, one selected."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest
from conftest import QUESTION, InProcess, MakeProxy, eventually
from driving import Driver, FakeUpstream, app_with, completion, example

from optictl.simulator import Fault, SimulatorThread
from proxy.approach import Shape, approach
from proxy.chat import Chat, Reply
from proxy.ensembles import Member
from proxy.errors import UpstreamError, UpstreamRejected
from proxy.llm import LLM
from proxy.registry import discover
from proxy.router.ladder import Asked, Choice
from proxy.sandbox.closed import Closed
from proxy.sandbox.port import Ran
from proxy.sandbox.process import Subprocess
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
    if "Think up" in text:
        return "think up"
    return "observe" if "numbered list" in text else "solve"


def subset(text: str) -> tuple[str, ...]:
    """The observations that a prompt for a plan gives."""
    return tuple(line[2:] for line in text.splitlines() if line.startswith("- "))


SUM = """\
Add two numbers.

Sample Input 1
3 4

Sample Output 1
7

Sample Input 2
1 1

Sample Output 2
2
"""


class Sandbox:
    """Implements `proxy.sandbox.port.Sandbox`: what each program prints, for any case.

    ``prints`` takes the program and what it is run on; None is a failure, an `asyncio.Event` is
    waited for.
    """

    runs = True
    libraries: Sequence[str] = ()

    def __init__(self, prints: Callable[[str, str], Any]) -> None:
        self._prints = prints
        self.programs: list[str] = []
        self.running = 0

    async def run(self, program: str, seconds: float) -> Ran:
        call = ast.parse(program).body[-1]
        assert isinstance(call, ast.Expr)
        assert isinstance(call.value, ast.Call)
        source, cases, marker, _ = map(ast.literal_eval, call.value.args)
        self.programs.append(source)
        self.running += 1
        try:
            said = [self._prints(source, given) for _, given in cases]
            for waited in said:
                if isinstance(waited, asyncio.Event):
                    await waited.wait()
        finally:
            self.running -= 1
        lines = (f"{marker}{json.dumps(each)}" for each in enumerate(said))
        return Ran("\n".join(lines))


async def never() -> str:
    await asyncio.Event().wait()
    return ""


#: More than by default, so that there is something to select from.
WIDE = {"samples": 8, "selections": 3}


def searched(
    observed: Any = OBSERVATIONS,
    answer: Callable[[str], Any] = lambda text: f"{' '.join(subset(text))} \\boxed{{1}}",
    select: Any = "Best candidate: 1",
    inputs: Any = UpstreamError("down"),
    problem: str = QUESTION,
    sandbox: Any = None,
    members: tuple[Member, ...] = (),
    limits: Limits | None = None,
    time: float = 60.0,
    params: Mapping[str, Any] | None = None,
    **options: Any,
) -> Driver:
    def respond(call: Call) -> Any:
        match stage(call):
            case "observe":
                return observed
            case "solve":
                return answer(prompt(call))
            case "think up":
                return inputs
        return select() if callable(select) else select

    async def run() -> Driver:
        messages = [{"role": "user", "content": problem}]
        upstream = FakeUpstream(respond)
        driver = Driver(
            upstream, *members, limits=limits, seconds=time, messages=messages, params=params
        )
        if sandbox is not None:
            driver.run.services = replace(driver.run.services, sandbox=sandbox)
        await driver.play("plansearch", **{**WIDE, **options})
        assert upstream.running == 0
        assert not getattr(sandbox, "running", 0)
        return driver

    return asyncio.run(run())


def numbered(text: str) -> str:
    """Another answer for each plan."""
    return f"\\boxed{{{crc32(text.encode())}}}"


def asked(driver: Driver, step: str) -> list[str]:
    return [prompt(call) for call in driver.upstream.calls if stage(call) == step]


class TestSubsets:
    def test_of_the_prompts_are_pairwise_different(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE)
        for options, plans in (
            ({}, 2),
            ({"samples": 8}, 8),
            ({"samples": 22}, 22),
            ({"samples": 12, "observations": 4}, 11),
        ):
            sim.reset()
            proxy.ask("plansearch-sim", optillm_options=options)
            prompts = [prompt(call) for call in sim.log.records if stage(call) == "solve"]
            subsets = [subset(text) for text in prompts]
            assert len(set(map(frozenset, subsets))) == len(subsets) == plans
            assert all(len(given) <= 2 for given in subsets)

    def test_begin_with_pairs_apart_then_none_then_one_then_two(self) -> None:
        given = [subset(text) for text in asked(searched(samples=7), "solve")]
        one, two, three = "It is odd.", "It is prime.", "It is small."
        assert given == [
            (one, two),
            (),
            (one,),
            (two,),
            (three,),
            (one, three),
            (two, three),
        ]

    def test_few_share_nothing(self) -> None:
        observed = "\n".join(f"{number}. Fact {number}." for number in range(1, 7))
        given = [subset(text) for text in asked(searched(observed, samples=3), "solve")]
        assert [len(pair) for pair in given] == [2, 2, 2]
        assert len({fact for pair in given for fact in pair}) == 6

    def test_of_fewer_observations_are_fewer(self) -> None:
        driver = searched("1. It is odd.\n2. It is odd.\n")
        assert [subset(text) for text in asked(driver, "solve")] == [(), ("It is odd.",)]

    @pytest.mark.parametrize(
        "observed", [UpstreamError("down"), completion(None), "Nothing comes to mind."]
    )
    def test_without_observations_one_plan_is_made(self, observed: Any) -> None:
        driver = searched(observed)
        assert [subset(text) for text in asked(driver, "solve")] == [()]
        assert "boxed" in driver.text

    def test_observations_in_another_language(self) -> None:
        driver = searched("1、它是奇数。\n2、它是质数。", samples=1)
        assert subset(asked(driver, "solve")[0]) == ("它是奇数。", "它是质数。")


class TestPlans:
    @pytest.mark.parametrize(
        ("said", "seen"),
        [
            ("<plan>\nMultiply. 7\n</plan>\n\nIt is \\boxed{1}.", "It is \\boxed{1}."),
            ("<think>a</plan>b</think><plan>c</plan>It is 1.", "It is 1."),
            ("It is 1, and no plan.", "It is 1, and no plan."),
            ("<plan>It is 1.</plan>", "<plan>It is 1.</plan>"),
            ("<plan>It is 1.", "<plan>It is 1."),
        ],
        ids=["as asked", "thinking", "none", "only a plan", "never closed"],
    )
    def test_are_not_part_of_the_answer(self, said: str, seen: str) -> None:
        assert searched(answer=lambda _: said, samples=1).text == seen

    def test_are_no_answer_that_is_voted_on(self) -> None:
        said = iter(["<plan>5, 2</plan>\\boxed{1}", "<plan>9</plan>\\boxed{1}"])
        driver = searched(answer=lambda _: next(said), samples=2)
        assert driver.text == "\\boxed{1}"
        assert driver.run.ledger.decisions[0].why == "2 of 2 agree"

    @pytest.mark.parametrize(
        ("params", "planned"),
        [
            ({}, True),
            ({"max_tokens": 500}, True),
            ({"response_format": {"type": "text"}}, True),
            ({"response_format": {"type": "json_object"}}, False),
            ({"stop": ["\n"]}, False),
        ],
    )
    def test_are_not_asked_for_in_an_answer_of_a_given_shape(
        self, params: Mapping[str, Any], planned: bool
    ) -> None:
        prompts = asked(searched(params=params), "solve")
        assert len(prompts) == 7
        assert {"<plan>" in text for text in prompts} == {planned}

    def test_no_language_is_forced_on_the_client(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(**UNLIKE)
        proxy.ask("plansearch-sim", "Write 17 * 23 in Rust.")
        assert not any("python" in str(call.body).lower() for call in sim.log.records)
        assert all(prompt(call).startswith("Write 17") for call in sim.log.records)

    def test_answers_have_the_clients_shape_and_observations_do_not(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.ask("plansearch-sim", max_tokens=300, stop=["STOP"])
        for call in sim.log.records:
            assert ("stop" in (call.body or {})) == (stage(call) == "solve")

    def test_one_that_fails_is_made_from_a_subset_that_is_left(self) -> None:
        def answer(text: str) -> Any:
            return UpstreamError("down") if subset(text) == ("It is odd.",) else numbered(text)

        driver = searched(answer=answer, samples=3)
        assert subset(asked(driver, "solve")[-1]) == ("It is prime.",)
        assert len(asked(driver, "solve")) == 4


class TestSelection:
    def test_nothing_is_judged_where_all_agree(self) -> None:
        driver = searched()
        assert not asked(driver, "select")
        assert driver.run.ledger.rounds == 2

    def test_programs_that_differ_are_judged(self) -> None:
        def program(text: str) -> str:
            return f"```go\nsolve({'odd' in text})\nreturn 0\n```"

        assert len(asked(searched(answer=program), "select")) == 3
        assert not asked(searched(answer=lambda _: "```go\nreturn 0\n```"), "select")

    def test_the_judge_decides(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**{**UNLIKE, "probability": 0.15}, judge_separation=10, seed=1)
        answer = proxy.ask("plansearch-sim", optillm_options=WIDE).json
        assert "\\boxed{391}" in answer["choices"][0]["message"]["content"]
        assert (answer["optillm"]["rounds"], answer["optillm"]["calls"]) == (3, 12)

    @pytest.mark.parametrize(
        "verdict",
        [UpstreamError("down"), UpstreamRejected("too long", status=400), "NaN", "Candidate 99!"],
    )
    def test_without_a_judge_one_of_a_largest_class_is_the_answer(self, verdict: Any) -> None:
        def answer(text: str) -> str:
            if len(given := subset(text)) == 2:
                return "I do not know what to say to this, as there is no end to it. Or is there?"
            return "\\boxed{1}" if given in [("It is odd.",), ("It is prime.",)] else "\\boxed{2}"

        driver = searched(answer=answer, select=verdict, samples=5)
        assert len(asked(driver, "select")) == 3
        assert driver.text in ("\\boxed{1}", "\\boxed{2}")


class TestVote:
    @pytest.mark.parametrize(
        ("ones", "twos", "judges"), [(5, 2, 0), (2, 1, 0), (3, 3, 3), (1, 1, 3)]
    )
    def test_elects_what_leads(self, ones: int, twos: int, judges: int) -> None:
        said = iter(["\\boxed{2}"] * twos + ["\\boxed{1}"] * ones)
        driver = searched(answer=lambda text: next(said, None) or numbered(text))
        assert len(asked(driver, "select")) == judges
        if not judges:
            assert driver.text == "\\boxed{1}"
            assert driver.run.ledger.rounds == 2

    def test_ends_the_plans_that_can_change_nothing(self) -> None:
        def answer(text: str) -> Any:
            return asyncio.sleep(60, "late") if len(subset(text)) == 2 else "\\boxed{1}"

        driver = searched(answer=answer)
        assert driver.text == "\\boxed{1}"
        assert driver.upstream.cancelled == 3
        assert len(driver.upstream.calls) == 1 + 7
        (decision,) = driver.run.ledger.decisions
        assert (decision.kind, decision.why) == ("vote", "4 of 4 agree")

    def test_waits_for_programs_that_may_all_do_the_same(self) -> None:
        def answer(text: str) -> str:
            return "\\boxed{1}" if "odd" in text else f"```go\nsolve({len(text)})\n```"

        # Three state a number; four have written programs, each another.
        assert len(asked(searched(answer=answer), "select")) == 3


def written(text: str) -> str:
    """A program of its own for each plan, named after the observations it builds on."""
    words = [word for word in ("odd", "prime", "small") if f"is {word}" in text.lower()]
    return f"It goes so:\n```python\n# {' '.join(words) or 'nothing'}\n```"


class TestStatedTests:
    def test_the_first_program_that_passes_them_ends_the_search(self) -> None:
        def answer(text: str) -> Any:
            return written(text) if subset(text) == ("It is odd.",) else asyncio.sleep(60, "late")

        sandbox = Sandbox(lambda program, given: f"{sum(map(int, given.split()))} \n")
        driver = searched(answer=answer, problem=SUM, sandbox=sandbox)
        assert "# odd\n" in driver.text
        assert len(sandbox.programs) == 1
        assert driver.upstream.cancelled == 6
        shape = discover()["plansearch"].shape({**WIDE, "observations": 3})
        assert (len(driver.upstream.calls), driver.run.ledger.rounds) == (8, 2)
        assert (shape.least_calls, shape.least_rounds) == (8, 2)
        (decision,) = driver.run.ledger.decisions
        assert decision.why == "passes 2 of 2 tests that the problem states"
        assert (decision.kind, decision.winner) == ("check", 0)

    def test_what_passes_most_goes_on(self) -> None:
        def prints(program: str, given: str) -> str:
            right = given.startswith("1") and "small" not in program
            return "2" if right else "no idea"

        driver = searched(answer=written, problem=SUM, sandbox=Sandbox(prints))
        (shown, *_) = asked(driver, "select")
        assert shown.count("<candidate") == 4
        assert "small" not in shown.partition("<candidate")[2]

    def test_what_alone_passes_most_is_elected(self) -> None:
        def prints(program: str, given: str) -> str | None:
            return "2" if given.startswith("1") and program == "# odd small\n" else None

        driver = searched(answer=written, problem=SUM, sandbox=Sandbox(prints))
        assert "# odd small\n" in driver.text
        assert not asked(driver, "select")
        assert driver.run.ledger.decisions[0].why.startswith("passes 1 of 2 tests")

    @pytest.mark.parametrize("printed", ["no idea", None, "7 7"])
    def test_that_nothing_passes_settle_nothing(self, printed: Any) -> None:
        driver = searched(answer=written, problem=SUM, sandbox=Sandbox(lambda *_: printed))
        assert len(asked(driver, "select")) == 3

    def test_a_vote_does_not_stand_against_them(self) -> None:
        def answer(text: str) -> Any:
            small = "small" in text
            said = written(text) if small else "\\boxed{7}"
            return asyncio.sleep(0.05, said) if small is program_late else said

        program_late = True
        driver = searched(
            answer=answer,
            problem=SUM,
            sandbox=Sandbox(lambda _, given: "7" if given.startswith("3") else "2"),
            samples=6,
        )
        assert "boxed" in driver.text
        program_late = False
        driver = searched(
            answer=answer,
            problem=SUM,
            sandbox=Sandbox(lambda _, given: "7" if given.startswith("3") else "nothing"),
        )
        assert "small\n```" in driver.text

    def test_programs_in_other_languages_are_not_run(self) -> None:
        sandbox = Sandbox(lambda *_: "7")
        driver = searched(
            answer=lambda text: written(text).replace("python", "rust"),
            problem=SUM,
            sandbox=sandbox,
        )
        assert not sandbox.programs
        assert len(asked(driver, "select")) == 3
        assert not asked(driver, "think up")

    def test_an_answer_whose_program_does_not_end_is_kept(self) -> None:
        sandbox = Sandbox(lambda *_: asyncio.Event())
        driver = searched(answer=written, problem=SUM, sandbox=sandbox, time=0.5)
        assert "```python" in driver.text
        assert driver.run.ledger.exhausted == "deadline"
        assert len(sandbox.programs) == 2

    def test_of_a_truncated_program_are_not_run(self) -> None:
        def answer(text: str) -> Any:
            message = {"role": "assistant", "content": written(text)}
            return completion("", choices=[{"message": message, "finish_reason": "length"}])

        sandbox = Sandbox(lambda *_: "7")
        driver = searched(answer=answer, problem=SUM, sandbox=sandbox, samples=2)
        assert not sandbox.programs
        assert "```python" in driver.text

    def test_one_plan_has_nothing_to_be_compared_with(self) -> None:
        sandbox = Sandbox(lambda *_: "7")
        driver = searched(answer=written, problem=SUM, sandbox=sandbox, samples=1)
        assert not sandbox.programs
        assert len(driver.upstream.calls) == 2

    def test_in_the_real_sandbox(self) -> None:
        bodies = {
            "odd": "    while True:\n        pass",
            "prime": "    print('True', [0, True])\n    return 1",
            "small": "    return a + b",
        }

        def answer(text: str) -> str:
            body = next((body for word, body in bodies.items() if word in text), "    1 / 0")
            return f"```python\ndef add(a: int, b: int) -> int:\n{body}\n```"

        driver = searched(
            answer=answer,
            problem="Write add.\n>>> add(3, 4)\n7\n>>> add(1, 1)\n2\n",
            sandbox=Subprocess(),
            samples=5,
            seconds=2.0,
        )
        assert "return a + b" in driver.text
        assert driver.run.ledger.decisions[0].why.startswith("passes 2 of 2")


#: What two and two programs print; others print nothing.
TIED = {"# nothing\n": 1, "# odd\n": 1, "# prime\n": 2, "# small\n": 2}


class TestConsensus:
    INPUTS = "```\n3 4\n```\n```\n1 1\n```"

    @staticmethod
    def prints(program: str, given: str) -> str | None:
        """Sums; but what builds on "odd" fails, and "nothing" is wrong at the edge."""
        if "odd" in program:
            return None
        wrong = "nothing" in program and given == "1 1\n"
        return "11" if wrong else f"{sum(map(int, given.split()))}\n"

    def test_of_programs_that_print_the_same(self) -> None:
        sandbox = Sandbox(self.prints)
        driver = searched(answer=written, inputs=self.INPUTS, sandbox=sandbox, select=never)
        assert "# small\n" in driver.text or "# prime" in driver.text
        assert (len(driver.upstream.calls), driver.run.ledger.rounds) == (12, 3)
        assert driver.upstream.cancelled == len(asked(driver, "select")) == 3
        (decision,) = driver.run.ledger.decisions
        assert decision.kind == "vote"
        assert decision.why == "3 of 7 programs print the same"

    def test_outranks_judges_that_were_faster(self) -> None:
        driver = searched(
            answer=written,
            inputs=asyncio.sleep(0.05, self.INPUTS),
            sandbox=Sandbox(self.prints),
        )
        assert "# small\n" in driver.text or "# prime" in driver.text
        assert [decision.kind for decision in driver.run.ledger.decisions] == ["selection", "vote"]

    @pytest.mark.parametrize(
        ("inputs", "prints"),
        [
            (completion(None), lambda *_: "7"),
            ("I can think of none.", lambda *_: "7"),
            (INPUTS, lambda *_: None),
            (INPUTS, lambda *_: ""),
            (INPUTS, lambda program, _: program),
            (INPUTS, lambda program, _: TIED.get(program)),
        ],
        ids=["silent", "none", "all fail", "print nothing", "all differ", "a tie"],
    )
    def test_where_there_is_none_judges_decide(self, inputs: Any, prints: Any) -> None:
        def said(program: str, given: str) -> str | None:
            printed = prints(program, given)
            return None if printed is None else str(printed)

        driver = searched(answer=written, inputs=inputs, sandbox=Sandbox(said))
        shape = discover()["plansearch"].shape({**WIDE, "observations": 3})
        assert len(asked(driver, "think up")) == 1
        assert driver.run.ledger.rounds == shape.most_rounds == 3
        assert len(driver.upstream.calls) == shape.most_calls == 12

    def test_where_nobody_thinks_up_inputs_judges_decide(self) -> None:
        driver = searched(answer=written, sandbox=Sandbox(lambda *_: "7"))
        assert (len(asked(driver, "think up")), len(asked(driver, "select"))) == (1, 3)

    def test_does_not_wait_for_what_cannot_change_it(self) -> None:
        def prints(program: str, given: str) -> Any:
            return asyncio.Event() if "nothing" in program else "7"

        sandbox = Sandbox(prints)
        driver = searched(answer=written, inputs=self.INPUTS, sandbox=sandbox, select=never)
        assert "```python" in driver.text
        assert driver.upstream.cancelled == 3

    def test_is_not_asked_where_all_have_written_the_same(self) -> None:
        sandbox = Sandbox(lambda *_: "7")
        driver = searched(answer=lambda _: written(""), inputs=self.INPUTS, sandbox=sandbox)
        assert not sandbox.programs
        assert len(driver.upstream.calls) == 8

    @pytest.mark.parametrize(("programs", "inputs"), [(1, 0), (2, 0), (3, 1)])
    def test_is_not_asked_for_fewer_than_three(self, programs: int, inputs: int) -> None:
        texts = iter(range(9))

        def answer(text: str) -> str:
            return written(text) if next(texts) < programs else numbered(text)

        sandbox = Sandbox(lambda *_: "7")
        driver = searched(answer=answer, inputs=self.INPUTS, sandbox=sandbox, samples=5)
        assert len(asked(driver, "think up")) == inputs
        assert bool(sandbox.programs) == bool(inputs)

    def test_at_the_deadline_the_best_so_far(self) -> None:
        sandbox = Sandbox(lambda *_: asyncio.Event())
        driver = searched(answer=written, inputs=self.INPUTS, sandbox=sandbox, time=0.5)
        assert "```python" in driver.text
        assert driver.run.ledger.exhausted == "deadline"


class TestTrust:
    """Programs are run where the operator or the client has chosen this, and not for a prompt."""

    def test_execute_off(self) -> None:
        sandbox = Sandbox(lambda *_: "7")
        driver = searched(answer=written, problem=SUM, sandbox=sandbox, execute=False)
        assert not sandbox.programs
        assert (len(asked(driver, "select")), driver.run.ledger.rounds) == (3, 3)
        shape = discover()["plansearch"].shape({**WIDE, "execute": False})
        assert (shape.most_calls, shape.most_rounds) == (12, 3)

    def test_a_sandbox_that_runs_nothing(self) -> None:
        driver = searched(answer=written, problem=SUM, sandbox=Closed())
        assert (len(asked(driver, "select")), driver.run.ledger.rounds) == (3, 3)

    @pytest.mark.parametrize(("allow", "runs"), [("", False), ("plansearch", True)])
    def test_the_router(self, allow: str, runs: bool) -> None:
        class Ladder:
            async def choose(self, asked: Asked) -> Choice:
                return Choice("plansearch", "classifier", 0.9)

        async def run() -> None:
            said = {"observe": OBSERVATIONS, "solve": "```py\nf()\n```"}
            upstream = FakeUpstream(lambda call: said[stage(call)])
            driver = Driver(upstream, messages=[{"role": "user", "content": SUM}])
            services: Any = driver.run.services
            driver.run.services = replace(services, sandbox=sandbox, ladder=Ladder())
            await driver.play("router", allow=allow)

        sandbox = Sandbox(lambda *_: None)
        asyncio.run(run())
        assert bool(sandbox.programs) is runs

    def test_a_tag(self, make_proxy: MakeProxy) -> None:
        @example
        async def runs(chat: Chat, llm: LLM) -> Reply:
            inner = await llm.run("inner", chat)
            return Reply.of(f"{llm.sandbox.runs} {inner.text}")

        @approach("inner", shape=lambda _: Shape(calls=0, rounds=0))
        async def inner(chat: Chat, llm: LLM) -> Reply:
            ran = await llm.sandbox.run("print(6 * 7)", 20.0)
            return Reply.of(ran.output or str(ran.error))

        proxy = app_with(make_proxy, runs, inner, allow_prompt_tags=True)
        assert proxy.text("example-sim") == "True 42"
        tagged = f"<optillm_approach>example</optillm_approach>{QUESTION}"
        assert proxy.text("sim", tagged) == "False Programs are not run for this request."
        assert proxy.text("example-sim", tagged) == "True 42"


class TestAtTheSimulator:
    @pytest.mark.parametrize(
        ("behaviour", "options", "calls", "rounds", "peak"),
        [
            ({}, {}, 3, 2, 2),
            (UNLIKE, {}, 4, 3, 2),
            ({}, WIDE, 9, 2, 8),
            (UNLIKE, WIDE, 12, 3, 8),
            (UNLIKE, {"samples": 1}, 2, 2, 1),
            (UNLIKE, {"samples": 12, "observations": 3, "selections": 1}, 9, 3, 7),
        ],
        ids=str,
    )
    def test_calls_and_rounds_are_as_declared(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        behaviour: Mapping[str, Any],
        options: dict[str, Any],
        calls: int,
        rounds: int,
        peak: int,
    ) -> None:
        sim.behave(**behaviour, latency=0.2)
        optillm = proxy.ask("plansearch-sim", optillm_options=options).json["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (calls, rounds)
        assert (sim.log.choices, sim.log.rounds, sim.log.peak) == (calls, rounds, peak)
        shape = discover()["plansearch"].shape(options)
        assert shape.least_calls <= calls <= shape.most_calls
        assert shape.least_rounds <= rounds <= shape.most_rounds

    def test_a_streamed_answer_costs_the_same(self, proxy: InProcess, sim: SimulatorThread) -> None:
        sim.behave(**UNLIKE)
        optillm = proxy.stream("plansearch-sim")[-2]["optillm"]
        assert (optillm["calls"], optillm["rounds"]) == (4, 3)
        assert eventually(lambda: sim.log.inflight == 0)


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
    def test_a_small_budget_pays_for_all_but_the_judges(self) -> None:
        driver = searched(answer=numbered, samples=4, limits=Limits(max_calls=5))
        assert "boxed" in driver.text
        assert driver.run.ledger.exhausted == "max_calls"

    @pytest.mark.parametrize("calls", [5, 6])
    def test_the_least_budget_pays_for_one_answer(self, calls: int) -> None:
        driver = searched(answer=numbered, samples=4, limits=Limits(max_calls=calls))
        assert "boxed" in driver.text
        assert len(driver.upstream.calls) == calls

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
    answer = proxy.ask("plansearch-sim", n=2).json
    assert (len(answer["choices"]), answer["optillm"]["calls"]) == (2, 6)


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
    assert {model for step, model in models if step == "solve"} == {"anna", "bela"}
    assert {model for step, model in models if step == "select"} == {"dora"}


def test_inside_pipelines(proxy: InProcess, sim: SimulatorThread) -> None:
    assert proxy.ask("none&plansearch-sim").json["optillm"]["calls"] == 1 + 3
    assert len(proxy.ask("plansearch|none-sim").json["choices"]) == 2
