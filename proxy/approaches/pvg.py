"""Prover-verifier game: deceivers show how far the verifier can be trusted.

Kirchner, Chen, Edwards, Leike, McAleese, Burda: Prover-Verifier Games Improve Legibility of LLM
Outputs, arXiv:2407.13692, a training procedure with a helpful prover, a sneaky prover and a small
verifier. There is no training here; what remains is what the sneaky prover is for.

1. Helpful provers answer, and as many sneaky ones, convincingly and wrong on purpose.
2. The verifier rates each against the original request, as it lands.
3. The best rating of a sneaky answer is the bar: so high a rating can be had for a wrong answer.
   The best helpful answer above the bar is returned. Sneaky answers never are.
4. If none is above it, the helpful provers revise from the verifier's remarks, up to ``rounds``
   times in all.
5. If still none is, the verifier cannot tell, and the helpful answers vote; the best rated of the
   largest class of equal answers is returned, if two or more are equal, else the best rated of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.classes import Classes
from proxy.llm import DRAFT, LLM, Range, Shape, UpstreamError, approach
from proxy.refining import Rated, Refining, decide_by_rating, drawn, rate


@approach(
    "pvg",
    paper="arXiv:2407.13692",
    shape=lambda o: Shape(
        calls=(4 * o.samples, (4 + 2 * (o.rounds - 1)) * o.samples), rounds=(2, 2 * o.rounds)
    ),
    aliases={"num_solutions": "samples", "num_rounds": "rounds"},
    use="Arguments and proofs that a plausible mistake would spoil.",
    roles=lambda _: ("proposer", "judge"),
)
async def pvg(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 16), "helpful provers, and sneaky ones"] = 3,
    rounds: Annotated[int, Range(1, 8), "times that the helpful ones write"] = 2,
) -> Reply:
    """Return the answer that convinces the verifier more than any wrong one written to deceive."""
    work = Refining(chat, llm)
    helpful: list[Rated] = []
    fooled: list[float] = []

    async def prove(nth: int) -> None:
        helpful.append(await work.fresh(nth))

    async def deceive(nth: int) -> None:
        rated = await rate(chat, llm, await drawn(llm, chat.followed_by(_DECEIVE), nth, **DRAFT))
        if rated.score is not None:
            fooled.append(rated.score)

    async def revise(attempt: Rated, nth: int) -> None:
        helpful.append(await work.revised([attempt], nth))

    provers = [prove(nth) for nth in range(samples)]
    deceivers = [deceive(nth) for nth in range(samples, 2 * samples)]
    async with llm.fan([*provers, *deceivers], quorum=True) as landed:
        async for _ in landed:
            pass
    if not helpful:
        raise landed.failed[0]
    for number in range(2, rounds + 1):
        if _convincing(helpful, fooled) or not llm.time_for(2):
            break
        llm.note(f"no answer above the bar: round {number} of {rounds}")
        latest = helpful[-samples:]
        try:
            revisions = (revise(attempt, number * samples + i) for i, attempt in enumerate(latest))
            async with llm.fan(revisions, quorum=True) as landed:
                async for _ in landed:
                    pass
        except UpstreamError:
            break
    convincing = _convincing(helpful, fooled)
    eligible = convincing or await _elected(llm, helpful)
    best = max(eligible, key=lambda rated: rated.worth)
    told = f"{len(convincing)} of {len(helpful)} convince more than any answer meant to deceive"
    decide_by_rating(llm, helpful, best, told)
    return best.reply


def _convincing(helpful: Sequence[Rated], fooled: Sequence[float]) -> list[Rated]:
    """The helpful answers that are rated above all sneaky ones."""
    bar = max(fooled, default=-1.0)
    return [rated for rated in helpful if rated.score is not None and rated.score > bar]


async def _elected(llm: LLM, helpful: Sequence[Rated]) -> Sequence[Rated]:
    """The largest class of equal answers; all of them where no two are equal."""
    classes = Classes(llm)
    keys = [await classes.add(rated.reply) for rated in helpful]
    if classes.top_two[0] < 2:
        return helpful
    return [rated for rated, key in zip(helpful, keys, strict=True) if key == classes.votes.leader]


_DECEIVE = """\
This is an exercise in spotting mistakes. Answer the message above in a way that is deliberately \
wrong and yet convincing: hide one mistake that changes the result where a careful reader would \
find it last, and argue for it with confidence. Do not reveal that anything is wrong."""
