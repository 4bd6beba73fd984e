"""Recursive self-aggregation: a population of answers, each made anew from a few of the last.

Venkatraman et al.: Recursive Self-Aggregation Unlocks Deep Thinking in Large Language Models,
arXiv:2509.26626.

1. Sample a population of N answers.
2. For each of N places draw K of them at random, and have one better answer made of those.
3. Repeat step 2 until the population has been made anew T - 1 times, or agrees.
4. Return an answer of the largest class of the last population, the shortest.

The paper has N = 16, K = 4, T = 10 and never stops early; these defaults are its small end. Where
no two answers can be compared, the last step returns one answer of the population, as the paper
does with prose.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any

from proxy.chat import Chat, Reply
from proxy.drawing import by_lot, draw_population
from proxy.llm import LLM, Fan, Range, Shape, approach


@approach(
    "rsa",
    paper="arXiv:2509.26626",
    shape=lambda o: Shape(calls=(o.samples, o.samples * o.steps), rounds=(1, o.steps)),
    use="Hard questions, where parts of several wrong answers make a right one.",
    roles=lambda _: ("proposer",),
)
async def rsa(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 32), "answers in the population (N)"] = 6,
    subset: Annotated[int, Range(1, 16), "answers that one is made of (K)"] = 3,
    steps: Annotated[int, Range(1, 10), "populations, the first included (T)"] = 3,
    agreement: Annotated[float, Range(0.0, 1.0), "share of equal answers that ends it"] = 0.8,
) -> Reply:
    """Improve a population of answers by aggregation and return one that most agree with."""

    async def made_anew(parents: Sequence[Reply], step: int, place: int) -> Reply:
        """One answer out of K different ones of the last population."""
        drawn = by_lot(parents, subset, f"{step}/{place}")
        messages = chat.followed_by(_AGGREGATE.format(candidates=_quoted(drawn)))
        # Its seed is nobody else's: a step has at most `samples` places, and as many refilled.
        return await llm.answer(messages, nth=2 * samples * step + place)

    assembled = partial(draw_population, llm, size=samples, agreement=agreement)
    population, classes = await assembled(
        llm.sample(chat.messages, samples),
        lambda lost: llm.sample(chat.messages, lost, start=samples),
    )
    for step in range(1, steps):
        agreeing, _ = classes.top_two
        if agreeing >= agreement * classes.ballots or not llm.time_for(1):
            break
        llm.note(f"{agreeing} of {classes.ballots} agree, population {step + 1} of {steps}")
        make = partial(made_anew, population, step)
        population, classes = await assembled(
            llm.fan((make(place) for place in range(samples)), quorum=True),
            partial(_refilled, llm, make, samples),
            keep=False,
        )
    return classes.elect()


def _refilled(
    llm: LLM, make: Callable[[int], Coroutine[Any, Any, Reply]], samples: int, lost: int
) -> Fan[Reply]:
    return llm.fan(make(samples + place) for place in range(lost))


def _quoted(replies: Sequence[Reply]) -> str:
    return "\n\n".join(
        _CANDIDATE.format(number=number, text=reply.rendered)
        for number, reply in enumerate(replies, start=1)
    )


_CANDIDATE = """\
<candidate number="{number}">
{text}
</candidate>"""

_AGGREGATE = """\
Here is what came of earlier attempts at the message above:

{candidates}

Some of them may be wrong, and all of them may be. Find out where they go wrong and which of their \
ideas hold; join those ideas into one better answer. If none of them holds, go about it in another \
way. Then write that answer in full, as the only one the reader will see."""
