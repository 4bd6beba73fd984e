"""Adaptive branching Monte Carlo tree search: wider or deeper, by Thompson sampling.

Inoue, Misaki, Imajuku, Kuroki, Nakamura, Akiba: Wider or Deeper? Scaling LLM Inference-Time Compute
with Adaptive Branching Tree Search, arXiv:2503.04412; the variant with node aggregation, AB-MCTS-A.

1. From the root down, draw whether to generate another child of the node or to continue with one
   of its children (`proxy.search.thompson`).
2. Generate: a fresh answer at the root, a revision of the node's answer below it.
3. Score it; the score counts for all choices that led to it.
4. After all expansions return the best scored answer.

The score is a judge's rating. Several expansions are chosen at once from the same posteriors, as
the authors do, who advise against more than five.
"""

from __future__ import annotations

from math import ceil
from random import Random
from typing import Annotated, Literal

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, UpstreamError, approach
from proxy.refining import Rated, Refining
from proxy.search.thompson import Node, beta, gaussian, select


@approach(
    "abmcts",
    paper="arXiv:2503.04412",
    shape=lambda o: Shape(calls=2 * o.expansions, rounds=2 * ceil(o.expansions / o.parallel)),
    use="A large budget on one hard question: it finds out itself whether to retry or to revise.",
    roles=lambda _: ("proposer", "judge"),
)
async def abmcts(
    chat: Chat,
    llm: LLM,
    *,
    expansions: Annotated[int, Range(1, 64), "answers in the tree"] = 8,
    parallel: Annotated[int, Range(1, 16), "expansions at once"] = 4,
    prior: Annotated[Literal["gaussian", "beta"], "what scores are taken to be"] = "gaussian",
) -> Reply:
    """Grow a tree of answers and revisions where the scores so far promise most."""
    work = Refining(chat, llm)
    root: Node[Rated] = Node()
    # The same choices in every run with the same scores.
    random = Random(0)
    posterior = beta if prior == "beta" else gaussian

    async def expand(node: Node[Rated], nth: int) -> None:
        rated = await (work.fresh(nth) if node.item is None else work.revised([node.item], nth))
        node.children.append(Node(rated, rated.score))

    for first in range(0, expansions, parallel):
        if first and not llm.time_for(2):
            break
        batch = range(first, min(first + parallel, expansions))
        chosen = [select(root, random, posterior) for _ in batch]
        try:
            async with llm.fan(map(expand, chosen, batch)) as landed:
                async for _ in landed:
                    pass
        except UpstreamError:
            if work.best is None:
                raise
            break
        llm.note(f"{batch.stop} of {expansions} answers in the tree")
    return work.chosen()
