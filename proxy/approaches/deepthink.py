"""Deep thinking: find out once how to reason about a task, then let agreement decide.

Zhou et al.: SELF-DISCOVER, arXiv:2402.03620, and the uncertainty-routed chain of thought of the
Gemini report, arXiv:2312.11805.

1. Select the ways of thinking that help with the task from a list of them.
2. Adapt these to the task.
3. Implement them: a plan with places to be filled in. Steps 1 to 3 are done once for a task.
4. Sample k chains of thought that follow the plan, and a greedy one beside them.
5. If the share of chains that agree is at least `confidence`, one of those, the shortest; else the
   greedy one.

A task is what requests have in common that differ in their numbers only. The list of ways of
thinking is ours, and shorter than the paper's 39. Where no plan can be made, or time is too short
for one, the chains do without.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import Annotated

from proxy.chat import Chat, Message, Reply
from proxy.classes import Classes
from proxy.drawing import draw
from proxy.llm import LLM, Range, Shape, UpstreamError, approach


@approach(
    "deepthink",
    paper="arXiv:2402.03620",
    shape=lambda o: Shape(
        calls=(o.samples + 1, o.samples + 1 + 3 * o.discover),
        rounds=(1, 1 + 3 * o.discover),
    ),
    aliases={
        "deepthink_samples": "samples",
        "confidence_threshold": "confidence",
        "enable_self_discover": "discover",
        "reasoning_modules_limit": "modules",
    },
    use="Many requests of one kind, whose reasoning is worth working out once.",
    roles=lambda o: (
        ("helper", "proposer", "aggregator") if o.discover else ("proposer", "aggregator")
    ),
)
async def deepthink(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 32), "chains of thought to draw"] = 3,
    confidence: Annotated[float, Range(0, 1), "share of chains that must agree"] = 0.7,
    discover: Annotated[bool, "make a plan for tasks of this kind first"] = True,
    modules: Annotated[int, Range(1, 20), "ways of thinking that the plan may join"] = 7,
) -> Reply:
    """Reason along a plan made once for the task; the majority, or the greedy chain of thought."""
    messages = chat.followed_by(_STEP_BY_STEP)
    # The chains are what must be paid for.
    if discover and llm.budget_for(samples + 1 + len(_STAGES)):
        try:
            plan = await llm.once(_task(chat, modules), partial(_plan, chat, llm, modules), _DAY)
            messages = chat.followed_by(_FOLLOW.format(plan=plan))
        except (UpstreamError, _TooLateError):
            llm.note("no plan could be made")
    return await _routed(llm, messages, samples, confidence)


async def _plan(chat: Chat, llm: LLM, modules: int) -> str:
    """SELF-DISCOVER's first stage. Raises `_TooLateError` where the deadline is near."""
    said = _WAYS
    for stage, prompt in enumerate(_STAGES):
        if stage and not llm.time_for(len(_STAGES) - stage + 1):
            raise _TooLateError
        messages = chat.followed_by(prompt.format(said=said, most=modules))
        said = (await llm.ask(messages, temperature=0)).rendered
        llm.note(f"plan: stage {stage + 1} of {len(_STAGES)}")
    return said


def _task(chat: Chat, modules: int) -> tuple[int, bytes]:
    """What requests of one task share: their text without its numbers, hashed."""
    text = _NUMBER.sub("#", f"{chat.system}\0{chat.query}").casefold()
    return modules, blake2b(" ".join(text.split()).encode()).digest()


async def _routed(llm: LLM, messages: Sequence[Message], samples: int, confidence: float) -> Reply:
    """The majority of the chains where it is large enough, else the greedy chain."""
    strongest = llm.role("aggregator")
    async with llm.fan([strongest.answer(messages, temperature=0)]) as greedy:
        try:
            chains = await draw(
                llm,
                llm.sample(messages, samples),
                lambda lost: llm.sample(messages, lost, start=samples),
            )
        except UpstreamError:
            return await anext(greedy)
        classes = Classes(llm)
        for chain in chains:
            await classes.add(chain)
        best = classes.best
        llm.keep(best)
        agreeing, _ = classes.top_two
        told = f"{agreeing} of {classes.ballots} chains agree"
        llm.note(told)
        if agreeing and agreeing >= confidence * classes.ballots:
            return classes.elect()
        try:
            chain = await anext(greedy)
        except UpstreamError:
            return classes.elect()
        if chain.truncated:
            return classes.elect()
        llm.decide("check", [(best, agreeing), (chain, None)], 1, f"{told}: the greedy one decides")
        return chain


class _TooLateError(Exception):
    """There is no time left for a plan and for the chains that follow it."""


_DAY = 86_400.0
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

_WAYS = """\
- Break it into parts that can be done one by one.
- Say it in simpler words, or draw what it describes.
- List what is given, what is asked, and what is not said.
- Write the quantities and how they depend on each other as formulas.
- Try small, extreme and special cases first.
- Work backwards from what is wanted.
- Look for what never changes, for symmetry, for parity.
- Recall problems that are like it, and how those are solved.
- Go through all the cases, and make sure that none is missing.
- Eliminate the options that cannot be.
- Assume the opposite and look for a contradiction.
- Follow what happens step by step, keeping track of the state.
- Estimate the result before computing it.
- Question the premises: which of them may be false or a trap?
- Look at it as each of those concerned would.
- Weigh the evidence: what is known, how well, and from whom?
- Weigh the choices against each other by what they cost, risk and bring.
- Separate causes from what merely goes with them.
- Think of several quite different ideas before going on with one.
- Make a plan with dependencies, times and what can go wrong.
- Check each step by another way than the one that led to it.
- Ask what a specialist of the field would look at first."""

_SELECT = """\
Do not solve the message above. It is one of many tasks of its kind. These are ways of thinking:

{said}

Select those that help most with tasks of this kind, {most} at most, and repeat them. Do not \
provide the final answer."""

_ADAPT = """\
Do not solve the message above. It is one of many tasks of its kind. These ways of thinking were \
selected for it:

{said}

Rewrite each so that it says what to do in tasks of this kind. Do not provide the final answer."""

_IMPLEMENT = """\
Do not solve the message above. It is one of many tasks of its kind. This is how to think about \
them:

{said}

Make a plan of it as a JSON object: its keys are the steps in their order, its values empty, to be \
filled in by whoever works on such a task. It must serve the others of the kind just as well: put \
in no number, name or result of this one. Do not provide the final answer."""

_STAGES = (_SELECT, _ADAPT, _IMPLEMENT)

_FOLLOW = """\
This plan was made for tasks of this kind:

<plan>
{plan}
</plan>

Work through it: fill in each of its steps for the request above, reasoning carefully. Leave out \
what does not apply. Then answer the request, in its language and in the form that it asks for."""

_STEP_BY_STEP = """\
Reason about this step by step, looking at it from more than one side. Then answer the request, in \
its language and in the form that it asks for."""
