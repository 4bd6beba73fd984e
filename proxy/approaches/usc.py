"""Universal self-consistency: a vote that a model counts, where answers cannot be compared.

Chen, Aksitov, Alon, Ren, Xiao, Yin, Prakash, Sutton, Wang, Zhou: Universal Self-Consistency for
Large Language Model Generation, arXiv:2311.17311.

1. Sample n answers.
2. If all of them come to the same answer, that is the answer (not in the paper, which always asks).
3. A judge sees all, shuffled, and names the one that agrees best with the others.

Where the judge names none, the answer is one of the largest class of equal answers. The paper
lists the samples as they come; here they are shuffled, as judges prefer places.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.drawing import draw
from proxy.llm import LLM, Range, Shape, approach
from proxy.selection import select


@approach(
    "usc",
    paper="arXiv:2311.17311",
    shape=lambda o: Shape(
        calls=(o.samples, o.samples + (o.samples > 1)), rounds=(1, 1 + (o.samples > 1))
    ),
    use="Summaries, open questions and code: answers of which no two read alike.",
    roles=lambda _: ("proposer", "judge"),
)
async def usc(
    chat: Chat, llm: LLM, *, samples: Annotated[int, Range(1, 32), "answers to draw"] = 8
) -> Reply:
    """Sample answers and return the one that a judge finds most consistent with the others."""
    reserve = int(samples > 1)
    replies = await draw(
        llm,
        llm.sample(chat.messages, samples, reserve=reserve),
        lambda lost: llm.sample(chat.messages, lost, reserve=reserve, start=samples),
    )
    classes = Classes(llm)
    for reply in replies:
        await classes.add(reply)
    best = classes.best
    llm.keep(best)
    if classes.unanimous:
        llm.note(f"all {len(replies)} samples agree")
        return classes.elect()
    # What is left where the judge names none is the first.
    ranked = [best, *(reply for reply in replies if reply is not best)]
    return await select(chat, llm, ranked, ballots=1, task=_CONSISTENT)


_CONSISTENT = """\
Compare what they say, claim by claim, and count agreement in substance, not in wording. The best \
of them is the one that agrees most with all the others; do not solve the task yourself."""
