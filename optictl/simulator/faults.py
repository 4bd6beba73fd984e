"""What a simulated upstream can do wrong, and whose turn it is to do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

#: Statuses that answer at once, with OpenAI's error object.
STATUSES = frozenset({400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503})
#: Faults of a JSON answer, of a streamed one, and of both.
JSON_ONLY = frozenset({"truncated"})
STREAM_ONLY = frozenset({"stream_cut", "stream_error", "stream_reset"})
ALWAYS = frozenset(
    {
        "hang",
        "hang_after_headers",
        "reset",
        "malformed",
        "html",
        "no_choices",
        "no_usage",
        "null_content",
        "length",
        "slow_loris",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail, and for which calls.

    `kind` is a status (400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503) or one of

    ==================  =========================================================================
    hang                never answers, until the peer leaves
    hang_after_headers  sends the head, then nothing
    reset               TCP RST instead of an answer
    truncated           JSON only: closes before the promised Content-Length
    malformed           JSON (or an event) cut in the middle
    html                200 with a page instead of an answer
    no_choices          ``choices: []``
    no_usage            an answer without usage
    null_content        ``content: null``
    length              half the text, ``finish_reason: length``
    stream_cut          stream only: closes in the middle, without finish or ``[DONE]``
    stream_error        stream only: a ``data: {"error": …}`` event in the middle
    stream_reset        stream only: TCP RST in the middle
    slow_loris          the body byte by byte, one every `chunk_interval` (50 ms where that is 0)
    ==================  =========================================================================

    It strikes `times` calls (None: every one), each with `probability`, of that `model` and
    `role` only, where given. `retry_after`, seconds, is sent with statuses.
    """

    kind: int | str
    times: int | None = None
    probability: float = 1.0
    model: str | None = None
    role: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in STATUSES | JSON_ONLY | STREAM_ONLY | ALWAYS:
            raise ValueError(f"unknown fault {self.kind!r}")

    def fits(self, *, model: str, role: str, stream: bool) -> bool:
        """Whether it can strike such a call at all."""
        return (
            self.model in (None, model)
            and self.role in (None, role)
            and self.kind not in (JSON_ONLY if stream else STREAM_ONLY)
        )


class FaultQueue:
    """The faults of one behaviour and how often each may still strike; the first that fits does."""

    def __init__(self, faults: Sequence[Fault], seed: int = 0) -> None:
        self._faults = faults
        self._left = [fault.times for fault in faults]
        self._random = Random(seed)

    def take(self, *, model: str, role: str, stream: bool) -> Fault | None:
        """The fault of the next call, or None."""
        for i, fault in enumerate(self._faults):
            left = self._left[i]
            if left == 0 or not fault.fits(model=model, role=role, stream=stream):
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            if left is not None:
                self._left[i] = left - 1
            return fault
        return None
