"""Chores that a chat client sends behind the user's back: titles, tags, follow-up questions.

Open WebUI asks the model in use for them, so a handle with an expensive approach would pay five
calls for a headline. What is recognised here runs on the base model as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.chat import Message, text_of

#: A client that can set headers names its task here.
HEADER = "x-optillm-task"

#: Open WebUI's prompts open with this heading and quote the chat behind another; the member that
#: they ask for in their JSON tells which chore it is (docs.openwebui.com, "Tasks").
_HEADING = "### Task:"
_QUOTED_CHAT = ("### Chat History", "<chat_history>")
_BY_MEMBER: Mapping[str, str] = {
    '"title"': "title_generation",
    '"tags"': "tags_generation",
    '"follow_ups"': "follow_up_generation",
    '"queries"': "query_generation",
    '"prompt"': "image_prompt_generation",
    '"text"': "autocomplete_generation",
}
_EMOJI = re.compile(r"\AYour task is to reflect the speaker'?s likely facial expression")
#: Enough to see what a prompt is.
_SEEN = 8000


def task_of(
    messages: Sequence[Message],
    params: Mapping[str, Any],
    header: str = "",
    patterns: Iterable[re.Pattern[str]] = (),
) -> str | None:
    """The name of the chore that a request is, or None for a request of the user's own.

    Told by the header, by ``metadata.task``, by the operator's ``patterns`` (searched in the only
    user turn), or by Open WebUI's prompts.
    """
    if header:
        return header[:64]
    metadata = params.get("metadata")
    named = metadata.get("task") if isinstance(metadata, Mapping) else None
    if isinstance(named, str) and named:
        return named[:64]
    turns = [message for message in messages if message["role"] not in ("system", "developer")]
    if len(turns) != 1 or turns[0]["role"] != "user":
        return None
    text = text_of(turns[0].get("content"))[:_SEEN].lstrip()
    if any(pattern.search(text) for pattern in patterns):
        return "task"
    return _open_webui(text)


def _open_webui(text: str) -> str | None:
    if _EMOJI.match(text):
        return "emoji_generation"
    if not text.startswith(_HEADING):
        return None
    ends = [at for mark in _QUOTED_CHAT if (at := text.find(mark)) >= 0]
    if not ends:
        return None
    # The quoted chat may hold any word; only what stands before it is the prompt's own.
    instructions = text[: min(ends)]
    named = (task for member, task in _BY_MEMBER.items() if member in instructions)
    return next(named, "task")
