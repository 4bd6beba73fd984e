"""Skeleton of thought: an outline first, then all of its points written side by side.

Ning, Lin, Zhou, Wang, Yang, Wang: Skeleton-of-Thought: Prompting LLMs for Efficient Parallel
Generation, arXiv:2307.15337. It is there to be fast, not to be right more often.

1. Ask for an outline of a few short points.
2. Write every point in full, side by side, the outline in view.
3. Send the points in their order, each as soon as it and all before it are written. (Not word by
   word: what a model thinks aloud on the way to one point must not end up between two others.)

A request that does not fall into points is answered directly: a proof, a calculation, code. The
paper has a router for that; here the author of the outline says so. A point that fails is written
once more; where it cannot be written the answer ends as one that was cut short does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, UpstreamError, approach


@approach(
    "skeleton",
    paper="arXiv:2307.15337",
    shape=lambda o: Shape(calls=(2, 1 + o.points), rounds=2),
    handles={"parts"},
    use="Long answers in parts, where the wait matters: overviews, guides, comparisons.",
    roles=lambda _: ("helper", "proposer", "aggregator"),
)
async def skeleton(
    chat: Chat,
    llm: LLM,
    *,
    points: Annotated[int, Range(2, 20), "most points of the outline"] = 8,
) -> Reply:
    """Outline the answer, write its points side by side, and send them in order."""
    outline = await _outlined(chat, llm, points)
    if len(outline) < 2:
        return await llm.role("aggregator").final(chat.messages)
    shape = _share(chat, len(outline))
    listed = "\n".join(f"{number}. {point}" for number, point in enumerate(outline, start=1))

    async def written(place: int) -> tuple[int, Reply]:
        text = _WRITE.format(outline=listed, number=place + 1, point=outline[place])
        messages = chat.followed_by(text)
        try:
            return place, await llm.answer(messages, nth=place, **shape)
        except UpstreamError:
            return place, await llm.answer(messages, nth=len(outline) + place, **shape)

    done: dict[int, Reply] = {}
    sent = 0
    async with llm.fan(map(written, range(len(outline)))) as landed:
        async for place, reply in landed:
            done[place] = reply
            llm.keep(_joined(outline, done))
            llm.note(f"{len(done)} of {len(outline)} points written")
            while sent in done:
                await llm.emit(_part(outline, done, sent))
                sent += 1
    return _joined(outline, done)


def _part(outline: Sequence[str], done: Mapping[int, Reply], place: int) -> str:
    gap = "" if place == min(done) else "\n\n"
    return f"{gap}**{place + 1}. {outline[place]}**\n\n{done[place].rendered}"


def _joined(outline: Sequence[str], done: Mapping[int, Reply]) -> Reply:
    """The points there are, in their order; cut short where one is missing, or is itself."""
    whole = len(done) == len(outline) and not any(reply.truncated for reply in done.values())
    return Reply.of(
        "".join(_part(outline, done, place) for place in sorted(done)),
        model=done[min(done)].model,
        finish_reason="stop" if whole else "length",
    )


async def _outlined(chat: Chat, llm: LLM, most: int) -> list[str]:
    """The points of the outline; none where the request has none, or nobody outlines it."""
    try:
        said = await llm.ask(chat.followed_by(_OUTLINE.format(most=most)), temperature=0)
    except UpstreamError:
        return []
    items = (_POINT.match(line) for line in said.rendered.splitlines())
    stated = (item[1].strip(" *_:.") for item in items if item)
    return [point for point in dict.fromkeys(stated) if point][:most]


def _share(chat: Chat, count: int) -> dict[str, Any]:
    """What the client wants of an answer, for one of ``count`` parts of it."""
    limits = {name: chat.params[name] for name in _LIMITS if chat.params.get(name)}
    return {**_WHOLE_ONLY, **{name: max(1, most // count) for name, most in limits.items()}}


_LIMITS = ("max_tokens", "max_completion_tokens")
#: What says nothing about a part: its log-probabilities are not those of the answer.
_WHOLE_ONLY = {"logprobs": None, "top_logprobs": None}
#: A line of a numbered list, at its left edge: points have no points of their own.
_POINT = re.compile(r"[*_]{0,2}[(\[]?[0-9]{1,2}[.):、．）：\]][*_]{0,2}\s{0,4}(.{1,300})")

_OUTLINE = """\
Outline an answer to the message above, as a numbered list of at most {most} points. A point is a \
heading of three to eight words in the language of the message, and can be written by someone who \
sees the outline but none of the other points. Write no number at all if the answer does not fall \
into such points: if it is short, a calculation, a proof, a story or a program. Do not provide the \
final answer."""

_WRITE = """\
The answer to the message above is written in parts, from this outline:

{outline}

Write part {number} ("{point}"), and nothing else: no heading, no introduction, no summary, \
nothing that another part is about. Use the language of the message, and as many words as the part \
deserves in an answer of this kind."""
