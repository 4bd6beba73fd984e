"""Generative selection: sample, then let judges that see all candidates at once name the best.

Moshkov et al.: AIMO-2 Winning Solution, arXiv:2504.16891; Toshniwal et al.: GenSelect, A Generative
Approach to Best-of-N, arXiv:2507.17797.

1. Sample n candidates. If all come to the same answer, that is the answer.
2. A judge sees all of them and names one; several (``selections``) see them side by side, each in
   another order, since judges prefer places in a list, and vote.
3. More candidates than a judge can compare (16; two with ``mode=tournament``) are selected from
   group by group, and the winners from each other.

Candidates are shown whole, where the papers have them summarised first. Without time for judges,
or a vote of theirs, it is the shortest candidate of the largest class of equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.drawing import draw
from proxy.llm import LLM, Range, Shape, approach
from proxy.selection import Selected, selected

_GROUP = {"batch": 16, "tournament": 2}


def _shape(o: Any) -> Shape:
    selections, levels = _selections(o.samples, _GROUP[o.mode])
    return Shape(calls=(o.samples, o.samples + selections * o.selections), rounds=(1, 1 + levels))


@approach(
    "genselect",
    paper="arXiv:2507.17797",
    shape=_shape,
    aliases={
        "num_candidates": "samples",
        "comparison_temperature": "judge_temperature",
        "comparison_mode": "mode",
        "include_reasoning": "explain",
    },
    use="Proofs, code and explanations: answers that are easier to compare than to count or grade.",
    roles=lambda _: ("proposer", "judge"),
)
async def genselect(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 64), "candidates to draw"] = 4,
    selections: Annotated[int, Range(1, 9), "judges that vote on the same candidates"] = 1,
    judge_temperature: Annotated[float, Range(0, 2), "that the judges are asked at"] = 0.3,
    mode: Annotated[
        Literal["batch", "tournament"], "up to 16 candidates at a time, or in pairs"
    ] = "batch",
    explain: Annotated[bool, "put the judge's comparison behind the answer"] = False,
) -> Reply:
    """Sample candidates and return the one that judges prefer who see them side by side."""
    candidates = await draw(
        llm,
        llm.sample(chat.messages, samples),
        lambda lost: llm.sample(chat.messages, lost, start=samples),
    )
    classes = Classes(llm)
    for candidate in candidates:
        await classes.add(candidate)
    best = classes.best
    llm.keep(best)
    if classes.unanimous or not llm.time_for(1):
        return classes.elect()
    # What is left where no judge votes is the first.
    ranked = [best, *(candidate for candidate in candidates if candidate is not best)]

    async def winner(group: Sequence[Reply]) -> Selected:
        parts = _parts(len(group), _GROUP[mode])
        if len(parts) > 1:
            places = {id(candidate): place for place, candidate in enumerate(group)}
            starts = [sum(parts[:nth]) for nth in range(len(parts))]
            matches = (
                winner(group[start : start + size])
                for start, size in zip(starts, parts, strict=True)
            )
            async with llm.fan(matches) as landed:
                through = [match.reply async for match in landed]
            group = sorted(through, key=lambda reply: places[id(reply)])
        return await selected(chat, llm, group, ballots=selections, temperature=judge_temperature)

    chosen = await winner(ranked)
    if explain and chosen.why and not chat.formatted:
        return chosen.reply.with_text(f"{chosen.reply.text}\n\n---\n\n{chosen.why}")
    return chosen.reply


def _parts(n: int, most: int) -> list[int]:
    """The sizes of the groups whose winners meet: one group where a judge can compare all."""
    parts = min(most, -(-n // most))
    return [n // parts + (nth < n % parts) for nth in range(parts)]


def _selections(n: int, most: int) -> tuple[int, int]:
    """How many times somebody is selected from n candidates, and how many times in a row."""
    if n < 2:
        return 0, 0
    parts = _parts(n, most)
    if len(parts) == 1:
        return 1, 1
    below = [_selections(size, most) for size in parts]
    return 1 + sum(count for count, _ in below), 1 + max(levels for _, levels in below)
