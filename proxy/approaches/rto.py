"""Round-trip optimisation: code to words, words to code, and what both codes agree on.

The idea is round-trip correctness (Allamanis, Panthaplackel, Yin, arXiv:2402.08699), an evaluation
without references, turned into a method by Patched RTC (arXiv:2407.16557): code that survives the
way through its own description is likely to do what it says.

1. C1: answer the request.
2. Q2: describe what C1 does, without its code.
3. C2: write code from Q2 alone, which sees neither the request nor C1.
4. If C1 and C2 are the same program, C1 is the answer; else one is made of both.
"""

from __future__ import annotations

import ast
import re
from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.llm import DRAFT, LLM, Range, Shape, UpstreamError, approach


@approach(
    "rto",
    paper="arXiv:2402.08699",
    shape=lambda o: Shape(
        calls=(2 + o.samples, 3 + o.samples),
        rounds=(3, 4),
    ),
    handles={"parts"},
    use="Code that should do exactly what was asked.",
    roles=lambda _: ("proposer", "helper", "aggregator"),
)
async def rto(
    chat: Chat, llm: LLM, *, samples: Annotated[int, Range(1, 8), "round trips"] = 1
) -> Reply:
    """Write code, describe it, write it again from the description, and settle the difference."""
    first = await llm.answer(chat.messages)
    llm.keep(first)
    described = await llm.ask(_describing(first), temperature=0)
    request = [{"role": "user", "content": _REWRITE.format(description=described.rendered)}]
    others: list[Reply] = []
    try:
        # Another member of an ensemble misreads other things.
        another = llm.role("proposer", not_model=first.model)
        async with another.sample(request, samples, reserve=1, **DRAFT) as landed:
            async for other in landed:
                others.append(other)
    except UpstreamError:
        return first
    different = [other for other in others if not same_program(first.rendered, other.rendered)]
    told = f"{len(different)} of {len(others)} programs written again differ from the first"
    written = ((reply, None) for reply in (first, *others))
    llm.decide("check", written, None if different else 0, told)
    if not different:
        return first
    candidates = "\n\n".join(
        _CANDIDATE.format(number=number, text=reply.rendered)
        for number, reply in enumerate([first, *different], start=1)
    )
    return await llm.role("aggregator").final(
        chat.followed_by(_SETTLE.format(candidates=candidates))
    )


def same_program(a: str, b: str) -> bool:
    """Whether two replies hold the same code: the same syntax tree, else the same words."""
    code = code_of(a), code_of(b)
    trees = [_tree(text) for text in code]
    if None not in trees:
        return trees[0] == trees[1]
    return code[0].split() == code[1].split()


def code_of(text: str) -> str:
    """The fenced blocks of a reply, else all of it."""
    blocks = _FENCE.findall(text)
    return "\n".join(blocks) if blocks else text


def _tree(code: str) -> str | None:
    """Python's syntax tree, which knows neither comments nor layout; None for anything else."""
    if len(code) > _LONGEST:
        return None
    try:
        return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _describing(reply: Reply) -> list[dict[str, str]]:
    return [{"role": "user", "content": _DESCRIBE.format(code=reply.rendered)}]


_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: Characters that are parsed; more would hold up the loop.
_LONGEST = 4_000

_CANDIDATE = """\
<candidate number="{number}">
{text}
</candidate>"""

_DESCRIBE = """\
Here is a piece of work:

<work>
{code}
</work>

Describe it so that another programmer, who sees only your description, can write it again and get \
the same behaviour: language, names and signatures, inputs and outputs, every rule and every edge \
case. Use no code. Do not provide the final answer."""

_REWRITE = """\
Write the code that this description asks for. Give the complete code.

<description>
{description}
</description>"""

_SETTLE = """\
This was answered more than once. The first answer was written for the request itself, the others \
from a description of the first:

{candidates}

Where they differ, one of them misreads the request or hides a mistake. Find out which, and write \
the one answer that does what was asked, complete and correct. Do not mention the candidates."""
