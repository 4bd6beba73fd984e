"""What a streamed request has told so far, and what it comes to in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optictl.client import Called, Ended, Event, Noted, Said
from optictl.waterfall import Call


class Transcript:
    """Fed with a `ProxyClient.stream`'s events. ``calls`` may be read from other threads."""

    def __init__(self) -> None:
        self.calls: tuple[Call, ...] = ()
        self.notes: list[str] = []
        self.usage: Mapping[str, Any] = {}
        #: The ``optillm`` object, once the answer is complete.
        self.optillm: Mapping[str, Any] = {}
        self._texts: dict[int, str] = {}

    @property
    def texts(self) -> dict[int, str]:
        """What each choice has said, by its index."""
        return dict(sorted(self._texts.items()))

    @property
    def text(self) -> str:
        """The first choice that there is."""
        return next(iter(self.texts.values()), "")

    def as_json(self) -> dict[str, Any]:
        return {
            "answer": self.text,
            "choices": [{"index": index, "text": text} for index, text in self.texts.items()],
            "usage": self.usage,
            "optillm": self.optillm,
        }

    def take(self, event: Event) -> None:
        match event:
            case Called(call):
                self._enter(call)
            case Noted(text):
                self.notes.append(text)
            case Said(text, choice):
                self._texts[choice] = self._texts.get(choice, "") + text
            case Ended(usage, optillm):
                self.usage, self.optillm = usage, optillm
                self.calls = tuple(map(Call.of, optillm.get("trace", ())))

    def _enter(self, call: Call) -> None:
        """A beginning is appended; an end takes the place of its beginning."""
        calls = list(self.calls)
        for index, known in enumerate(calls):
            if known.end is None and call.end is not None and known.key == call.key:
                calls[index] = call
                break
        else:
            calls.append(call)
        self.calls = tuple(calls)


def summary(usage: Mapping[str, Any], optillm: Mapping[str, Any], seconds: float) -> str:
    """Approach, calls, rounds, tokens and time of a request, and what it had to do without."""
    tokens, told = usage.get("total_tokens", 0), usage.get("prompt_tokens", 0)
    facts = [
        str(optillm.get("approach", "none")),
        f"{_count(optillm.get('calls', 0), 'call')} in {_count(optillm.get('rounds', 0), 'round')}",
        f"{_count(tokens, 'token')} ({told:,} in, {tokens - told:,} out)",
        f"{seconds:.2f} s",
    ]
    if optillm.get("exhausted"):
        facts.append(f"cut short by {optillm['exhausted']}")
    if optillm.get("skipped"):
        facts.append(f"left out {'; '.join(optillm['skipped'])}")
    return " · ".join(facts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
