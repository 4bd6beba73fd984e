"""What of a conversation the classifier reads: the question before all, never padded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.chat import Chat, text_of
from proxy.router.config import Unusable

#: Of each part of a conversation: more than the tokens that fit, so that 1 MB costs no more.
_CHARACTERS = 8192
_TURN = "\n\nUser: "
_NAMES = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation's text, each part no longer than the classifier can read."""

    query: str
    #: The turns before, the latest of them.
    history: str = ""
    #: The beginning of the instructions.
    system: str = ""


def question(chat: Chat) -> Question | None:
    """What ``chat`` asks; None where its last turn says nothing in words."""
    query = chat.query
    if not query.strip():
        return None
    if len(query) > _CHARACTERS:
        query = query[: _CHARACTERS // 2] + query[-_CHARACTERS // 2 :]
    return Question(_clean(query), _clean(_recent(chat)), _clean(chat.system[:_CHARACTERS]))


class Tokeniser:
    """Token ids of questions, by the ``tokenizer.json`` of the checkpoint.

    It is read by `tokenizers` itself, which is the same under transformers 4 and 5. Raises
    `Unusable` for a file that it cannot read.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"{file}: {error}") from None
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:
            # What the Rust code raises has no class of its own; all that has one is another matter.
            if type(error) is not Exception:
                raise
            raise Unusable(f"{file}: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        around = self._tokenizer.encode("").ids
        if len(around) != 2:
            raise Unusable(f"{file} puts no [CLS] and [SEP] around a text")
        self._first, self._last = around

    def encode(self, asked: Question, most: int) -> list[int]:
        """At most ``most`` ids: the question, then recent turns, then the head of the system's.

        A question alone is read as it is, which is what the classifier was trained on. Of one that
        is too long, beginning and end are kept: there it says what is wanted.
        """
        room = most - 2
        query = self._ids(asked.query)
        if len(query) > room:
            query = query[: (room + 1) // 2] + query[len(query) - room // 2 :]
        before = list(self._before(asked, room - len(query)))
        return [self._first, *before, *query, self._last]

    def _before(self, asked: Question, room: int) -> Iterator[int]:
        """System, turns and the mark of the question behind them, within ``room``."""
        turn = self._ids(_TURN)
        room -= len(turn)
        if room <= 0 or not (asked.history or asked.system):
            return
        history = self._ids(asked.history)[-room:]
        yield from self._ids(asked.system)[: room - len(history)]
        yield from history
        yield from turn

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _recent(chat: Chat) -> str:
    turns: list[str] = []
    length = 0
    for message in reversed(chat.history):
        name = _NAMES.get(message["role"])
        text = text_of(message.get("content"))
        if name is None or not text.strip():
            continue
        turns.append(f"\n\n{name}: {text[-_CHARACTERS:]}")
        length += len(turns[-1])
        if length >= _CHARACTERS:
            break
    return "".join(reversed(turns))[-_CHARACTERS:]


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no UTF-8 can say."""
    return text.encode("utf-8", "replace").decode()
