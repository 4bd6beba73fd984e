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
    drawn: list[Reply] = []
    if choice.source == "default" and _worth_probing(asked, llm, probe):
        choice, drawn = await _probed(asked, choice, llm, probe)
    llm.router.tell(choice)
    llm.note(f"router: {choice}")
    if drawn and choice.slug == "none":
        return drawn[0]
    options = llm.router.options(choice.slug)
    # What runs code is for the operator and the client to choose, not for a prompt.
    acts = bool(allow)
    return await llm.run(choice.slug, chat, tail=True, given=drawn, acts=acts, **options)


def _worth_probing(asked: Asked, llm: LLM, samples: int) -> bool:
    """Whether there is a choice between one answer and more, and the means to make it."""
    open_ = asked.allowed[0] == "none" and not {*_VOTES, *_MIXES}.isdisjoint(asked.allowed)
    worded = bool(asked.chat.query.strip())
    dear = asked.effort < _PROBING or not llm.budget_for(samples + 1)
    return samples > 1 and open_ and worded and not dear


async def _probed(
    asked: Asked, default: Choice, llm: LLM, samples: int
) -> tuple[Choice, list[Reply]]:
    """What ``samples`` speak for, and they themselves, the best first."""
    classes = Classes(llm)
    replies: list[Reply] = []
    try:
        async with llm.sample(asked.chat.messages, samples, reserve=1) as landed:
            async for reply in landed:
                replies.append(reply)
                await classes.add(reply)
                llm.keep(classes.best)
    except UpstreamError:
        return default, []
    if len(replies) == samples and classes.unanimous:
        choice, best = Choice("none", "probe", 1.0), classes.elect()
    else:
        takers = (*(_VOTES if classes.members else _MIXES), *_VOTES, *_MIXES)
        slug = next(slug for slug in takers if slug in asked.allowed)
        choice = Choice(slug, "probe", 1.0 - max(classes.top_two[0], 1) / samples)
        best = classes.best
    llm.router.settle(asked, choice)
    return choice, [best, *(reply for reply in replies if reply is not best)]
