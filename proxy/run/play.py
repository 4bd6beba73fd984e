"""Playing a pipeline's tree, and bringing one choice to an end whatever happens."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.chat import Chat, Reply
from proxy.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    ProxyError,
    ShuttingDown,
    UpstreamError,
)
from proxy.llm import LLM
from proxy.pipeline import Feed, Leaf, Node
from proxy.run.outlet import Outlet
from proxy.run.scope import Run, Scope
from proxy.wire.assemble import deltas_of


async def play(node: Node, chat: Chat, scope: Scope) -> Reply:
    """The reply of ``node``'s tree; its content has gone out of ``scope``'s outlet."""
    if isinstance(node, Feed):
        draft = await play(node.first, chat, scope.inner())
        scope.keep(draft)
        return await play(node.then, chat.with_draft(draft), scope)
    llm = LLM(scope, node.entry.slug)
    if isinstance(node, Leaf):
        reply: Reply = await node.entry.function(chat, llm, **node.options)
        await _pass_on(reply, scope)
        return reply
    wrapped, through = await node.entry.function(chat, llm, **node.options)
    if through is None:
        return await play(node.inner, wrapped, scope)
    outlet = scope.closing(through)
    reply = await play(node.inner, wrapped, scope.behind(outlet))
    await outlet.drain()
    return reply.with_text(outlet.passed) if reply.text else reply


async def _pass_on(reply: Reply, scope: Scope) -> None:
    """Send what the approach returned, except what its tail, `final` or `emit` have sent."""
    answer = scope.answer
    if answer.final:
        return
    answer.final = True
    if not answer.emitted:
        await scope.outlet.reply(reply)
        return
    delta = deltas_of(reply.message)
    delta["content"] = reply.text.removeprefix(answer.emitted)
    if any(delta.values()):
        await scope.outlet.delta(delta, reply.logprobs)


@dataclass(frozen=True, slots=True)
class Ended:
    """How one choice ended."""

    index: int
    finish_reason: str


async def play_choice(node: Node, chat: Chat, run: Run, outlet: Outlet, index: int) -> Ended:
    """One choice from its first call to its finish_reason.

    At the deadline, at the end of the budget or when the upstream fails, the newest kept reply is
    the answer. Once content has left, nothing is put behind it: a deadline or a spent budget then
    closes the filters and ends with ``length``, and an upstream's failure is raised.
    """
    scope = Scope.of(run, outlet, index)
    try:
        async with run.clock():
            reply = await play(node, chat, scope)
    except TimeoutError:
        run.ledger.exhausted = "shutdown" if run.stopping else "deadline"
        return await _cut_short(scope, _late(run))
    except BudgetExhausted as error:
        return await _cut_short(scope, error)
    except UpstreamError as error:
        ended = await _rescued(scope, error)
        run.ledger.skipped.append(f"last stage: {error.code}")
        return ended
    await outlet.flush()
    return Ended(index, reply.finish_reason)


async def _cut_short(scope: Scope, error: ProxyError) -> Ended:
    """Time or budget is spent: what has left is the answer, else what was kept."""
    if not scope.outlet.begun:
        return await _rescued(scope, error)
    if scope.kept.closing is not None:
        await scope.kept.closing.flush()
    return Ended(scope.index, "length")


async def _rescued(scope: Scope, error: ProxyError) -> Ended:
    """The kept answer in place of ``error``, which is raised where another one has begun."""
    reply, outlet = scope.kept.reply, scope.kept.outlet
    if reply is None or outlet is None or outlet.begun:
        raise error
    await outlet.reply(reply)
    await outlet.flush()
    return Ended(scope.index, reply.finish_reason)


def _late(run: Run) -> ProxyError:
    if run.stopping:
        return ShuttingDown("The proxy is shutting down; try again.", retry_after=1.0)
    return DeadlineExceeded("The deadline passed before any answer was complete.")
