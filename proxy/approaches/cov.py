"""Chain of verification: draft, questions that check it, answers to these, revised answer.

Dhuliawala, Komeili, Xu, Raileanu, Li, Celikyilmaz, Weston: Chain-of-Verification Reduces
Hallucination in Large Language Models, arXiv:2309.11495; the factored variant.

1. Draft: answer the request.
2. Plan: list questions whose answers would show the draft's mistakes.
3. Execute: answer each question on its own, side by side and without the draft in view, so that
   it cannot repeat the draft's mistakes.
4. Write the answer from the draft and these findings. It streams.

The draft is the answer where there is nothing to check, or nobody could check it.
"""

from __future__ import annotations

import re
from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, UpstreamError, approach


@approach(
    "cov",
    paper="arXiv:2309.11495",
    shape=lambda o: Shape(calls=(2, 3 + o.questions), rounds=(2, 4)),
    use="Answers full of facts: lists, biographies, summaries from memory.",
    roles=lambda _: ("proposer", "helper", "aggregator"),
)
async def cov(
    chat: Chat, llm: LLM, *, questions: Annotated[int, Range(1, 16), "checks at most"] = 5
) -> Reply:
    """Check the draft by questions that are answered without it, and revise it."""
    draft = await llm.answer(chat.messages)
    llm.keep(draft)
    findings: dict[int, str] = {}

    async def look_up(nth: int, question: str) -> None:
        said = await llm.ask(chat.followed_by(_CHECK.format(question=question)), temperature=0)
        findings[nth] = _FINDING.format(question=question, answer=said.rendered)

    try:
        plan = await llm.ask(chat.followed_by(_PLAN.format(draft=draft.rendered, most=questions)))
        checks = listed(plan.rendered)[:questions]
        llm.note(f"{len(checks)} facts to check")
        async with llm.fan(look_up(nth, check) for nth, check in enumerate(checks)) as landed:
            async for _ in landed:
                pass
    except UpstreamError:
        return draft
    if not findings or not llm.time_for(1):
        return draft
    llm.decide("check", [(draft, None)], None, f"{len(findings)} of its claims were looked up")
    shown = "\n\n".join(findings[nth] for nth in sorted(findings))
    messages = chat.followed_by(_REVISE.format(draft=draft.rendered, findings=shown))
    return await llm.role("aggregator").final(messages)


def listed(plan: str) -> list[str]:
    """The questions of a plan, one on a line, without their numbers; each once."""
    lines = (_ITEM.sub("", line).strip(" *_") for line in plan.splitlines())
    return list(dict.fromkeys(line for line in lines if line.endswith(_MARKS)))


#: What stands in front of an item of a list: a bullet, or a number or letter, and emphasis.
_ITEM = re.compile(
    r"^\s*(?: [-*•]\s+ | [*_]*\(?[0-9]{1,3}[.)](?![0-9])\s* | [*_]*\(?[a-z][.)]\s+ )?", re.VERBOSE
)
_MARKS = ("?", "？", "؟", '?"')

_PLAN = """\
This draft answers the message above:

<draft>
{draft}
</draft>

List up to {most} questions that would uncover its mistakes: one for each fact, number or step \
that may be wrong. Each question stands on a line of its own, ends with a question mark, can be \
understood without the draft, and does not give the draft's answer away. If there is nothing to \
check, write no question. Use the language of the message. Do not provide the final answer."""

_CHECK = """\
Do not answer the message above. It only tells you what this is about. Answer the following \
question by itself, briefly, and say so where you do not know:

{question}"""

_FINDING = """\
<finding>
Question: {question}
Answer: {answer}
</finding>"""

_REVISE = """\
The message above was answered with this draft:

<draft>
{draft}
</draft>

Its facts were then looked up one by one, by someone who had not seen the draft:

{findings}

Answer the message again. Keep what the findings confirm, correct what they contradict after \
weighing which of the two is right, and leave out what nobody knows. Mention neither the draft nor \
the findings."""
