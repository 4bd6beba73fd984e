"""Router: choose the approach by the request, then answer by it.

Chen et al.: FrugalGPT, arXiv:2305.05176, for asking cheap things first; the classifier is OptiLLM's
(ModernBERT, arXiv:2412.13663).

1. Climb the ladder (`proxy.router.ladder`): parts and words of the request, its conversation, what
   was asked before, the small linear model, the classifier.
2. Where none of them is sure, draw a few samples. If all of them come to one answer, that is the
   answer.
3. Else what they have in common says who takes over: a vote where they state answers, a mixture of
   agents where they do not. Both go on with the samples.
4. Run what was chosen, with all that the request says.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.llm import LLM, Range, Shape, UpstreamError, approach
from proxy.router.ladder import Asked, Choice

#: Below this effort, samples are too dear to find out how hard a question is.
_PROBING = 0.5
#: Who takes over where samples disagree: where they state answers, and where they do not.
_VOTES, _MIXES = ("self_consistency", "moa"), ("moa", "bon")


@approach(
    "router",
    paper="arXiv:2412.13663",
    shape=lambda _: Shape(calls=(1, 64), rounds=(1, 8)),
    handles={"tools", "parts", "formats"},
    use="Requests of all kinds behind one name.",
)
async def router(
    chat: Chat,
    llm: LLM,
    *,
    effort: Annotated[float, Range(0.0, 1.0), "from 0, cheap, to 1, thorough"] = 0.7,
    allow: Annotated[
        str, "approaches to choose among, with commas; the first is the fallback"
    ] = "",
    probe: Annotated[
        int, Range(0, 3), "samples where nothing else is sure; fewer than 2: none"
    ] = 3,
) -> Reply:
    """Pick an approach for the request and answer by it."""
    asked = llm.router.asked(chat, allow, effort)
    choice = await llm.router.choose(asked)
    given: list[Reply] = []
    if choice.source == "default" and _worth_probing(asked, llm, probe):
        choice, given, answer = await _probed(asked, choice, llm, probe)
        if answer is not None:
            return answer
    _tell(choice, llm)
    options = llm.router.options(choice.slug)
    return await llm.run(choice.slug, chat, tail=True, given=given, **options)


def _worth_probing(asked: Asked, llm: LLM, samples: int) -> bool:
    """Whether there is a choice between one answer and more, and the means to make it."""
    more = {*_VOTES, *_MIXES} & set(asked.allowed)
    worded = bool(asked.chat.query.strip()) and asked.effort >= _PROBING
    return (
        samples > 1
        and worded
        and asked.allowed[0] == "none"
        and bool(more)
        and (llm.budget_for(samples + 1))
    )


async def _probed(
    asked: Asked, default: Choice, llm: LLM, samples: int
) -> tuple[Choice, list[Reply], Reply | None]:
    """What ``samples`` say for, they themselves, and the answer where all of them have it."""
    classes = Classes(llm)
    replies: list[Reply] = []
    try:
        async with llm.sample(asked.chat.messages, samples, reserve=1) as landed:
            async for reply in landed:
                replies.append(reply)
                await classes.add(reply)
                llm.keep(classes.best)
    except UpstreamError:
        return default, [], None
    alike = max(classes.top_two[0], 1) / samples
    if len(replies) == samples and classes.unanimous:
        choice = Choice("none", "probe", 1.0)
        llm.router.settle(asked, choice)
        _tell(choice, llm)
        return choice, [], classes.elect()
    who = _VOTES if classes.members else _MIXES
    slug = next(slug for slug in (*who, *_VOTES, *_MIXES) if slug in asked.allowed)
    choice = Choice(slug, "probe", 1.0 - alike)
    llm.router.settle(asked, choice)
    best = classes.best
    return choice, [best, *(reply for reply in replies if reply is not best)], None


def _tell(choice: Choice, llm: LLM) -> None:
    llm.router.tell(choice)
    llm.note(f"router: {choice}")
