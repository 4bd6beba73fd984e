"""What an approach reads and writes: `Chat`, `Reply`, `Filter`.

Messages are the client's own JSON objects and are never rebuilt: roles, content parts, tool calls
and vendor members stay as they came. Views give algorithms the text they want.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

#: One chat message as JSON: ``{"role": ..., "content": str | list[part] | None, ...}``.
Message = Mapping[str, Any]

_INSTRUCTORS = ("system", "developer")


class Filter(Protocol):
    """Rewrites an answer's text as it flows to the client, in pieces of any size.

    ``"".join(map(feed, pieces)) + flush()`` must not depend on where the pieces were cut, so that
    one filter serves a stream and a JSON body alike.
    """

    def feed(self, text: str) -> str: ...

    def flush(self) -> str: ...


def filtered(text: str, through: Filter | None) -> str:
    """``text`` passed whole through a fresh filter."""
    return text if through is None else through.feed(text) + through.flush()


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or its text parts joined by newlines."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def without_thinking(text: str) -> str:
    """What ``text`` says behind its last ``</think>``; the opening tag is often missing."""
    return text.rpartition("</think>")[2].strip()


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a model: the upstream's message, untouched, and what surrounds it.

    ``model`` is the name the call was made with, so that a judge can be kept from judging itself.
    """

    message: Message
    finish_reason: str = "stop"
    model: str = ""
    usage: Mapping[str, Any] | None = None
    logprobs: Any = None

    @classmethod
    def of(cls, text: str, *, model: str = "", finish_reason: str = "stop") -> Reply:
        """A reply that an approach wrote itself."""
        message = {"role": "assistant", "content": text}
        return cls(message=message, finish_reason=finish_reason, model=model)

    @property
    def text(self) -> str:
        return text_of(self.message.get("content"))

    @property
    def tool_calls(self) -> Sequence[Mapping[str, Any]]:
        """The calls it makes, one in the older ``function_call`` among them."""
        older = self.message.get("function_call")
        return self.message.get("tool_calls") or ([{"function": older}] if older else ())

    @property
    def rendered(self) -> str:
        """The reply as text that another prompt can quote: tool calls are written out as JSON."""
        calls = [call.get("function", call) for call in self.tool_calls]
        rendered = [orjson.dumps(call).decode() for call in calls]
        text = without_thinking(self.text)
        return "\n".join([text, *rendered] if text else rendered)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def empty(self) -> bool:
        return not self.text.strip() and not self.tool_calls

    def with_text(self, text: str) -> Reply:
        """The same reply saying ``text``."""
        return replace(self, message={**self.message, "content": text})


@dataclass(frozen=True, slots=True)
class Chat:
    """The conversation as the client sent it.

    ``params`` are the client's sampling and shape parameters; ``undrafted`` are the messages as
    they were before ``draft`` was put behind them.
    """

    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    draft: Reply | None = None
    undrafted: tuple[Message, ...] | None = None

    @property
    def system(self) -> str:
        """The text of all system and developer messages."""
        texts = (text_of(m.get("content")) for m in self.messages if m["role"] in _INSTRUCTORS)
        return "\n\n".join(text for text in texts if text)

    @property
    def query(self) -> str:
        """The text of the client's last user turn, without a draft behind it."""
        last = self._last_user()
        return "" if last is None else text_of(self._own[last].get("content"))

    @property
    def history(self) -> tuple[Message, ...]:
        """The turns before the last user turn, without system messages."""
        last = self._last_user()
        before = self._own if last is None else self._own[:last]
        return tuple(m for m in before if m["role"] not in _INSTRUCTORS)

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        return self.params.get("tools") or self.params.get("functions") or ()

    @property
    def uses_tools(self) -> bool:
        """Whether tools are offered or have already been called in this conversation."""
        return bool(self.tools) or any(
            m["role"] in ("tool", "function") or m.get("tool_calls") for m in self.messages
        )

    @property
    def has_parts(self) -> bool:
        """Whether any turn carries something other than text: an image, audio, a file."""
        return any(
            isinstance(part, Mapping) and part.get("type") not in ("text", "refusal")
            for message in self.messages
            if isinstance(message.get("content"), list)
            for part in message["content"]
        )

    @property
    def formatted(self) -> bool:
        """Whether the answer must be JSON."""
        wanted = self.params.get("response_format")
        return isinstance(wanted, Mapping) and wanted.get("type") not in (None, "text")

    def with_system(self, text: str) -> Chat:
        """``text`` behind the client's first system message, or as one where there is none."""
        return self._saying(_with_system(self._own, text))

    def with_query(self, text: str) -> Chat:
        """The last user turn saying ``text`` instead; a draft and parts that are no text stay."""
        last = self._last_user()
        if last is None:
            raise ValueError("a chat without a user turn has no query to replace")
        message = self._own[last]
        content = message.get("content")
        said: Any = text
        if isinstance(content, list):
            others = [part for part in content if part.get("type") != "text"]
            said = [{"type": "text", "text": text}, *others]
        changed = {**message, "content": said}
        return self._saying((*self._own[:last], changed, *self._own[last + 1 :]))

    def with_draft(self, reply: Reply) -> Chat:
        """The same conversation with an earlier answer in ``<draft>`` tags behind the last turn.

        It takes the place of an earlier draft, which it was made from.
        """
        text = _DRAFT.format(draft=reply.rendered)
        return replace(
            self, messages=_followed_by(self._own, text), draft=reply, undrafted=self._own
        )

    def followed_by(self, text: str, *, first: str | None = None) -> tuple[Message, ...]:
        """The messages with ``text`` at the end of the last user turn: what helpers are asked.

        The conversation stays in front, byte for byte, so that an upstream's prefix cache serves
        every stage. ``first`` becomes the opening system message, with the client's own
        instructions quoted behind it: strict chat templates accept one system message, in front.
        """
        messages = _followed_by(self.messages, text)
        if first is None:
            return messages
        said = self.system
        opening = first if not said else f"{first}\n\n{_INSTRUCTIONS.format(system=said)}"
        rest = (m for m in messages if m["role"] not in _INSTRUCTORS)
        return ({"role": "system", "content": opening}, *rest)

    @property
    def _own(self) -> tuple[Message, ...]:
        return self.messages if self.undrafted is None else self.undrafted

    def _saying(self, messages: tuple[Message, ...]) -> Chat:
        """The chat with other messages, its draft behind them."""
        chat = replace(self, messages=messages, draft=None, undrafted=None)
        return chat if self.draft is None else chat.with_draft(self.draft)

    def _last_user(self) -> int | None:
        for index in range(len(self._own) - 1, -1, -1):
            if self._own[index]["role"] == "user":
                return index
        return None


def _appended(content: Any, text: str) -> Any:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return f"{text_of(content)}\n\n{text}" if content else text


def _followed_by(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if messages and messages[-1]["role"] == "user":
        *before, last = messages
        return (*before, {**last, "content": _appended(last.get("content"), text)})
    return (*messages, {"role": "user", "content": text})


def _with_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if messages and messages[0]["role"] in _INSTRUCTORS:
        first, *rest = messages
        return ({**first, "content": _appended(first.get("content"), text)}, *rest)
    return ({"role": "system", "content": text}, *messages)


_DRAFT = """\
An earlier attempt at this is given below. It may be right or wrong: use what holds, mend what \
does not, and answer the request above in full.

<draft>
{draft}
</draft>"""

_INSTRUCTIONS = """\
The assistant works under these instructions:
<instructions>
{system}
</instructions>"""
