"""Monte Carlo tree search over answers.

A node is a whole answer; its actions are to answer afresh (at the root) and to revise. Search over
self-refined answers is MCT Self-Refine (Zhang, Huang, Zhou, Li, Ouyang, arXiv:2406.07394), guidance
of a tree by a model's own evaluation RAP (Hao et al., arXiv:2305.14992).

1. Expand the root: draw m answers, each rated as it lands.
2. Simulate, W at a time: descend by UCT to the node to expand, revise its answer from the judge's
   remarks, rate the revision, and add the rating to all nodes above. With ``depth`` > 1 the
   revision is itself revised, and so on. Simulations at once are kept apart by virtual loss; the
   next W begin when all of these are rated, so that UCT sees every rating there could be.
3. Return the answer with the highest rating of its own, wherever in the tree it is.

Deviations: MCTSr takes the worst of several ratings and chooses among all nodes at once; here each
answer is rated once, and the tree widens with the root of the visits (`proxy.search.uct`). An
answer that the judge did not rate counts as half right to the search, and as worst in the end.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Range, Shape, UpstreamError, approach
from proxy.refining import Rated, Refining
from proxy.search.uct import Node, Tree


@approach(
    "mcts",
    paper="arXiv:2406.07394",
    shape=lambda o: Shape(
        calls=2 * (o.samples + o.simulations * o.depth),
        rounds=2 + 2 * o.depth * ceil(o.simulations / o.parallel),
    ),
    aliases={
        "mcts_simulations": "simulations",
        "mcts_exploration": "exploration",
        "mcts_depth": "depth",
    },
    use="Hard questions where answers improve when their mistakes are pointed out.",
    roles=lambda _: ("proposer", "judge"),
)
async def mcts(
    chat: Chat,
    llm: LLM,
    *,
    simulations: Annotated[int, Range(1, 64), "simulations behind the first answers"] = 2,
    exploration: Annotated[float, Range(0, 10), "UCT's c: how far from the best rated"] = 0.2,
    depth: Annotated[int, Range(1, 4), "revisions of one another in a simulation"] = 1,
    samples: Annotated[int, Range(1, 16), "first answers, the root's children"] = 3,
    parallel: Annotated[int, Range(1, 16), "simulations at once"] = 4,
) -> Reply:
    """Search a tree of answers and revisions, guided by a judge's ratings, for the best rated."""
    work = Refining(chat, llm)
    tree: Tree[Rated] = Tree(exploration, width=samples)

    async def simulate(nth: int, steps: int) -> None:
        node = tree.select()
        for step in range(steps):
            with tree.visit(node) as land:
                rated = await _expanded(work, node, nth + step)
                node = land(rated, _UNKNOWN if rated.score is None else rated.score)

    async with llm.fan((simulate(nth, 1) for nth in range(samples)), quorum=True) as landed:
        async for _ in landed:
            pass
    for first in range(0, simulations, parallel):
        if not llm.time_for(2 * depth):
            break
        batch = range(first, min(first + parallel, simulations))
        try:
            more = (simulate(samples + nth * depth, depth) for nth in batch)
            async with llm.fan(more, quorum=True) as landed:
                async for _ in landed:
                    pass
        except UpstreamError:
            break
        llm.note(f"{batch.stop} of {simulations} simulations done")
    return work.chosen()


async def _expanded(work: Refining, node: Node[Rated], nth: int) -> Rated:
    if node.item is None:
        return await work.fresh(nth)
    return await work.revised([node.item], nth)


#: The reward of an answer that the judge gave no rating.
_UNKNOWN = 0.5
