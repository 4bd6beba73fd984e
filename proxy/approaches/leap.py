"""LEAP: learn principles from mistakes on the given examples, then answer by them.

Zhang, Madaan, Gao, Zheng, Mishra, Yang, Tandon, Alon: In-Context Principle Learning from Mistakes,
arXiv:2402.05403.

1. Find the examples in the conversation: labelled pairs, or earlier turns. Only where it speaks of
   examples that cannot be told without a model, one is asked for them.
2. Attempt each example's question m times without seeing its answer (the paper: 15). Each attempt
   goes on by itself:
3. where it is wrong, what went wrong and the principle that would have prevented it.
4. Condense these into a few principles.
5. Answer with the principles in view. It streams.

Steps 1 to 4 are done once for a block of examples. Beside them the direct answer is written
already: it is the answer where there are no examples or no mistakes, or time ends. Where nothing
speaks of examples, that is the only call.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated

from proxy.answers import extract, normalise, worth_comparing
from proxy.chat import Chat, Reply
from proxy.examples import Examples, find_examples, hints_at_examples, labelled
from proxy.llm import DRAFT, LLM, Range, Shape, UpstreamError, approach


@approach(
    "leap",
    paper="arXiv:2402.05403",
    shape=lambda o: Shape(calls=(1, 4 + 2 * o.examples * o.attempts), rounds=(1, 5)),
    use="Tasks given by examples in the prompt, asked again and again.",
    roles=lambda _: ("proposer", "helper", "aggregator"),
)
async def leap(
    chat: Chat,
    llm: LLM,
    *,
    attempts: Annotated[int, Range(1, 15), "attempts at each example"] = 2,
    examples: Annotated[int, Range(1, 32), "examples to attempt, the first"] = 8,
) -> Reply:
    """Answer by principles that were learned from mistakes on the examples given."""
    found = find_examples(chat)
    if found is None and not hints_at_examples(chat):
        return await llm.final(chat.messages)
    direct: list[Reply] = []

    async def answered() -> None:
        direct.append(await llm.answer(chat.messages))
        llm.keep(direct[0])

    async def learned() -> str:
        """The principles; the direct answer is written beside, and awaited where there are none."""
        principles: str | None = None
        async with llm.fan([answered(), _principles(chat, llm, found, attempts, examples)]) as both:
            async for result in both:
                if result is not None:
                    principles = result
                if principles:
                    break
            if principles is None:
                raise both.failed[0]
        return principles

    try:
        key = _block(chat, found), attempts, examples
        principles = await llm.once(key, learned, _DAY)
    except UpstreamError:
        principles = ""
    if principles:
        return await llm.final(chat.followed_by(_BY_PRINCIPLES.format(principles=principles)))
    return direct[0] if direct else await llm.final(chat.messages)


def _block(chat: Chat, found: Examples | None) -> bytes:
    """What the principles hang on, hashed: the examples, or the text that may contain some."""
    block = (chat.system, chat.query if found is None else found)
    return blake2b(repr(block).encode()).digest()


async def _principles(
    chat: Chat, llm: LLM, found: Examples | None, attempts: int, most: int
) -> str:
    """What mistakes on the examples teach; '' where there are no examples or no mistakes."""
    if found is None:
        found = labelled((await llm.ask(chat.followed_by(_EXTRACT), temperature=0)).rendered)
        if found is None:
            return ""
    llm.note(f"{len(found.pairs)} examples found")
    learned: list[str] = []
    instructions = tuple(m for m in chat.messages if m["role"] in ("system", "developer"))

    async def attempted(question: str, answer: str, nth: int) -> None:
        # Neither the other examples nor earlier turns: they would give the answer away.
        asked = Chat((*instructions, {"role": "user", "content": found.asked(question)}))
        attempt = await llm.answer(asked.messages, nth=nth, **DRAFT)
        if attempt.truncated or await _right(llm, attempt, answer):
            return
        prompt = _LEARN.format(question=question, attempt=attempt.rendered, answer=answer)
        said = (await llm.ask(chat.followed_by(prompt), temperature=0)).rendered
        if said.strip("*_ .").upper() != _AGREE:
            learned.append(said)
            llm.note(f"{len(learned)} mistakes learned from")

    pairs = found.pairs[:most]
    chains = [(*pair, nth) for nth in range(attempts) for pair in pairs]
    async with llm.fan(attempted(*chain) for chain in chains) as landed:
        async for _ in landed:
            pass
    if landed.failed and not learned:
        # Whether there are mistakes to learn from is not known, and not to be remembered.
        raise landed.failed[0]
    return await _condensed(chat, llm, learned)


async def _right(llm: LLM, attempt: Reply, answer: str) -> bool:
    """Whether an attempt comes to the answer given; one that comes to none is no mistake."""
    said = extract(attempt.text)
    if said is None:
        return True
    come_to, given = normalise(said), normalise(extract(answer) or answer)
    if come_to == given:
        return True
    return worth_comparing(come_to, given) and await llm.equal(come_to, given)


async def _condensed(chat: Chat, llm: LLM, learned: Sequence[str]) -> str:
    """A few principles out of many; all of them where time or the model fails."""
    listed = "\n\n".join(learned)
    if len(learned) < 2 or not llm.time_for(2):
        return listed
    try:
        said = await llm.ask(chat.followed_by(_CONDENSE.format(learned=listed)), temperature=0)
    except UpstreamError:
        return listed
    return said.rendered


_DAY = 86_400.0
_AGREE = "AGREE"

_EXTRACT = """\
Do not answer the message above. Does it give examples of its task that are solved: questions or \
inputs together with their right answers? Copy each of them out like this, one after the other:
Q: the question or input
A: its answer
If there are none, say NONE. Do not provide the final answer."""

_LEARN = """\
Do not answer the message above. One of its examples was attempted without sight of its answer:

<example>
{question}
</example>

<attempt>
{attempt}
</attempt>

The right answer is: {answer}

If the attempt comes to that answer after all, only worded otherwise, say AGREE and nothing else. \
Otherwise say in a sentence or two where it went wrong, then the principle that would have \
prevented it, so that it helps with other questions of this kind. Do not provide the final \
answer."""

_CONDENSE = """\
Do not answer the message above. These lessons were drawn from mistakes on its examples:

{learned}

Condense them into at most eight principles, in the language of the message above: join those that \
say the same, drop what holds for one example only, the most useful first. Do not provide the \
final answer."""

_BY_PRINCIPLES = """\
These principles were learned from mistakes on the examples given:

<principles>
{principles}
</principles>

Answer the message above by them, in its language and in the form that its examples have. Do not \
mention the principles."""
