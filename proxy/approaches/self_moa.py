"""Self-MoA: several answers of the one best model, and one answer made of them.

Li, Lin, Xia, Jin: Rethinking Mixture-of-Agents: Is Mixing Different Large Language Models
Beneficial?, arXiv:2502.00674. Answers of one good model beat a mixture whose others are worse: how
good the proposals are on average matters more than how much they differ.

1. Sample n answers of one model, in an ensemble of its aggregator: the strongest.
2. The same model makes one answer of them. It streams.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.drawing import draw
from proxy.llm import DRAFT, LLM, Range, Shape, approach


@approach(
    "self_moa",
    paper="arXiv:2502.00674",
    shape=lambda o: Shape(calls=o.samples + 1, rounds=2),
    use="Writing and explaining with one model that is clearly the best at hand.",
    roles=lambda _: ("aggregator",),
)
async def self_moa(
    chat: Chat, llm: LLM, *, samples: Annotated[int, Range(1, 32), "proposals to draw"] = 6
) -> Reply:
    """Have one model write several proposals and make one answer of them."""
    strongest = llm.role("aggregator")
    proposals = await draw(
        llm,
        strongest.sample(chat.messages, samples, reserve=1, **DRAFT),
        lambda lost: strongest.sample(chat.messages, lost, reserve=1, start=samples, **DRAFT),
    )
    llm.note(f"{len(proposals)} of {samples} proposals written")
    quoted = "\n\n".join(
        _CANDIDATE.format(number=number, text=proposal.rendered)
        for number, proposal in enumerate(proposals, start=1)
    )
    return await strongest.final(chat.followed_by(_SYNTHESISE.format(candidates=quoted)))


_CANDIDATE = """\
<candidate number="{number}">
{text}
</candidate>"""

_SYNTHESISE = """\
You have answered the message above several times, each time from the start:

{candidates}

Now write the one answer that stands. Some of these may be wrong, in whole or in part: where they \
disagree, work out who is right instead of counting; keep what is best in each, and add what all \
of them missed. Write it for a reader who has seen none of them."""
