"""Mixture of agents: propose in layers, criticise, aggregate.

Wang, Wang, Athiwaratkun, Zhang, Zou: Mixture-of-Agents Enhances Large Language Model
Capabilities, arXiv:2406.04692. With one model in every part it is Self-MoA (arXiv:2502.00674).

1. Layer 1: n proposers answer the prompt (n: `samples`).
2. Each further layer: n proposers answer it again, all answers of the layer before in view.
3. A critic compares the last layer's answers (not in the paper; `critique=false` leaves it out).
4. The aggregator writes the answer from all of that. It streams.

Where tools are offered, proposers may call them. A call that more than half of a layer makes is the
answer; any other is one more candidate for the aggregator, who may call tools too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from proxy.answers import tool_call_key
from proxy.chat import Chat, Message, Reply
from proxy.llm import DRAFT, LLM, Range, Shape, UpstreamError, approach
from proxy.voting import plurality


@approach(
    "moa",
    paper="arXiv:2406.04692",
    shape=lambda o: Shape(
        calls=o.samples * o.layers + _critics(o.samples, o.critique) + 1,
        rounds=o.layers + _critics(o.samples, o.critique) + 1,
    ),
    handles={"tools", "parts", "formats"},
    use="Writing, explaining and coding, where parts of several answers make a better one.",
    roles=lambda o: (
        ("proposer", "critic", "aggregator")
        if _critics(o.samples, o.critique)
        else ("proposer", "aggregator")
    ),
)
async def moa(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 32), "proposers in a layer"] = 3,
    layers: Annotated[int, Range(1, 8), "layers of proposers"] = 1,
    critique: Annotated[bool, "compare the proposals before they are aggregated"] = True,
) -> Reply:
    """Have several proposals written and one answer made of them."""
    messages = chat.messages
    for layer in range(layers):
        # What comes after this layer must still be paid for.
        reserve = (layers - layer - 1) * samples + critique + 1
        proposals = await _propose(chat, llm, messages, samples, reserve)
        call = _agreed_call(proposals, len(proposals))
        if call is not None:
            winner = next(place for place, each in enumerate(proposals) if each is call)
            made = ((proposal, None) for proposal in proposals)
            llm.decide("vote", made, winner, "more than half make this tool call")
            return call
        messages = chat.followed_by(_SYNTHESISE.format(candidates=_quoted(proposals)))
    if critique and len(proposals) > 1:
        remarks = await _criticise(chat, llm, proposals)
        if remarks:
            text = _SYNTHESISE_WITH_REMARKS.format(candidates=_quoted(proposals), remarks=remarks)
            messages = chat.followed_by(text)
    return await llm.role("aggregator").final(messages)


def _critics(samples: int, critique: bool) -> int:
    """One critic, unless there is nothing to compare."""
    return int(critique and samples > 1)


async def _propose(
    chat: Chat, llm: LLM, messages: Sequence[Message], samples: int, reserve: int
) -> list[Reply]:
    proposals: list[Reply] = []
    proposers = llm.role("proposer")
    draft = {name: value for name, value in DRAFT.items() if not chat.tools or name not in _TOOLS}
    async with proposers.sample(messages, samples, reserve=reserve, **draft) as landed:
        async for proposal in landed:
            proposals.append(proposal)
            llm.keep(proposals[0])
            llm.note(f"{len(proposals)} of {samples} proposals written")
            if _agreed_call(proposals, samples - len(landed.failed)) is not None:
                break
    # A truncated proposal misleads an aggregator, but is better than nothing.
    return [proposal for proposal in proposals if not proposal.truncated] or proposals


def _agreed_call(proposals: Sequence[Reply], of: int) -> Reply | None:
    """The first proposal with the tool call that more than half ``of`` so many make."""
    keys = [
        tool_call_key(proposal.tool_calls)
        if proposal.tool_calls and not proposal.truncated
        else None
        for proposal in proposals
    ]
    winner = plurality(keys)
    if winner is None or 2 * keys.count(winner) <= of:
        return None
    return proposals[keys.index(winner)]


async def _criticise(chat: Chat, llm: LLM, proposals: Sequence[Reply]) -> str:
    """The critic's remarks; '' where it fails, since the answer does not hang on it."""
    messages = chat.followed_by(_CRITICISE.format(candidates=_quoted(proposals)))
    try:
        reply = await llm.role("critic").ask(messages, temperature=0)
    except UpstreamError:
        return ""
    llm.note("proposals compared")
    return reply.rendered


def _quoted(proposals: Sequence[Reply]) -> str:
    quoted = [
        _CANDIDATE.format(number=number, text=proposal.rendered)
        for number, proposal in enumerate(proposals, start=1)
    ]
    calling = any(proposal.tool_calls for proposal in proposals)
    return "\n\n".join([*quoted, _CALLING] if calling else quoted)


#: What a draft needs of the client's parameters to call the client's tools.
_TOOLS = frozenset({
    "function_call", "functions", "parallel_tool_calls", "tool_choice", "tools",
})  # fmt: skip

_CANDIDATE = """\
<candidate number="{number}">
{text}
</candidate>"""

_CALLING = """\
What is JSON in them, with a name and arguments, is a call of one of the tools on offer. Where \
such a call is the right next step, make it; never write it out as text."""

_CRITICISE = """\
Several assistants have answered the message above:

{candidates}

Compare these answers. Say for each what is right, what is wrong or missing, and where they \
contradict each other say which one holds and why. Do not provide the final answer."""

_SYNTHESISE = """\
Several assistants have answered the message above:

{candidates}

Write the best possible answer to it. Take what is right from them, correct what is wrong, and \
trust no claim because it is repeated. Answer as if you were the only one asked: do not mention \
the candidates."""

_SYNTHESISE_WITH_REMARKS = """\
Several assistants have answered the message above:

{candidates}

A critic has compared them:

<critique>
{remarks}
</critique>

Write the best possible answer to it. Take what is right from them, correct what is wrong, and \
trust no claim because it is repeated. Answer as if you were the only one asked: mention neither \
the candidates nor the critique."""
