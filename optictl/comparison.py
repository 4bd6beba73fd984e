"""One question to several approaches side by side, and what there is to say of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from threading import Thread
from typing import TYPE_CHECKING, Any

from optictl.client import ProxyClient
from optictl.errors import OptictlError
from optictl.transcript import Transcript, summary

if TYPE_CHECKING:
    from rich.table import Table

Tell = Callable[[str], None]

_LONGEST_GLIMPSE = 60


class Attempt:
    """What one approach made of the question: its transcript, its seconds, its error if any."""

    def __init__(self, approach: str) -> None:
        self.approach = approach
        self.transcript = Transcript()
        self.seconds = 0.0
        self.error: OptictlError | None = OptictlError("it did not come to an end")

    def make(self, proxy: ProxyClient, body: Mapping[str, Any], tell: Tell | None) -> None:
        """Ask, and ``tell`` how it ended; what the proxy fails with is kept as `error`."""
        began = time.monotonic()
        try:
            with closing(proxy.stream({**body, "optillm_approach": self.approach})) as events:
                for event in events:
                    self.transcript.take(event)
        except OptictlError as error:
            self.error = error
        else:
            self.error = None
        self.seconds = time.monotonic() - began
        if tell is not None:
            tell(str(self))

    @property
    def name(self) -> str:
        """The approach, and what ran in its place: a prefix of the model's name goes before it."""
        ran = self.transcript.optillm.get("approach", self.approach)
        return self.approach if ran == self.approach else f"{self.approach} (ran {ran})"

    @property
    def text(self) -> str:
        """All that it said: the answer, or the reason why there is none behind what had arrived."""
        said = list(self.transcript.texts.values())
        if self.error is not None:
            said.append(f"failed: {self.error}")
        return "\n\n".join(said)

    def __str__(self) -> str:
        """One line: what it cost, or that it failed."""
        if self.error is not None:
            return f"{self.approach} · failed: {self.error.code} · {self.seconds:.2f} s"
        return summary(self.transcript.usage, self.transcript.optillm, self.seconds)

    def as_json(self) -> dict[str, Any]:
        error = self.error
        return {
            "approach": self.approach,
            **self.transcript.as_json(),
            "seconds": round(self.seconds, 3),
            "error": None if error is None else {"code": error.code, "message": str(error)},
        }


def compare(
    proxy: ProxyClient,
    body: Mapping[str, Any],
    approaches: Sequence[str],
    tell: Tell | None,
) -> list[Attempt]:
    """All of them at once, in their order; ``tell`` hears a line about each as it ends."""
    attempts = [Attempt(approach) for approach in approaches]
    # Daemons: whoever interrupts does not wait for answers that nobody will read.
    threads = [Thread(target=each.make, args=(proxy, body, tell), daemon=True) for each in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return attempts


def comparison(attempts: Sequence[Attempt]) -> Table:
    """A row each, with no more of an answer than fits."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("APPROACH", no_wrap=True, style="bold")
    table.add_column("ANSWER")
    for name in ("CALLS", "ROUNDS", "TOKENS", "TIME"):
        table.add_column(name, justify="right", no_wrap=True)
    for attempt in attempts:
        table.add_row(attempt.name, *_cells(attempt), f"{attempt.seconds:.2f} s")
    return table


def _cells(attempt: Attempt) -> Iterator[str]:
    if attempt.error is not None:
        yield from (f"failed: {attempt.error.code}", "–", "–", "–")
        return
    yield _glimpse(attempt.transcript.text)
    optillm, usage = attempt.transcript.optillm, attempt.transcript.usage
    for number in (optillm.get("calls"), optillm.get("rounds"), usage.get("total_tokens")):
        yield "–" if number is None else f"{number:,}"


def _glimpse(answer: str) -> str:
    """The end of an answer on one line: that is where reasoning has its result."""
    line = " ".join(answer.split())
    return line if len(line) <= _LONGEST_GLIMPSE else f"…{line[1 - _LONGEST_GLIMPSE :]}"
