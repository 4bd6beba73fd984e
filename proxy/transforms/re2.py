"""Re-reading: the question, twice.

Xu, Tao, Shen, Xu, Xu, Long, Lou, Ma: Re-Reading Improves Reasoning in Large Language Models,
arXiv:2309.06275. The second pass lets a causal model read the question's beginning with its end
in view; the paper pairs it with a thought trigger, and finds twice better than more often.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Filter
from proxy.llm import LLM, transform

#: Characters (about 2,000 tokens) above which repeating costs more than it tells.
_LONG = 8000


@transform(
    "re2",
    paper="arXiv:2309.06275",
    handles={"tools", "formats"},
    use="Short questions with many conditions, in front of anything: re2&self_consistency.",
)
async def re2(
    chat: Chat,
    llm: LLM,
    *,
    trigger: Annotated[bool, "end with a prompt to think step by step"] = True,
) -> tuple[Chat, Filter | None]:
    """Have the model read the question a second time before it answers."""
    question = chat.query
    if not question or len(question) > _LONG:
        return chat, None
    twice = _TWICE.format(question=question)
    # A trigger would work against a response format.
    if trigger and not chat.formatted:
        twice = f"{twice}\n{_TRIGGER}"
    return chat.with_query(twice), None


_TWICE = """\
{question}
Read the question again: {question}"""

_TRIGGER = "Think it through step by step."
