"""From the cheapest to the dearest way to tell which approach a request wants.

1. what only one approach may do is settled;
2. the request's own parts and words (`proxy.router.features`);
3. a later turn of a conversation stays with the approach of its earlier ones;
4. a question that was settled a while ago;
5. the small linear model (`proxy.router.linear`), where there is hardly a doubt;
6. the classifier, where it is ready, answers in time and is sure;
7. the linear model again, where it is sure by the same measure.

Where none of them knows, the approach ``router`` asks the models themselves (`Ladder.settle`).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from proxy.chat import Chat, text_of
from proxy.router import features, linear
from proxy.router.client import Decision, Router
from proxy.router.memory import Memory
from proxy.router.tokenise import Question, question

Source = Literal[
    "explicit", "features", "affinity", "cache", "linear", "classifier", "probe", "default"
]

#: From here on the linear model goes before the classifier, which knows more and takes longer.
_CERTAIN = 0.99
#: Characters of a conversation's beginning that tell it from others.
_BEGINNING = 8192


@dataclass(frozen=True, slots=True)
class Choice:
    """An approach for a request, what has chosen it, and how sure that is: a share of 1."""

    slug: str
    source: Source
    #: None where nothing spoke for it.
    confidence: float | None = None

    def __str__(self) -> str:
        """As the header ``x-optillm-router`` has it."""
        sure = "" if self.confidence is None else f"; confidence={self.confidence:.2f}"
        return f"{self.slug}; source={self.source}{sure}"

    def as_json(self) -> dict[str, Any]:
        sure = None if self.confidence is None else round(self.confidence, 4)
        return {"approach": self.slug, "source": self.source, "confidence": sure}


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat to be routed."""

    chat: Chat
    #: Which approaches can be had, the fallback first; never empty.
    allowed: tuple[str, ...]
    #: From 0, cheap, to 1, thorough.
    effort: float
    #: Whose request it is: what is remembered of one client is not told to another.
    tenant: str = ""


class Ladder:
    """One for each worker, used on its loop. Remembers a bounded number of choices."""

    def __init__(self, classifier: Router) -> None:
        self.classifier = classifier
        self._questions: Memory[Choice] = Memory()
        self._conversations: Memory[Choice] = Memory()

    async def choose(self, asked: Asked) -> Choice:
        """The approach for a chat; its source is ``default`` where no rung knows.

        Never raises, and waits for nothing but the classifier, which has its own limit.
        """
        chat, allowed = asked.chat, asked.allowed
        if len(allowed) == 1:
            return Choice(allowed[0], "explicit", 1.0)
        slug = features.decide(chat)
        if slug in allowed:
            choice = Choice(slug, "features", 1.0)
            if slug != "none":
                self._keep_to(asked, choice)
            return choice
        said = question(chat)
        if said is None:
            return Choice(allowed[0], "default")
        known = self._remembered(asked, said)
        if known is not None:
            return known
        return await self._learned(asked) or Choice(allowed[0], "default")

    def settle(self, asked: Asked, choice: Choice) -> None:
        """Remember ``choice`` for the same question, and for later turns of this conversation."""
        said = question(asked.chat)
        if said is not None:
            self._questions.put(_question_key(asked, said), choice)
            self._keep_to(asked, choice)

    def _keep_to(self, asked: Asked, choice: Choice) -> None:
        key = _conversation_key(asked)
        if self._conversations.get(key) is None:
            self._conversations.put(key, choice)

    def _remembered(self, asked: Asked, said: Question) -> Choice | None:
        if any(message["role"] == "user" for message in asked.chat.history):
            kept = self._conversations.get(_conversation_key(asked))
            if kept is not None and kept.slug in asked.allowed:
                return replace(kept, source="affinity")
        found = self._questions.get(_question_key(asked, said))
        return None if found is None else replace(found, source="cache")

    async def _learned(self, asked: Asked) -> Choice | None:
        shares = linear.shares(asked.chat) or {}
        small = Decision(shares, self.classifier.settings.min_confidence)
        sure = _sure(replace(small, threshold=_CERTAIN), asked.allowed, "linear")
        lasts = True
        if sure is None:
            large = await self.classifier.decide(asked.chat, asked.effort)
            sure = None if large is None else _sure(large, asked.allowed, "classifier")
            # One that is loading, or late, may be asked the next time.
            lasts = large is not None or self.classifier.state.phase == "absent"
        sure = sure or _sure(small, asked.allowed, "linear")
        if sure is not None and lasts:
            self.settle(asked, sure)
        return sure


def _sure(decision: Decision, allowed: Collection[str], source: Source) -> Choice | None:
    """What ``decision`` comes to among ``allowed``; None where that is not sure."""
    among = decision.among(allowed)
    if among is None or not among.sure:
        return None
    return Choice(among.label, source, among.confidence)


def _question_key(asked: Asked, said: Question) -> Hashable:
    words = " ".join(said.query.casefold().split())
    return asked.tenant, asked.allowed, asked.effort, _digest(words)


def _conversation_key(asked: Asked) -> Hashable:
    chat = asked.chat
    turns = (text_of(m.get("content")) for m in chat.messages if m["role"] == "user")
    first = next(turns, "")
    return asked.tenant, _digest(chat.system[:_BEGINNING]), _digest(first[:_BEGINNING])


def _digest(text: str) -> bytes:
    # Half a surrogate pair is no reason to refuse a request.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
