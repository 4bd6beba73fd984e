"""Self-refine: answer, feedback, refined answer, and again.

Madaan et al.: Self-Refine: Iterative Refinement with Self-Feedback, arXiv:2303.17651.

1. Answer the request.
2. Have feedback given on the last answer, with a score. Stop where the score is good enough.
3. Answer again, with all earlier answers and the feedback on them in view; go to 2.

Deviations: the last answer gets feedback too and the best scored one is returned, since a
refinement can be worse than what it refines; in an ensemble the feedback is the judge's.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, UpstreamError, approach
from proxy.refining import Refining


@approach(
    "self_refine",
    paper="arXiv:2303.17651",
    shape=lambda o: Shape(calls=(2, 2 + 2 * o.iterations), rounds=(2, 2 + 2 * o.iterations)),
    use="Writing and code with clear requirements, one call at a time.",
    roles=lambda _: ("proposer", "judge"),
)
async def self_refine(
    chat: Chat,
    llm: LLM,
    *,
    iterations: Annotated[int, Range(1, 16), "refinements at most"] = 3,
    good: Annotated[float, Range(0, 10), "the score from 0 to 10 that ends it"] = 9.0,
) -> Reply:
    """Refine an answer from feedback on it until the feedback says that it is good."""
    work = Refining(chat, llm)
    attempts = [await work.fresh()]
    for iteration in range(iterations):
        last = attempts[-1]
        # Without feedback there is nothing to refine by.
        if last.score is None or 10 * last.score >= good or not llm.time_for(2):
            break
        try:
            attempts.append(await work.revised(attempts))
        except UpstreamError:
            break
        llm.note(f"refinement {iteration + 1} of {iterations} written")
        if attempts[-1].reply.rendered == last.reply.rendered:
            break
    return work.chosen()
