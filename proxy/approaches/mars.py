"""MARS: a population of solutions, aggregated, verified by answer, improved where refuted.

Two published methods behind one another (OptiLLM's multi-agent reasoning system, which has no
paper): Venkatraman et al., Recursive Self-Aggregation, arXiv:2509.26626; Huang and Yang, the
verify-and-refine pipeline of IMO 2025, arXiv:2507.15855.

1. Sample a population of solutions.
2. Aggregate: for each place one solution is made of a few drawn at random; a few times over. As
   soon as enough of the population agrees, that answer is returned.
3. Verify the most frequent answers side by side, a solution of each: by several verifiers, one of
   whom works it out anew while the next goes through it step by step. It is verified if someone
   accepts it and nobody refutes it. The most frequent verified answer is returned.
4. Improve what was refuted, by the verifier's report, and verify the result; a few times over.
5. Where nothing gets verified, return the most frequent answer of the population.

Deviations: the published pipeline asks for five acceptances in a row; the strategies that OptiLLM
has its agents exchange are what aggregation passes on, and are not extracted by calls of their own;
its population is 6, the paper's 16, and ours in between, since aggregation seldom brings an answer
that nobody has sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from proxy.answers import verdict
from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.drawing import by_lot, draw_population
from proxy.llm import LLM, Fan, Range, Shape, UpstreamError, approach


def _shape(o: Any) -> Shape:
    candidates = min(o.candidates, o.samples)
    verified = candidates * o.passes
    improved = o.improvements * (candidates + verified)
    return Shape(
        calls=(o.samples, o.samples * (1 + o.loops) + verified + improved),
        rounds=(1, 2 + o.loops + 2 * o.improvements),
    )


@approach(
    "mars",
    paper="arXiv:2507.15855",
    shape=_shape,
    aliases={
        "population_size": "samples",
        "aggregation_size": "subset",
        "aggregation_loops": "loops",
        "verification_passes_required": "passes",
        "max_iterations": "improvements",
    },
    use="Competition problems and proofs, where an answer should have been checked.",
    roles=lambda _: ("proposer", "judge"),
)
async def mars(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 32), "solutions in the population"] = 12,
    subset: Annotated[int, Range(1, 16), "solutions that one is aggregated from"] = 3,
    loops: Annotated[int, Range(0, 10), "times the population is aggregated"] = 3,
    agreement: Annotated[float, Range(0.5, 1.0), "share of equal answers that ends it"] = 0.8,
    candidates: Annotated[int, Range(1, 8), "different answers to verify"] = 3,
    passes: Annotated[int, Range(1, 8), "verifiers of each"] = 2,
    improvements: Annotated[int, Range(0, 10), "times that refuted ones are improved"] = 5,
) -> Reply:
    """Aggregate a population of solutions, verify its answers, and improve those refuted."""
    work = _Work(chat, llm, samples, subset, passes)
    assembled = partial(draw_population, llm, size=samples, agreement=agreement)
    population, classes = await assembled(
        llm.sample(chat.messages, samples),
        lambda lost: llm.sample(chat.messages, lost, start=samples),
    )
    for loop in range(1, loops + 1):
        if _agrees(classes, agreement) or not llm.time_for(1):
            break
        make = partial(work.aggregated, population, loop)
        population, classes = await assembled(
            llm.fan((make(place) for place in range(samples)), quorum=True),
            partial(work.refilled, make),
            keep=False,
        )
        llm.note(f"population aggregated {loop} of {loops} times")
    if _agrees(classes, agreement):
        return classes.elect()
    trials = [_Trial(reply) for reply in _leaders(classes, candidates)]
    for iteration in range(improvements + 1):
        if not trials or not llm.time_for(2 if iteration else 1):
            break
        first = 2 * samples * (loops + 1) + iteration * candidates
        trials = await work.tried(trials, first)
        accepted = next((nth for nth, trial in enumerate(trials) if trial.accepted), None)
        told = f"verifiers accept {sum(trial.accepted for trial in trials)} of {len(trials)}"
        llm.decide("check", ((trial.solution, None) for trial in trials), accepted, told)
        if accepted is not None:
            llm.note(f"verified after {iteration} improvements")
            return trials[accepted].solution
        trials = [trial for trial in trials if trial.report]
    return classes.elect()


@dataclass(frozen=True, slots=True)
class _Trial:
    """A solution and what verifiers said: accepted, or refuted with a report, or neither."""

    solution: Reply
    accepted: bool = False
    report: str = ""


@dataclass(frozen=True, slots=True)
class _Work:
    chat: Chat
    llm: LLM
    samples: int
    subset: int
    passes: int

    async def aggregated(self, parents: Sequence[Reply], loop: int, place: int) -> Reply:
        """One solution made of a few of ``parents``."""
        drawn = by_lot(parents, self.subset, f"{loop}/{place}")
        quoted = "\n\n".join(
            _CANDIDATE.format(number=number, text=parent.rendered)
            for number, parent in enumerate(drawn, start=1)
        )
        messages = self.chat.followed_by(_AGGREGATE.format(candidates=quoted))
        # A seed that no other place has: places that are refilled come behind the others.
        return await self.llm.answer(messages, nth=2 * self.samples * loop + place)

    def refilled(self, make: Callable[[int], Coroutine[Any, Any, Reply]], lost: int) -> Fan[Reply]:
        return self.llm.fan(make(self.samples + place) for place in range(lost))

    async def tried(self, trials: Sequence[_Trial], first: int) -> list[_Trial]:
        """The trials after one more verification, improved before it where they were refuted.

        In their order, and no longer than it takes to know the first one accepted.
        """

        async def again(place: int, trial: _Trial) -> tuple[int, _Trial]:
            return place, await self._again(trial, first + place)

        known: dict[int, _Trial] = {}
        async with self.llm.fan(again(*numbered) for numbered in enumerate(trials)) as landed:
            async for place, trial in landed:
                known[place] = trial
                if _first_is_accepted(known, len(trials)):
                    break
        return [known[place] for place in sorted(known)]

    async def _again(self, trial: _Trial, nth: int) -> _Trial:
        solution = trial.solution
        if trial.report:
            text = _IMPROVE.format(solution=solution.rendered, report=trial.report)
            try:
                solution = await self.llm.answer(self.chat.followed_by(text), nth=nth)
            except UpstreamError:
                return _Trial(trial.solution)
            if solution.truncated:
                return _Trial(trial.solution)
        return await self._verified(solution)

    async def _verified(self, solution: Reply) -> _Trial:
        """Accepted by somebody and refuted by nobody; the first report of a mistake ends it."""
        accepted = False
        judge = self.llm.role("judge", not_model=solution.model)

        async def checked(number: int) -> Reply:
            method = _METHODS[number % len(_METHODS)]
            text = _VERIFY.format(solution=solution.rendered, method=method)
            # Asked the same again, a model says the same again.
            temperature = 0 if number < len(_METHODS) else _DIVERSE
            return await judge.ask(self.chat.followed_by(text), temperature=temperature)

        try:
            async with self.llm.fan(map(checked, range(self.passes))) as landed:
                async for said in landed:
                    correct = verdict(said.text)
                    if correct is False:
                        return _Trial(solution, report=said.rendered)
                    accepted = accepted or correct is True
        except UpstreamError:
            pass
        return _Trial(solution, accepted=accepted)


def _first_is_accepted(known: Mapping[int, _Trial], count: int) -> bool:
    """Whether the first trial that is not lost is known, and accepted."""
    for place in range(count):
        if place not in known:
            return False
        if known[place].accepted:
            return True
    return False


def _agrees(classes: Classes, agreement: float) -> bool:
    return classes.top_two[0] >= agreement * classes.ballots


def _leaders(classes: Classes, count: int) -> list[Reply]:
    """The shortest solution of each of the most frequent answers; any where there is no answer."""
    frequent = sorted(classes.votes.counts, key=lambda key: -classes.votes.counts[key])
    shortest = [min(classes.members[key], key=lambda reply: len(reply.text)) for key in frequent]
    return (shortest or classes.void)[:count]


_DIVERSE = 0.7

_CANDIDATE = """\
<candidate number="{number}">
{text}
</candidate>"""

_AGGREGATE = """\
Several solutions for the message above are on the table:

{candidates}

Any of them may be wrong, even all. Find out where they part and which of them has it right there; \
take over what stands up to checking, and find a way of your own where none does. Write one \
complete solution, as the only one that will be read."""

_METHODS = (
    "Go through it step by step. For each step say whether it follows from what comes before it, "
    "and redo every calculation.",
    "First work the message out by yourself, in another way than the solution does. Then compare "
    "results, and where they differ find out whose mistake it is.",
)

_VERIFY = """\
This is meant to be a solution for the message above:

<candidate>
{solution}
</candidate>

Verify it. {method} A gap that can be filled without changing the result is no mistake; a wrong \
result, a step that does not follow, or a part of the request left out is one. Name the place of \
each mistake that you find. Then end with one line, which is either CORRECT or INCORRECT:
Overall assessment (CORRECT/INCORRECT)"""

_IMPROVE = """\
This solution for the message above did not pass its verification:

<candidate>
{solution}
</candidate>

The verifier reports:

<report>
{report}
</report>

The report may be wrong too: check each of its points first. Mend every real mistake, take another \
way where the idea itself does not hold, and write the complete solution again, as the only one \
that will be read."""
