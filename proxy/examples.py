"""Examples that a conversation gives of its task: questions with their right answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from proxy.chat import Chat, Message, text_of

#: Longer answers are essays, which cannot be right or wrong.
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Examples:
    """Question and answer pairs, and the instructions in front of them."""

    pairs: tuple[tuple[str, str], ...]
    preamble: str = ""

    def asked(self, question: str) -> str:
        """``question`` as the client would put it, without the examples."""
        return f"{self.preamble}\n\n{question}" if self.preamble else question


def find_examples(chat: Chat) -> Examples | None:
    """The examples that can be told without a model; None where there are none.

    Labelled pairs in the last user turn (``Q:`` and ``A:``, ``Input:`` and ``Output:``, in several
    languages), two or more lines ``this -> that`` in it, or at least two earlier user turns and
    what the assistant answered.
    """
    return labelled(chat.query) or _arrows(chat.query) or _turns(chat.history)


def labelled(text: str) -> Examples | None:
    """The labelled pairs of ``text``, in order."""
    labels = list(_LABEL.finditer(text))
    if not labels:
        return None
    ends = [label.start() for label in labels[1:]] + [len(text)]
    pairs = []
    question = ""
    for label, end in zip(labels, ends, strict=True):
        said = text[label.end() : end].strip()
        if label["question"]:
            question = said
            continue
        if end == len(text):
            # What follows the last answer's paragraph is the question to be answered.
            said = said.partition("\n\n")[0].strip()
        pairs.append((question, _HEADING.sub("", said)))
        question = ""
    return _examples(pairs, text[: labels[0].start()])


def hints_at_examples(chat: Chat) -> bool:
    """Whether the prompt speaks of examples, though in a form that cannot be told locally."""
    return bool(_HINT.search(chat.query))


def _arrows(text: str) -> Examples | None:
    lines = list(_ARROW.finditer(text))
    if len(lines) < 2:
        return None
    return _examples(((line[1], line[2]) for line in lines), text[: lines[0].start()])


def _turns(history: Sequence[Message]) -> Examples | None:
    """Earlier turns; a single exchange is a conversation rather than an example."""
    pairs = [
        (text_of(asked.get("content")), text_of(answered.get("content")))
        for asked, answered in pairwise(history)
        if (asked["role"], answered["role"]) == ("user", "assistant")
    ]
    return _examples(pairs, "") if len(pairs) > 1 else None


def _examples(pairs: Iterable[tuple[str, str]], preamble: str) -> Examples | None:
    told = tuple(
        (question.strip(), answer.strip())
        for question, answer in pairs
        if question.strip() and 0 < len(answer.strip()) <= _LONGEST
    )
    return Examples(told, preamble.strip()) if told else None


_LABEL = re.compile(
    r"""
    ^[ \t>*_\#-]{0,8} (?:\d{1,3}[.)][ \t])? (?:example\s\d{1,3}[ \t]*[-:.][ \t]*)?
    (?: (?P<question> q | questions? | inputs? | problem | frage | eingabe | aufgabe | pregunta
          | entrada | entrée | domanda | pergunta | вопрос | ввод
          | 问题 | 問題 | 问 | 問 | 输入 | 入力 )
      | (?P<answer> a | answers? | outputs? | solution | antwort | ausgabe | lösung | respuesta
          | salida | réponse | sortie | risposta | resposta | ответ | вывод
          | 答案 | 答え | 答 | 输出 | 出力 ) )
    [ \t]? \d{0,3} [*_]{0,3} [ \t]? [:：] [*_]{0,3}
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
#: "Example 2:" between the answer of one example and the question of the next.
_HEADING = re.compile(r"\n[^\n:：]{0,40}\d{1,3}[*_ \t]{0,4}[:：][*_ \t]{0,4}$")
_ARROW = re.compile(
    r"^[ \t>*-]{0,8}(\S.{0,399}?)[ \t](?:->|=>|→|⇒)[ \t](\S.{0,399})$", re.MULTILINE
)
_HINT = re.compile(
    r"\b(?:examples?|e\.g\.|for instance|few-shot|beispiele?|z\. ?b\.|exemples?|ejemplos?"
    r"|esempio|esempi|exemplos?|пример\w{0,3})(?!\w)|例|样例",
    re.IGNORECASE,
)
