"""What of a conversation the classifier reads: the question before all, never padded."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
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
        read = self._in_turn(asked, room) or self._ids(asked.query)
        if len(read) > room:
            read = read[: (room + 1) // 2] + read[len(read) - room // 2 :]
        return [self._first, *read, self._last]

    def _in_turn(self, asked: Question, room: int) -> list[int]:
        """The question behind what fits of system and turns; empty where nothing does.

        All of it is one text: a token may reach over a seam, and is of the part in which it ends.
        """
        parts = (asked.system, asked.history, _TURN, asked.query)
        if not (asked.system or asked.history):
            return []
        found = self._tokenizer.encode("".join(parts), add_special_tokens=False)
        ends = [end for _, end in found.offsets]
        seams = [bisect_right(ends, at) for at in accumulate(map(len, parts), initial=0)]
        system, history, turn, query = (found.ids[a:b] for a, b in pairwise(seams))
        room -= len(turn) + len(query)
        if room <= 0:
            return []
        history = history[-room:]
        return [*system[: room - len(history)], *history, *turn, *query]

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
