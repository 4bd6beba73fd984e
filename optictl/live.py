"""A request's waterfall on the terminal behind stderr, growing while the calls run."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from optictl.console import say, talk_terminal
from optictl.transcript import Transcript
from optictl.waterfall import CROSS, LOST, STREAMING, WAITING, waterfall

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_WIDEST = 120
_FRAMES = 12


class LiveWaterfall:
    """Draws ``transcript`` from entry to `stop`, then leaves no trace.

    Where it is ``hidden``, or stderr is no terminal, it draws nothing. It has to stop before
    anything else is written to the terminal.
    """

    def __init__(self, transcript: Transcript, *, hidden: bool = False) -> None:
        self._transcript = transcript
        self._terminal = None if hidden else talk_terminal()
        self._live: Live | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._terminal is not None:
            from rich.live import Live

            self._began = time.monotonic()
            self._live = Live(
                console=self._terminal,
                get_renderable=self._frame,
                refresh_per_second=_FRAMES,
                transient=True,
                # What stands on stdout is the answer: it goes where it was sent.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _frame(self) -> Text:
        assert self._terminal is not None
        now = time.monotonic() - self._began
        lines = waterfall(self._transcript.calls, width=_width(self._terminal), now=now)
        return painted(lines or ["waiting for the proxy …"])


def show_waterfall(transcript: Transcript) -> None:
    """The finished waterfall and what was noted meanwhile, on stderr."""
    terminal = talk_terminal()
    if terminal is None:
        for line in waterfall(transcript.calls):
            say(line)
    elif transcript.calls:
        lines = waterfall(transcript.calls, width=_width(terminal))
        terminal.print("", painted(lines), sep="\n")
    for note in transcript.notes:
        say(note)


def painted(lines: list[str]) -> Text:
    """A waterfall in colour."""
    from rich.text import Text

    text = Text("\n".join(lines), no_wrap=True, overflow="crop")
    text.highlight_regex(f"{WAITING}+", "cyan")
    text.highlight_regex(f"{STREAMING}+", "green")
    text.highlight_regex(f"{LOST}*{CROSS}|cancelled", "yellow")
    text.stylize("dim", 0, len(lines[0]))
    return text


def _width(terminal: Console) -> int:
    return min(terminal.width, _WIDEST)
