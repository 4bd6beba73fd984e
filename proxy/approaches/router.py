"""Router: choose the approach by the request, then answer by it.

1. Read the request's features: tools and pictures, code, arithmetic, worked examples.
2. Run the approach that they speak for, with all that the request says; `none` where they say
   nothing.
"""

from __future__ import annotations

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Shape, approach
from proxy.router.features import decide


@approach(
    "router",
    shape=lambda _: Shape(calls=(1, 64), rounds=(1, 8)),
    handles={"tools", "parts", "formats"},
    use="Requests of all kinds behind one name.",
)
async def router(chat: Chat, llm: LLM) -> Reply:
    """Pick an approach for the request and answer by it."""
    slug = decide(chat)
    llm.note(f"router: {slug}")
    return await llm.run(slug, chat, tail=True)
