"""Chain of thought with reflection: think, look again, answer, in one call.

No paper; a prompting pattern of September 2024. Huang et al. (arXiv:2310.01798) find that models
seldom correct themselves without outside feedback: expect the chain of thought to do the work.
"""

from __future__ import annotations

import re
from typing import Annotated

from proxy.chat import Chat, Filter, Reply, without_thinking
from proxy.llm import LLM, Shape, approach


@approach(
    "cot_reflection",
    shape=lambda _: Shape(calls=1, rounds=1),
    aliases={"return_full_response": "full"},
    handles={"parts"},
    use="Models that do not reason by themselves, where a second call is too dear.",
    roles=lambda _: ("aggregator",),
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

    A tag that is only mentioned inside thinking or reflection opens nothing. Where none opens, the
    whole text without its thinking. White space at the edges of the output is dropped.
    """

    def __init__(self) -> None:
        self._seen = ""
        self._searched = 0
        self._state = "before"
        self._begun = False

    def feed(self, text: str) -> str:
        if self._state == "after":
            return ""
        self._seen += text
        if self._state == "before" and not self._opens():
            return ""
        output, closed, _ = self._seen.partition(_CLOSE)
        if closed:
            self._state, self._seen = "after", ""
            return self._trimmed(output.rstrip())
        # What may be the beginning of the closing tag, or white space in front of it, waits.
        safe = _safe_length(output)
        self._seen = output[safe:]
        return self._trimmed(output[:safe])

    def flush(self) -> str:
        # What still waits inside the output is white space or a piece of the closing tag.
        rest = self._seen if self._state == "before" else ""
        self._seen, self._state = "", "after"
        return _without_work(rest)

    def _opens(self) -> bool:
        """Whether the output has begun; if so, only what follows its tag is kept."""
        tag = self._seen.find(_OPEN, self._searched)
        while tag >= 0 and _at_work(self._seen[:tag]):
            self._searched = tag + 1
            tag = self._seen.find(_OPEN, self._searched)
        if tag < 0:
            self._searched = max(self._searched, len(self._seen) - len(_OPEN) + 1)
            return False
        self._state, self._seen = "inside", self._seen[tag + len(_OPEN) :]
        return True

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


def _at_work(text: str) -> bool:
    """Whether ``text`` ends inside thinking or reflection."""
    return any(text.count(f"<{tag}>") > text.count(f"</{tag}>") for tag in _WORK)


def _without_work(text: str) -> str:
    """What a text says that never opens its output as it should."""
    last = text.rpartition(_OPEN)[2]
    if _CLOSE in last:
        text = last.partition(_CLOSE)[0]
    text = without_thinking(text)
    return _CLOSED_WORK.sub("", text).strip() or text


_WORK = ("think", "thinking", "reflection")
_CLOSED_WORK = re.compile(r"<(thinking|reflection)>.*?</\1>", re.DOTALL)
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
