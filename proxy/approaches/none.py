"""No approach: one call."""

from __future__ import annotations

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Shape, approach


@approach(
    "none",
    shape=lambda _: Shape(calls=1, rounds=1),
    handles={"tools", "parts", "formats"},
    use="To reach the base model as it is.",
    roles=lambda _: ("aggregator",),
)
async def none(chat: Chat, llm: LLM) -> Reply:
    """Pass the conversation to the model and its answer back."""
    return await llm.final(chat.messages)
