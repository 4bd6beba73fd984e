"""Best of n: sample, rate each, return the best rated.

Best-of-n against a scorer: Cobbe et al., arXiv:2110.14168; Nakano et al., arXiv:2112.09332. The
scorer here is a model asked for a number, which saturates at the precision of its judgement
(closed forms: docs/approaches.md).

1. Draw n samples; those that fail are drawn once more.
2. Rate each as it lands: n chains of two calls, not two waves. Of candidates that call tools alike
   only the first is rated.
3. Return the highest rated; complete answers before truncated ones, earlier before later.
"""

from __future__ import annotations

from typing import Annotated

from proxy.answers import score, tool_call_key
from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, UpstreamError, approach


@approach(
    "bon",
    paper="arXiv:2110.14168",
    shape=lambda o: Shape(calls=2 * o.samples, rounds=2),
    aliases={"best_of_n": "samples"},
    handles={"tools", "parts", "formats"},
    use="Open-ended answers that a model can judge better than it can write.",
    roles=lambda _: ("proposer", "judge"),
)
async def bon(
    chat: Chat, llm: LLM, *, samples: Annotated[int, Range(1, 64), "candidates to draw"] = 3
) -> Reply:
    """Sample candidates, have each rated by the judge, return the best."""
    best: tuple[tuple[bool, float, int], Reply] | None = None
    called: set[str] = set()

    async def rating(reply: Reply) -> float:
        key = tool_call_key(reply.tool_calls)
        if reply.tool_calls and key in called:
            return _UNRATED
        called.add(key)
        return await _rating(chat, llm, reply)

    async def rated(nth: int) -> tuple[tuple[bool, float, int], Reply]:
        reply = await llm.answer(chat.messages, nth=nth if samples > 1 else None)
        if best is None and not reply.truncated:
            # Better than nothing, should time run out before the first rating.
            llm.keep(reply)
        return (not reply.truncated, await rating(reply), -nth), reply

    seen: list[tuple[tuple[bool, float, int], Reply]] = []
    async with llm.fan((rated(nth) for nth in range(samples)), quorum=True) as landed:
        for again in (False, True):
            if again:
                for nth in range(len(landed.failed)):
                    landed.add(rated(samples + nth))
            async for candidate in landed:
                if best is None or candidate[0] > best[0]:
                    best = candidate
                    llm.keep(best[1])
                seen.append(candidate)
                llm.note(f"{len(seen)} of {samples} candidates rated")
    assert best is not None, "a fan without results raises"
    ratings = [None if rating == _UNRATED else rating for (_, rating, _), _ in seen]
    winner, of = seen.index(best), sum(rating is not None for rating in ratings)
    why = "nobody rated it" if ratings[winner] is None else f"the highest of {of} ratings"
    replies = (reply for _, reply in seen)
    llm.decide("rating", zip(replies, ratings, strict=True), winner, why)
    return best[1]


async def _rating(chat: Chat, llm: LLM, reply: Reply) -> float:
    """The judge's score from 0 to 10; below all scores where it gives none."""
    messages = chat.followed_by(_RATE.format(candidate=reply.rendered), first=_JUDGE)
    judge = llm.role("judge", not_model=reply.model)
    try:
        said = await judge.ask(messages, temperature=0, max_tokens=_JUDGE_TOKENS)
    except UpstreamError:
        return _UNRATED
    rating = score(said.text)
    return _UNRATED if rating is None else rating


#: Enough to reason before the number.
_JUDGE_TOKENS = 2048
_UNRATED = -1.0

_JUDGE = """\
You grade answers. You are shown a conversation and one candidate answer to its last message. \
Grade how correct, complete and useful the candidate is; judge what it says, not how long it is."""

_RATE = """\
Do not answer the message above. Grade this candidate answer to it:

<candidate>
{candidate}
</candidate>

Check the candidate for mistakes first, in a few sentences. Then end with one line, 0 being \
worthless and 10 flawless:
Score: [0-10]"""
