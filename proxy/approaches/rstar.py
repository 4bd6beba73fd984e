"""rStar: typed steps of reasoning searched as a tree, checked by a second model.

Qi, Ma, Xu, Zhang, Yang, Yang: Mutual Reasoning Makes Smaller LLMs Stronger Problem-Solvers,
arXiv:2408.06195.

1. Roll out trajectories from the question to an answer. At each step UCT chooses one of the actions
   that are legal there (`proxy.search.reasoning`): A1 one step of thought, A2 the rest up to the
   answer, A3 the next sub-question with its answer, A4 that sub-question answered anew, A5 the
   question in other words. The last step that ``max_depth`` leaves is A2.
2. The reward of a trajectory is the share of all answers that agree with its own.
3. As soon as a trajectory has ended, a discriminator, another model where the ensemble has one,
   sees the beginning of it and completes it. The answer survives where both agree.
4. Return a trajectory whose answer has the highest share plus rate of survival.

Deviations: rollouts run W at a time, kept apart by counting those under way as visits without
reward; one completion for each trajectory in place of several; only A2 ends a trajectory, so that
what is returned is a whole answer. Where no answer can be compared with another, a selection
among the trajectories' texts (`proxy.selection`) decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import Annotated, Any

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.llm import DRAFT, LLM, Fan, Range, Shape, UpstreamError, approach
from proxy.refining import drawn
from proxy.search.reasoning import Action, Search, Step
from proxy.selection import select


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A rollout that came to its end; ``share`` of its text is shown to the discriminator."""

    end: Step
    reply: Reply
    share: float


@dataclass(slots=True)
class Survival:
    """How many completions agreed with each answer, of how many."""

    agreed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, answer: str, completed: str | None) -> None:
        self.seen[answer] += 1
        self.agreed[answer] += answer == completed

    def rate(self, answer: str) -> float:
        return self.agreed[answer] / self.seen[answer] if self.seen[answer] else 0.0


def _shape(o: Any) -> Shape:
    # The first rollouts take different actions, of which one is to answer at once.
    different = min(o.num_rollouts, 4) if o.max_depth > 1 else 1
    direct = (o.max_depth - 1) * (o.num_rollouts >= 4)
    least = o.num_rollouts + different - 1
    most = o.num_rollouts * o.max_depth - direct
    # Each answer is checked; where there is none, three judges select.
    ballots = 3 * (o.num_rollouts > 1)
    return Shape(
        calls=(least + min(1, ballots), most + max(o.num_rollouts, ballots)),
        rounds=(1 + min(1, ballots), o.max_depth * ceil(o.num_rollouts / o.parallel) + 1),
    )


@approach(
    "rstar",
    paper="arXiv:2408.06195",
    shape=_shape,
    aliases={
        "rstar_max_depth": "max_depth",
        "rstar_num_rollouts": "num_rollouts",
        "rstar_c": "c",
    },
    use="Reasoning with one checkable answer, by small models; best with two different ones.",
    roles=lambda _: ("proposer", "judge"),
)
async def rstar(
    chat: Chat,
    llm: LLM,
    *,
    max_depth: Annotated[int, Range(1, 16), "steps of a trajectory"] = 3,
    num_rollouts: Annotated[int, Range(1, 64), "trajectories"] = 5,
    c: Annotated[float, Range(0, 10), "UCT's weight of exploration"] = 1.4,
    parallel: Annotated[int, Range(1, 16), "rollouts at once"] = 8,
) -> Reply:
    """Search for trajectories of typed steps whose answers agree, and survive a second model."""
    search = Search(max_depth, c)
    classes = Classes(llm)
    survival = Survival()
    ended: list[Trajectory] = []

    async def roll_out(nth: int) -> Trajectory:
        random = Random(nth)
        step = search.begin()
        while True:
            step = search.advance(step, random)
            if step.text is not None:
                continue
            try:
                reply = await _written(chat, llm, step, nth)
            except UpstreamError:
                search.drop(step)
                raise
            step.text = reply.rendered
            if step.action is Action.ANSWER:
                return Trajectory(step, reply, random.uniform(*_SHOWN))

    async def complete(trajectory: Trajectory, answer: str) -> tuple[str, Reply]:
        messages = chat.followed_by(_COMPLETE.format(start=_beginning(trajectory)))
        discriminator = llm.role("judge", not_model=trajectory.reply.model)
        return answer, await discriminator.answer(messages)

    checking: Fan[tuple[str, Reply]] = llm.fan()
    async with checking as checks:
        for first in range(0, num_rollouts, parallel):
            if first and not llm.time_for(max_depth + 1):
                break
            batch = range(first, min(first + parallel, num_rollouts))
            try:
                async with llm.fan(map(roll_out, batch)) as landed:
                    async for trajectory in landed:
                        answer = trajectory.end.answer = await classes.add(trajectory.reply)
                        ended.append(trajectory)
                        if answer is not None:
                            checks.add(complete(trajectory, answer))
                        llm.keep(_best(ended, search.shares()))
                        llm.note(f"{len(ended)} of {num_rollouts} trajectories ended")
            except UpstreamError:
                if not ended:
                    raise
                break
        shares = search.shares()
        if not shares:
            return await select(chat, llm, [trajectory.reply for trajectory in ended])
        try:
            async for answer, completed in checks:
                survival.add(answer, await classes.add(completed, weight=0.0))
                scores = {answer: shares[answer] + survival.rate(answer) for answer in shares}
                llm.keep(_best(ended, scores))
        except UpstreamError:
            pass
    scores = {answer: shares[answer] + survival.rate(answer) for answer in shares}
    winner = max(range(len(scores)), key=list(scores.values()).__getitem__)
    llm.decide("vote", scores.items(), winner, "the highest share plus rate of survival")
    return _best(ended, scores)


def _best(ended: Sequence[Trajectory], scores: Mapping[str, float]) -> Reply:
    """The shortest answer of the best scored class; a complete one where there is no class."""
    if not scores:
        return min((trajectory.reply for trajectory in ended), key=lambda reply: reply.truncated)
    best = max(scores, key=scores.__getitem__)
    replies = [trajectory.reply for trajectory in ended if trajectory.end.answer == best]
    return min(replies, key=lambda reply: len(reply.text))


async def _written(chat: Chat, llm: LLM, step: Step, nth: int) -> Reply:
    """The reply of a new step, by the nth proposer; only an answer takes the client's shape."""
    assert step.action is not None
    before = step.steps[:-1]
    if not before and step.action is Action.ANSWER:
        # Nothing to go on from: it is what the client asked for.
        return await drawn(llm, chat.messages, nth)
    messages = chat.followed_by("\n\n".join([*map(_quoted, before), _ASK[step.action]]))
    return await drawn(llm, messages, nth, **({} if step.action is Action.ANSWER else DRAFT))


def _quoted(step: Step) -> str:
    assert step.action is not None
    return _STEP.format(kind=_KIND[step.action], text=step.text)


def _beginning(trajectory: Trajectory) -> str:
    """The first lines of a trajectory, never its last one, which states the answer."""
    text = "\n".join(step.text or "" for step in trajectory.end.steps)
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[: int(trajectory.share * len(lines))])


#: How much of a trajectory the discriminator may see, least and most.
_SHOWN = (0.2, 0.8)

_KIND: Mapping[Action, str] = {
    Action.THINK: "thought",
    Action.ANSWER: "answer",
    Action.SUBQUESTION: "sub-question",
    Action.REANSWER: "sub-question answered anew",
    Action.REPHRASE: "question in other words",
}

_STEP = """\
<step kind="{kind}">
{text}
</step>"""

_ASK: Mapping[Action, str] = {
    Action.THINK: """\
Work towards an answer to the message above, one step at a time. Write the next step only: one \
deduction or calculation that brings it nearer, and what follows from it. Do not provide the final \
answer.""",
    Action.ANSWER: """\
These steps have been taken towards an answer to the message above. Go on from there, check what \
you rely on, and answer the message in full. Write for someone who has not seen the steps.""",
    Action.SUBQUESTION: """\
Break the message above into smaller questions. State the next one that has to be settled, then \
work out its answer, and write nothing beyond it. Do not provide the final answer.""",
    Action.REANSWER: """\
The last sub-question may have been answered wrongly. Repeat it, and answer it again from the \
beginning, step by step, without relying on that answer. Do not provide the final answer.""",
    Action.REPHRASE: """\
Say in other words what the message above asks: list every condition that it gives, one on a line, \
then state what is wanted. Do not provide the final answer.""",
}

_COMPLETE = """\
Someone began to work on the message above like this:

<beginning>
{start}
</beginning>

Go on from there to the end, and answer the message in full."""
