"""Plan search: search over plans in words, whose parts differ, and not over ever more answers.

Wang et al.: Planning In Natural Language Improves LLM Search For Code Generation, arXiv:2409.03733.

1. Ask for first observations on the problem: hints, no solution.
2. Form subsets of them, none twice: pairs that share nothing, the empty set, each by itself, the
   other pairs.
3. Per subset, side by side: a solution in words that builds on it, and then, in the same reply,
   that solution carried out, in the programming language that the client asks for, if any.
4. Select one of the answers, by the first of these that settles it; plans that can change nothing
   any more are cancelled.
   - Tests that the problem states (`proxy.search.stated`): the first program that passes them all.
     Of those that pass some, those that pass most go on.
   - The vote, where answers can be compared (`proxy.classes`) and one leads.
   - Execution consensus: most programs print the same on inputs that a model thinks up.
   - Generative selection (`proxy.selection`), which begins beside execution consensus and not
     behind it: a round less where no output leads, for judges who are stopped where one does.

Only programs in Python are run, and none where ``execute`` is off, or where a tag in the prompt or
the router has chosen this approach: then vote and selection are left.

Smaller than the paper: no second layer of observations, no criticised twin of each solution, no
pseudocode in between; and, by default, two plans, so that it takes no more calls than one chain
from observation to code. A model that states few observations gets no more plans than they have
subsets. Where the client says what the whole reply has to look like, no plan stands in front.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Annotated, Any, TypeVar

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.drawing import draw
from proxy.llm import LLM, Range, Shape, UpstreamError, approach
from proxy.search.programs import Case, Runner, canonical, inputs_in, program_in
from proxy.search.stated import stated_tests
from proxy.selection import select
from proxy.voting import Tally, decided

#: To run programs on, where the problem states no tests.
_INPUTS = 6
#: Of fewer programs the outputs say no more than whether one of them is wrong.
_COMPARABLE = 3
K = TypeVar("K", bound=Hashable)


def _shape(o: Any) -> Shape:
    plans = min(o.samples, 1 + o.observations + comb(o.observations, 2))
    if plans == 1:
        return Shape(calls=2, rounds=2)
    # At least one plan is carried out; at most all are, and the inputs settle nothing.
    inputs = o.execute and plans >= _COMPARABLE
    return Shape(calls=(1 + plans, 1 + plans + inputs + o.selections), rounds=(2, 3))


@approach(
    "plansearch",
    paper="arXiv:2409.03733",
    shape=_shape,
    use="Programming problems and puzzles with several ways in, where the first idea often fails.",
    roles=lambda _: ("helper", "proposer", "judge"),
)
async def plansearch(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 64), "plans, each from another subset"] = 2,
    observations: Annotated[int, Range(1, 12), "first observations to ask for"] = 6,
    selections: Annotated[int, Range(1, 9), "judges that vote on the answers"] = 1,
    execute: Annotated[bool, "run programs, apart from the service, to select"] = True,
    seconds: Annotated[float, Range(1.0, 30.0), "a program may run"] = 5.0,
) -> Reply:
    """Plan from different subsets of observations, carry each plan out, select an answer."""
    subsets = _subsets(await _observed(chat, llm, observations))
    plans = min(samples, len(subsets))
    runs = execute and llm.sandbox.runs and plans > 1
    runner = Runner(llm.sandbox, seconds) if runs else None
    contest = _Contest(llm, plans, runner, stated_tests(chat.query) if runs else [], Classes(llm))

    async def carried_out(nth: int) -> Reply:
        reply = await _answer(chat, llm, subsets[nth], nth)
        await contest.test(reply)
        return reply

    answers = await draw(
        llm,
        llm.fan(map(carried_out, range(plans)), quorum=True),
        lambda lost: llm.fan(map(carried_out, range(plans, len(subsets))[:lost])),
        enough=contest.enough,
    )
    llm.note(f"{len(answers)} plans carried out")
    return await contest.selected(chat, answers, selections)


async def _observed(chat: Chat, llm: LLM, most: int) -> list[str]:
    """Observations on the problem; none where the model fails, as the empty set needs none."""
    try:
        said = await llm.ask(chat.followed_by(_OBSERVE.format(count=most)))
    except UpstreamError:
        return []
    items = _ITEM.split(f"\n{said.rendered}")[1:]
    stated = (" ".join(item.partition("\n\n")[0].split()) for item in items)
    return [observation for observation in dict.fromkeys(stated) if observation][:most]


def _subsets(observations: Sequence[str]) -> list[tuple[str, ...]]:
    """All of at most two; in front, so that few plans say much, pairs that share nothing."""
    apart = list(zip(observations[::2], observations[1::2], strict=False))
    every = (subset for size in range(3) for subset in combinations(observations, size))
    return [*apart, *(subset for subset in every if subset not in apart)]


async def _answer(chat: Chat, llm: LLM, subset: Sequence[str], nth: int) -> Reply:
    """A solution in words from ``subset``, carried out: the latter."""
    listed = "\n".join(f"- {observation}" for observation in subset)
    noticed = _NOTICED.format(observations=listed) if subset else ""
    shaped = chat.formatted or chat.params.get("stop")
    prompt = noticed + (_ANSWER if shaped else _PLAN + _ANSWER)
    reply = await llm.answer(chat.followed_by(prompt), nth=nth)
    _, planned, carried_out = reply.text.rpartition(_PLANNED)
    return reply.with_text(carried_out.strip()) if planned and carried_out.strip() else reply


@dataclass(slots=True, eq=False)
class _Contest:
    """The answers so far, and what speaks for each."""

    llm: LLM
    plans: int
    #: None where no programs are run.
    runner: Runner | None
    tests: Sequence[Case]
    classes: Classes
    #: Whose programs were run on the tests, with how many they pass.
    tested: list[tuple[Reply, int]] = field(default_factory=list)

    async def test(self, reply: Reply) -> None:
        """Run the reply's program, if any, on the tests that the problem states."""
        program = program_in(reply.rendered) if self.tests and not reply.truncated else None
        if self.runner is None or program is None:
            return
        if not self.classes.ballots:
            # Should time be over before the program is.
            self.llm.keep(reply)
        passed = await self.runner.passed(program, self.tests)
        self.tested.append((reply, passed))
        self.llm.note(f"a program passes {passed} of {self.stated} tests")

    async def enough(self, reply: Reply) -> bool:
        """Whether ``reply`` settles it; keeps the best so far."""
        await self.classes.add(reply)
        self.llm.keep(self.best)
        if self.most:
            return self.most == self.stated
        return self._voted(self.plans - self.classes.ballots)

    async def selected(self, chat: Chat, answers: Sequence[Reply], selections: int) -> Reply:
        """The one of ``answers`` to give."""
        if not self.classes.ballots:
            for cut_short in answers:
                await self.classes.add(cut_short)
        best, in_time = self.best, self.llm.time_for(1)
        self.llm.keep(best)
        if self.most:
            answers = [reply for reply, passed in self.tested if passed == self.most]
            if self.most == self.stated or len(answers) == 1 or not in_time:
                place = [reply for reply, _ in self.tested].index(best)
                told = f"passes {self.most} of {self.stated} tests that the problem states"
                self.llm.decide("check", self.tested, place, told)
                return best
        elif self.classes.unanimous or self._voted(0) or not in_time:
            return self.classes.elect()
        # What is left where no judge votes is the first.
        others = [answer for answer in answers if answer is not best]
        judging = select(chat, self.llm, [best, *others], ballots=selections)
        async with self.llm.fan([judging]) as judged:
            agreed = await self._agreed(chat, answers)
            return await anext(judged) if agreed is None else agreed

    @property
    def stated(self) -> int:
        """How many tests the problem states."""
        return sum(test.wanted is not None for test in self.tests)

    @property
    def most(self) -> int:
        """How many of them a program passes."""
        return max((passed for _, passed in self.tested), default=0)

    @property
    def best(self) -> Reply:
        """The first that passes most tests; where none passes any, one of the largest class."""
        passing = (reply for reply, passed in self.tested if passed == self.most > 0)
        return next(passing, None) or self.classes.best

    def _voted(self, to_come: int) -> bool:
        """Whether the vote decides, even if all programs turn out to say the same."""
        classes, programs = self.classes, self.classes.programs
        undecided = (to_come + len(programs)) * self.llm.heaviest
        winner = _winner(classes.votes, classes.members, undecided)
        return winner is not None and classes.best not in programs

    async def _agreed(self, chat: Chat, answers: Sequence[Reply]) -> Reply | None:
        """One of the programs that do the same on inputs that a model thinks up; None for none."""
        found = ((answer, program_in(answer.rendered)) for answer in answers)
        programs = [(answer, program) for answer, program in found if program is not None]
        differ = len({program for _, program in programs}) > 1
        if self.runner is None or not differ or len(programs) < _COMPARABLE:
            return None
        asking = chat.followed_by(_THINK_UP.format(count=_INPUTS))
        try:
            said = await self.llm.ask(asking, temperature=0)
        except UpstreamError:
            return None
        cases = inputs_in(said.rendered)[:_INPUTS]
        if not cases:
            return None
        self.llm.note(f"running {len(programs)} programs on {len(cases)} inputs")
        return await self._consensus(self.runner, programs, cases)

    async def _consensus(
        self, runner: Runner, programs: Sequence[tuple[Reply, str]], cases: Sequence[Case]
    ) -> Reply | None:
        """The shortest of those that print what most print; None where no output leads."""
        votes: Tally[Hashable] = Tally()
        members: dict[Hashable, list[Reply]] = {}
        ran = 0

        async def run(answer: Reply, program: str) -> tuple[Reply, Sequence[str]]:
            printed = await runner.printed(program, cases)
            return answer, tuple(canonical(text or "") for text in printed)

        async with self.llm.fan(run(*each) for each in programs) as landed:
            async for answer, printed in landed:
                ran += 1
                # Who prints nothing agrees with nobody.
                if any(printed):
                    votes.add(printed, self.llm.weight(answer))
                    members.setdefault(printed, []).append(answer)
                winner = _winner(votes, members, (len(programs) - ran) * self.llm.heaviest)
                if winner is not None:
                    told = f"{len(members[winner])} of {ran} programs print the same"
                    each = ((members[key][0], weight) for key, weight in votes.counts.items())
                    self.llm.decide("vote", each, list(votes.counts).index(winner), told)
                    return min(members[winner], key=lambda reply: len(reply.text))
        return None


def _winner(votes: Tally[K], members: Mapping[K, Sequence[Reply]], undecided: float) -> K | None:
    """The class of several that leads, where what is still undecided cannot change that."""
    leader = votes.leader
    if leader is None or len(members[leader]) < 2 or votes.margin <= 0:
        return None
    return leader if decided(votes, undecided) else None


#: Where an item of a list begins.
_ITEM = re.compile(r"\n[ \t]*(?:[-*•][ \t]|\(?\d{1,2}(?:[.):][ \t]|[、．）：]))")

_OBSERVE = """\
Before anything is solved, look at the problem above. What is worth noticing: structure, hidden \
conditions, invariants, limits, cases at the edge, a known problem that it resembles? Reply with a \
numbered list of {count} observations that differ in kind, one sentence each, each understandable \
without the others. Hints only. Do not provide the final answer."""

#: What stands between a plan and what it led to.
_PLANNED = "</plan>"

_NOTICED = """\
This has been noticed about the message above:

{observations}

Build on it.

"""

_PLAN = """\
Begin with a plan in words, between <plan> and </plan>: the idea, the steps, how each point that \
was noticed is used, why the steps are right, and what they cost. No code in it. Behind it, carry \
the plan out; depart from it where it turns out to be wrong. The reader does not see the plan: do \
not mention it.

"""

_ANSWER = """\
Answer the message in full. If it wants a program, write it in the language that it names or that \
its material is in; if it wants none, write none."""

_THINK_UP = """\
Programs that answer the message above are about to be run on the same inputs, to see where they \
differ. Think up {count} inputs that the message allows: small ones, ones at the edge of what is \
allowed, ones that a hasty solution gets wrong. Write each in a fenced block of its own: what a \
program reads from standard input, as it is; or, where the message asks for a function or a class \
by its name, one Python expression that calls it. Inputs only: no expected outputs, no comments. \
Do not provide the final answer."""
