"""Plan search: search over plans in words, whose parts differ, and not over ever more answers.

Wang et al.: Planning In Natural Language Improves LLM Search For Code Generation, arXiv:2409.03733.

1. Ask for first observations on the problem: hints, no solution.
2. Form subsets of them, none twice: the empty set, each by itself, each pair.
3. Per subset, side by side: a solution in words that builds on it, then that solution carried out,
   in the programming language that the client asks for, if any.
4. Select one of the answers: nothing to do where all agree, else by generative selection
   (`proxy.selection`).

Smaller than the paper: no second layer of observations, no criticised twin of each solution, no
pseudocode in between. Its filter, tests that the problem states, needs to run code, which is not
there yet. A model that states few observations gets no more plans than they have subsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Annotated, Any

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.drawing import draw
from proxy.llm import DRAFT, LLM, Range, Shape, UpstreamError, approach
from proxy.selection import select


def _shape(o: Any) -> Shape:
    plans = min(o.samples, 1 + o.observations + comb(o.observations, 2))
    judges = o.selections if plans > 1 else 0
    calls = 1 + 2 * plans
    return Shape(calls=(calls, calls + judges), rounds=(3, 3 + (judges > 0)))


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
    samples: Annotated[int, Range(1, 64), "plans, each from another subset"] = 8,
    observations: Annotated[int, Range(1, 12), "first observations to ask for"] = 6,
    selections: Annotated[int, Range(1, 9), "judges that vote on the answers"] = 3,
) -> Reply:
    """Plan from different subsets of observations, carry each plan out, select an answer."""
    subsets = _subsets(await _observed(chat, llm, observations))
    spare = subsets[samples:]
    answers = await draw(
        llm,
        llm.fan(_answer(chat, llm, subset, nth) for nth, subset in enumerate(subsets[:samples])),
        lambda lost: llm.fan(
            _answer(chat, llm, subset, samples + nth) for nth, subset in enumerate(spare[:lost])
        ),
    )
    llm.note(f"{len(answers)} plans carried out")
    return await _selected(chat, llm, answers, selections)


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
    """All of at most two, the smallest first."""
    return [subset for size in range(3) for subset in combinations(observations, size)]


async def _answer(chat: Chat, llm: LLM, subset: Sequence[str], nth: int) -> Reply:
    """A solution in words from ``subset``, carried out."""
    listed = "\n".join(f"- {observation}" for observation in subset)
    prompt = _SOLVE_FROM.format(observations=listed) if subset else _SOLVE
    plan = await llm.answer(chat.followed_by(prompt), nth=nth, **DRAFT)
    return await llm.answer(chat.followed_by(_CARRY_OUT.format(plan=plan.rendered)), nth=nth)


async def _selected(chat: Chat, llm: LLM, answers: Sequence[Reply], selections: int) -> Reply:
    """The answer to give; the place for tests that the problem states, once code can be run."""
    classes = Classes(llm)
    for answer in answers:
        await classes.add(answer)
    best = classes.best
    llm.keep(best)
    if classes.unanimous or not llm.time_for(1):
        return classes.elect()
    # What is left where no judge votes is the first.
    others = [answer for answer in answers if answer is not best]
    return await select(chat, llm, [best, *others], ballots=selections)


#: Where an item of a list begins.
_ITEM = re.compile(r"\n[ \t]*(?:[-*•][ \t]|\(?\d{1,2}(?:[.):][ \t]|[、．）：]))")

_OBSERVE = """\
Before anything is solved, look at the problem above. What is worth noticing: structure, hidden \
conditions, invariants, limits, cases at the edge, a known problem that it resembles? Reply with a \
numbered list of {count} observations that differ in kind, one sentence each, each understandable \
without the others. Hints only. Do not provide the final answer."""

_SOLVE = """\
Plan a solution to the problem above, in words: the idea, the steps, why they are right, and what \
they cost. No code yet. Do not provide the final answer."""

_SOLVE_FROM = """\
This has been noticed about the problem above:

{observations}

Plan a solution that builds on it, in words: the idea, the steps, how each point is used, why the \
steps are right, and what they cost. No code yet. Do not provide the final answer."""

_CARRY_OUT = """\
This is a plan for it:

<plan>
{plan}
</plan>

Carry the plan out and answer in full. If the request wants a program, write it in the language \
that it names or that its material is in; if it wants none, write none. Depart from the plan where \
it is wrong. The reader has not seen the plan: do not mention it."""
