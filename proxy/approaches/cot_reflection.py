"""Chain of thought with reflection: think, look again, answer, in one call.

No paper; a prompting pattern of September 2024. Huang et al. (arXiv:2310.01798) find that models
seldom correct themselves without outside feedback: expect the chain of thought to do the work.
"""

from __future__ import annotations

from typing import Annotated

from proxy.chat import Chat, Filter, Reply, without_thinking
from proxy.llm import LLM, Shape, approach


@approach(
    "cot_reflection",
    shape=lambda _: Shape(calls=1, rounds=1),
    aliases={"return_full_response": "full"},
    handles={"parts"},
    use="Models that do not reason by themselves, where a second call is too dear.",
)
async def cot_reflection(
    chat: Chat,
    llm: LLM,
    *,
    full: Annotated[bool, "show thinking and reflection too"] = False,
) -> Reply:
    """Ask for thinking, reflection and output in tags; the client sees the output."""
    through: Filter | None = None if full else OutputOnly()
    return await llm.final(chat.with_system(_TAGS).messages, through=through)


class OutputOnly:
    """Lets through what stands between ``<output>`` and ``</output>``.

    Where the tag never opens, the whole text without its thinking. White space at the edges of
    the output is dropped.
    """

    def __init__(self) -> None:
        self._seen = ""
        self._state = "before"
        self._begun = False

    def feed(self, text: str) -> str:
        if self._state == "after":
            return ""
        self._seen += text
        if self._state == "before":
            _, opened, rest = self._seen.partition(_OPEN)
            if not opened:
                return ""
            self._state, self._seen = "inside", rest
        output, closed, _ = self._seen.partition(_CLOSE)
        if closed:
            self._state, self._seen = "after", ""
            return self._trimmed(output.rstrip())
        # What may be the beginning of the closing tag, or white space in front of it, waits.
        safe = _safe_length(output)
        self._seen = output[safe:]
        return self._trimmed(output[:safe])

    def flush(self) -> str:
        rest, self._seen = self._seen, ""
        state, self._state = self._state, "after"
        return without_thinking(rest) if state == "before" else self._trimmed(rest.rstrip())

    def _trimmed(self, output: str) -> str:
        if not self._begun:
            output = output.lstrip()
            self._begun = bool(output)
        return output


def _safe_length(output: str) -> int:
    """How much of ``output`` cannot be part of the closing tag or of white space before it."""
    tag = output.rfind("<")
    if tag >= 0 and _CLOSE.startswith(output[tag:]):
        output = output[:tag]
    return len(output.rstrip())


_OPEN = "<output>"
_CLOSE = "</output>"

_TAGS = """\
Work in three parts, each in its own tags:
<thinking>
Reason about the request step by step.
</thinking>
<reflection>
Check that reasoning: look for mistakes, gaps and unread conditions, and mend them.
</reflection>
<output>
The complete answer for the reader, who sees only this part.
</output>
Always close the tags, and put nothing outside them."""
